"""The section `executor`: names, settings, and mistakes."""

from __future__ import annotations

import pytest
from configurations import SEARCH, mistakes

from autodistill.config import AutoDistillationConfig
from autodistill.config.executor import ExecutorConfig


def load(executor):
    return AutoDistillationConfig.load({"search": SEARCH, "executor": executor})


@pytest.mark.parametrize("name", ["serial", "processes", "ray"])
def test_name_stands_for_the_default_settings(name):
    assert load(name).executor == load({"name": name}).executor == ExecutorConfig(name=name)


def test_without_the_section_there_is_none():
    assert AutoDistillationConfig.load({"search": SEARCH}).executor is None


def test_settings_are_kept_and_written_back():
    ray = {"name": "ray", "workers": 8, "num_gpus": 0.5, "resources": {"fast": 1}, "runtime_env": {"pip": ["datasets"]}}
    config = load(ray)
    assert config.executor.runtime_env == {"pip": ["datasets"]}
    assert AutoDistillationConfig.load(config.to_dict()) == config


@pytest.mark.parametrize(
    ("executor", "sentence"),
    [
        ("threads", "executor.name: Input should be 'serial', 'processes' or 'ray', but got 'threads'"),
        (3, "executor: must be 'serial', 'processes', 'ray', or a mapping with this name, but is 3"),
        (
            {"name": "processes", "workers": 0},
            "executor.workers: Input should be greater than or equal to 1, but got 0",
        ),
        ({"name": "serial", "workers": 2}, "serial trials run one at a time; leave workers out, or choose processes."),
        ({"name": "processes", "num_gpus": 1}, "num_gpus belongs to ray, but the executor is processes; leave it out."),
        ({"name": "ray", "threads": 1}, "threads belongs to processes, but the executor is ray; leave it out."),
        ({"name": "ray", "num_cpus": -1}, "executor.num_cpus: Input should be greater than or equal to 0, but got -1"),
    ],
)
def test_mistake_is_named(executor, sentence):
    (found,) = mistakes({"search": SEARCH, "executor": executor})
    assert sentence in found


def test_all_mistakes_are_in_one_error():
    found = mistakes({"search": SEARCH, "executor": {"name": "serial", "workers": 2, "threads": 1, "num_gpus": 1}})
    assert len(found) == 3
