"""A trial that takes too long is reported with the stacks of all threads, and goes on."""

from __future__ import annotations

import logging
import threading
import time

import pytest
from torch import nn

from autodistill import AutoDistillation, ConfigurationError
from autodistill.search.trial_timeout import reported_after


def wait_for_record(caplog):
    for _ in range(6000):
        if caplog.records:
            return
        time.sleep(0.01)


def search(tmp_path, **arguments):
    config = {"search": {"search_space": {"width": [1, 2]}, "metrics": ["score"], "max_trials": 2}}
    return AutoDistillation(
        lambda architecture: nn.Linear(architecture["width"], 1),
        config,
        eval_func=lambda student: {"score": student.in_features},
        search_dir=tmp_path,
        show_progress_bar=False,
        **arguments,
    )


@pytest.mark.parametrize("seconds", [None, 1000])
def test_nothing_is_reported_in_time_and_no_thread_is_left(seconds, caplog):
    before = threading.active_count()
    with reported_after(seconds, "trial 0"):
        pass
    assert not caplog.records
    assert threading.active_count() == before


def test_trial_that_takes_too_long_is_reported_once_and_goes_on(tmp_path, caplog):
    caplog.set_level(logging.WARNING)

    def hanging_hook(student):
        wait_for_record(caplog)

    agent = search(tmp_path, train_func=hanging_hook, trial_timeout=0.05)
    agent.search_loop(n_trials=1)
    (record,) = caplog.records
    assert record.getMessage().startswith("trial 0 has run for more than 0.05 s (trial_timeout) and goes on;")
    assert "in hanging_hook" in record.getMessage()
    assert len(agent.search_result.completed) == 1


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf"), True, "60", 1e10])
def test_time_must_be_a_positive_number_of_seconds(tmp_path, timeout):
    with pytest.raises(ConfigurationError, match="trial_timeout must be a positive number of seconds"):
        search(tmp_path, train_func=lambda student: student, trial_timeout=timeout)
