"""Which executor is chosen, and what prevents its use."""

from __future__ import annotations

import importlib.util
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

import pytest
import torch

from autodistill import ConfigurationError
from autodistill.config.executor import ExecutorConfig
from autodistill.scaling import SERIAL, chosen_executor, executor_problems, opened, visible_devices
from autodistill.search.engines import GivenExecutor
from autodistill.search.executors import SerialExecutor


class Own:
    """An executor that does not report how many calls it runs at the same time."""

    def submit(self, function, *args):
        raise NotImplementedError


CONFIGURED = ExecutorConfig(name="ray", workers=3)


@pytest.mark.parametrize(
    ("given", "workers", "configured", "chosen"),
    [
        (None, None, None, SERIAL),
        (None, 1, None, SERIAL.with_changes(workers=1)),
        (None, 2, None, ExecutorConfig(name="processes", workers=2)),
        (None, None, CONFIGURED, CONFIGURED),
        (None, 5, CONFIGURED, CONFIGURED.with_changes(workers=5)),
        ("processes", 2, CONFIGURED, ExecutorConfig(name="processes", workers=2)),
        ({"name": "ray", "num_cpus": 2}, None, None, ExecutorConfig(name="ray", num_cpus=2)),
        (CONFIGURED, None, None, CONFIGURED),
    ],
)
def test_argument_comes_before_the_configuration(given, workers, configured, chosen):
    assert chosen_executor(given, workers, configured) == chosen


def test_executor_of_the_user_keeps_its_number_of_workers_unless_told():
    with ProcessPoolExecutor(3) as pool:
        assert chosen_executor(pool, None, CONFIGURED).slots == 3
        assert chosen_executor(pool, 2, None).slots == 2
    own = Own()
    assert chosen_executor(own, 4, None) == GivenExecutor(own, 4)


@pytest.mark.parametrize(
    ("given", "workers", "sentence"),
    [
        ("cluster", None, "name: Input should be 'serial', 'processes' or 'ray', but got 'cluster'"),
        (4, None, "an object with submit as in concurrent.futures.Executor, but got 4"),
        (None, 0, "workers must be a whole number of at least 1, but got 0."),
        (None, True, "workers must be a whole number of at least 1, but got True."),
        ("serial", 2, "serial trials run one at a time"),
        (Own(), None, "but it is missing, and Own does not report it; pass workers."),
        (ThreadPoolExecutor(1), 1, "got a ThreadPoolExecutor; take executor='processes'."),
    ],
)
def test_mistake_is_named(given, workers, sentence):
    with pytest.raises(ConfigurationError) as error:
        chosen_executor(given, workers, None)
    (problem,) = error.value.problems
    assert sentence in problem


def test_parallel_trials_and_several_processes_for_each_are_refused_together():
    assert executor_problems(SERIAL, process_count=2) == []
    for chosen in (ExecutorConfig(name="processes"), GivenExecutor(Own(), 2)):
        (problem,) = executor_problems(chosen, process_count=2)
        assert "or 2 processes train each student together, but not both" in problem


def test_missing_ray_is_one_line_with_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = executor_problems(ExecutorConfig(name="ray"), process_count=1)
    assert problem.endswith('pip install "autodistill-nas[ray]"')
    assert "\n" not in problem
    assert executor_problems(ExecutorConfig(name="processes"), process_count=1) == []


def test_serial_executor_runs_in_this_process():
    for settings in (SERIAL, SERIAL.with_changes(workers=1)):
        with opened(settings, torch.device("cpu"), None) as executor:
            assert isinstance(executor, SerialExecutor)


def test_executor_of_the_user_stays_open():
    with ProcessPoolExecutor(1) as pool:
        with opened(chosen_executor(pool, None, None), torch.device("cpu"), None) as executor:
            assert executor.slots == 1
        assert pool.submit(max, 1, 2).result() == 2


def test_workers_take_the_visible_gpus_in_turns(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert visible_devices(torch.device("cuda")) == ["0", "1"]
    assert visible_devices(torch.device("cuda", 1)) == ["1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    assert visible_devices(torch.device("cuda")) == ["5", "7"]
    assert visible_devices(torch.device("cuda", 1)) == ["7"]
    assert visible_devices(torch.device("cpu")) == []
