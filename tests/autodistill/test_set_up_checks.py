"""The problems of a search that are reported before a trial runs."""

from __future__ import annotations

import pytest
from torch import nn
from toy_search import make_config, make_search
from width_search import search

from autodistill import AutoDistillation, ConfigurationError
from autodistill.config import AutoDistillationConfig
from autodistill.set_up_checks import (
    count_problems,
    finish_problems,
    folder_problems,
    limit_problems,
    size_problems,
    slice_problems,
)


def test_a_path_without_a_search_is_refused_as_history(tmp_path):
    agent = search(tmp_path / "second", history_from=[tmp_path / "nothing"])
    agent.enqueue_trial({"width": 3})
    with pytest.raises(ConfigurationError, match=r"directories of earlier searches, but .*nothing holds none"):
        agent.search_loop()  # before anything runs
    assert len(agent.search_result) == 0
    for history in (str(tmp_path), tmp_path, [3]):
        with pytest.raises(ConfigurationError, match="history_from must be a list of search directories, but got"):
            search(tmp_path / "second", history_from=history)


def test_all_wrong_limits_are_named_in_one_error(tmp_path):
    agent = search(tmp_path)
    for wrong in ({"n_trials": -1, "timeout": -1, "patience": 0}, {"n_trials": 1.5, "timeout": "3", "patience": "3"}):
        with pytest.raises(ConfigurationError) as error:
            agent.search_loop(**wrong)
        assert f"n_trials must be a whole number of at least 0, but got {wrong['n_trials']!r}." in str(error.value)
        assert f"timeout must be a number of seconds, zero or more, but got {wrong['timeout']!r}." in str(error.value)
        assert f"patience must be a whole number of at least 1, but got {wrong['patience']!r}." in str(error.value)
    with pytest.raises(ConfigurationError, match="timeout must be a number of seconds, zero or more, but got nan"):
        agent.search_loop(timeout=float("nan"))
    assert len(agent.search_result) == 0


def test_all_missing_parts_are_named_in_one_error(tmp_path):
    search = make_search(
        tmp_path / "search",
        make_config(metrics=["accuracy", "speedup"]),
        teacher_model=None,
        train_dataloader=None,
        eval_func=None,
    )
    with pytest.raises(ConfigurationError) as caught:
        search.search_loop()
    assert len(caught.value.problems) == 5
    assert not (tmp_path / "search").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"keep": "best"}, "keep must be one of 'pareto', 'all', 'none', but got 'best'"),
        ({"max_consecutive_failures": 0}, "max_consecutive_failures must be a whole number of at least 1, but got 0"),
        ({"max_retries": "3"}, "max_retries must be a whole number of at least 0, but got '3'"),
        ({"teacher_cache_gb": -1}, "teacher_cache_gb must be a finite size in GiB, zero or more, but got -1"),
        ({"teacher_cache": 3}, "teacher_cache must be the path of a directory, but got 3"),
        ({"teacher_cache": __file__}, f"teacher_cache must be a directory, but {__file__} is a file"),
        ({"callbacks": print}, "callbacks must be a list of functions"),
        ({"teacher_model": "bert"}, "teacher_model must be an nn.Module or a function that loads one, but got 'bert'"),
        ({"eval_func": 0.5}, "eval_func must be a function, but got 0.5"),
    ],
)
def test_an_argument_of_the_wrong_kind_is_refused_by_the_constructor(tmp_path, arguments, sentence):
    with pytest.raises(ConfigurationError) as caught:
        make_search(tmp_path / "search", **arguments)
    assert sentence in str(caught.value)


def test_a_search_without_metrics_is_refused_before_anything_runs(tmp_path):
    search = AutoDistillation(
        nn.Linear,
        {"search": {"search_space": {"width": [1, 2]}}},
        train_func=lambda student: student,
        search_dir=tmp_path / "search",
    )
    with pytest.raises(ConfigurationError, match=r"search\.metrics must name at least one metric, but none is given"):
        search.search_loop()


def test_arguments_within_their_limits_have_no_problems(tmp_path):
    assert count_problems({"max_retries": (0, 0), "n_trials": (5, 1)}) == []
    assert size_problems({"teacher_cache_gb": 0, "disk_gb": 0.5}) == []
    assert folder_problems({"teacher_cache": None, "other": tmp_path, "third": str(tmp_path / "a" / "b")}) == []
    assert limit_problems(n_trials=0, timeout=0.0, patience=1) == limit_problems(None, None, None) == []


@pytest.mark.parametrize("value", [True, None, "3", 0.5, -1])
def test_count_that_is_no_whole_number_or_too_small_is_named_with_its_value(value):
    assert count_problems({"max_retries": (value, 0)}) == [
        f"max_retries must be a whole number of at least 0, but got {value!r}."
    ]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), -0.5, False, "1"])
def test_size_that_is_negative_infinite_or_no_number_is_named_with_its_value(value):
    assert size_problems({"disk_gb": value}) == [
        f"disk_gb must be a finite size in GiB, zero or more, but got {value!r}."
    ]


class Settings:
    """What the checks of an elastic student read of a search."""

    process_count = 1

    def __init__(self, **sections):
        search = {"search_space": {"width": [1, 2]}, "metrics": ["accuracy", "latency"]}
        self.config = AutoDistillationConfig.load({"search": search} | sections)


def test_finishing_has_a_mistake_for_the_steps_and_for_several_processes():
    assert finish_problems(Settings(), None) == finish_problems(Settings(), 5) == []
    several = Settings()
    several.process_count = 2
    assert finish_problems(several, 0) == [
        "train_steps must be a whole number of at least 1, but got 0.",
        "a single student is finished by one process, but 2 run; start it without accelerate.",
    ]


def test_limits_need_an_elastic_student_metrics_of_the_search_and_finite_numbers():
    elastic = Settings(elastic=True)
    assert slice_problems(elastic, 0, {"latency": 5, "accuracy": 0.5}) == []
    assert len(slice_problems(Settings(), 20, {"latency": 5.0})) == 1
    for limit in (float("inf"), "5", True, None):
        assert slice_problems(elastic, 1, {"latency": limit}) == [
            f"a limit must be a finite number, but latency is {limit!r}."
        ]
    assert slice_problems(elastic, 1, {"speed": 5.0}) == [
        "a limit must be that of a metric of the search, but 'speed' is not in ['accuracy', 'latency']."
    ]
    assert len(slice_problems(elastic, -1, {})) == 2
