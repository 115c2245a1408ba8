"""The commands `finish` and `limit`, and the other commands in a search with an elastic student."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from commands import configure, run
from saved_teachers import write_csv

from autodistill import ConfigurationError, SearchResult, SearchSpaceError, TrialState
from autodistill.cli.finish import parse_architecture, parse_limits
from search_spaces import FloatRange, SearchSpace

SPACE = SearchSpace({"size": [2, 4], "rate": FloatRange(0.001, 0.1), "kind": ["2", "relu"], "stages": [[1, 2], [2, 2]]})
SEARCH = ("search.yaml", "--search-dir", "runs")


@pytest.fixture
def configured(classifier):
    """The file of a search with an elastic student, of which two trials are run."""
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    settings = config["auto_distillation"]
    del settings["flash_distillation"]
    settings["elastic"] = {"train_steps": 3}
    settings["search"]["search_space"] = {
        "hidden_size": [8, 16],
        "num_attention_heads": [1, 2],
        "num_hidden_layers": [1, 2],
        "intermediate_size": [8, 16],
    }
    settings["search"]["constraints"] = ["hidden_size == 8 * num_attention_heads"]
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    return config


def sizes(width, layers, neurons):
    values = {
        "hidden_size": width,
        "num_attention_heads": width // 8,
        "num_hidden_layers": layers,
        "intermediate_size": neurons,
    }
    return [word for name, value in values.items() for word in ("--set", f"{name}={value}")]


def complete():
    return [trial for trial in SearchResult.load("runs") if trial.state is TrialState.COMPLETE]


def test_architecture_of_texts_has_the_values_of_the_space():
    texts = ["size=2", "rate=1e-3", "kind=2", "stages=[1, 2]"]
    assert parse_architecture(texts, SPACE) == {"size": 2, "rate": 0.001, "kind": "2", "stages": (1, 2)}
    assert parse_architecture(["size=4.0", "rate=0.1", "kind=relu", "stages=[2,2]"], SPACE)["size"] == 4


def test_all_mistakes_of_an_architecture_are_in_one_error():
    with pytest.raises(ConfigurationError) as caught:
        parse_architecture(["size", "=3", "kind=relu", "kind=2"], SPACE)
    assert len(caught.value.problems) == 3
    assert "as in hidden_size=128, but got 'size'; write NAME=VALUE." in str(caught.value)
    assert "but kind is there twice; leave one of them out." in str(caught.value)
    with pytest.raises(SearchSpaceError) as wrong:
        parse_architecture(["size=3", "sizes=2", "rate=x", "kind=relu"], SPACE)
    assert all(name in str(wrong.value) for name in ("size", "sizes", "rate", "stages"))


def test_limits_are_numbers_by_metric():
    assert parse_limits(["latency=5", "accuracy=9e-1"]) == {"latency": 5.0, "accuracy": 0.9}
    with pytest.raises(ConfigurationError) as caught:
        parse_limits(["latency=fast", "accuracy", "a=1", "a=2"])
    assert len(caught.value.problems) == 3
    assert "but got latency=fast; write the number after the equals sign." in str(caught.value)
    with pytest.raises(ConfigurationError, match=r"but got train_steps=100; set the numbers by --trials"):
        parse_limits(["train_steps=100", "latency=5"])


def test_search_with_an_elastic_student_is_finished_limited_and_exported(configured):
    for dry in (run("explain", "search.yaml"), run("search", *SEARCH, "--dry-run")):
        assert "distillation of the elastic student" in dry
    assert "the elastic student trains for" in run("search", *SEARCH)
    first, paused = SearchResult.load("runs").completed[0], SearchResult.load("runs").paused
    assert len(paused) == 1
    assert "paused in the first rung" in run("search", *SEARCH, "--trials", 1)
    assert "distillation of the elastic student" not in run("search", *SEARCH, "--dry-run")  # it is trained
    assert "is in order" in run("doctor", "runs")
    shown = run("finish", *SEARCH, *sizes(8, 1, 8), "--train-steps", 2, "--no-progress")
    assert "complete" in shown
    assert "hidden_size=8, intermediate_size=8, num_attention_heads=1, num_hidden_layers=1" in shown
    (chosen,) = (trial for trial in complete() if trial.details.get("chosen"))
    assert f"--trial {chosen.number}" in shown
    run("export", "runs", "exported", "--trial", chosen.number)
    limited = run("limit", *SEARCH, "parameters=100000", "--trials", 1, "--no-progress")
    assert "complete" in limited
    assert first.number in {trial.number for trial in complete()}
    assert "first rung" in run("trials", "--help")


def test_mistakes_end_with_2_before_anything_runs(configured):
    refused = run("finish", *SEARCH, "--set", "hidden_size=9", "--no-progress", code=2)
    assert "hidden_size" in refused
    assert "num_hidden_layers" in refused
    assert "but 'speed' is not in" in run("limit", *SEARCH, "speed=3", "--no-progress", code=2)
    assert "relax them" in run("limit", *SEARCH, "parameters=1", "--trials", 1, "--no-progress", code=2)
    config = dict(configured)
    config["auto_distillation"] = {**config["auto_distillation"], "flash_distillation": {"train_steps": 2}}
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    assert "takes the place of flash distillation" in run("search", "search.yaml", "--search-dir", "new", code=2)
