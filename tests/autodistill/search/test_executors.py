"""Where trials run: in this thread, and in all processes of a group."""

from __future__ import annotations

import json
import queue

import pytest
import torch
from torch import nn

from autodistill import ConfigurationError, Metric, SearchStoppedError
from autodistill.frameworks.pytorch import PyTorchFramework
from autodistill.processes import ALONE
from autodistill.search.executors import GroupExecutor, SerialExecutor, follow
from autodistill.search.run_trial import TrialSpec, run_trial
from autodistill.search.trial import Trial
from autodistill.training import FunctionTraining
from search_spaces import SearchSpace


def test_the_serial_executor_keeps_exceptions_and_lets_interrupts_pass():
    future = SerialExecutor().submit(int, "no number")
    assert isinstance(future.exception(), ValueError)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SerialExecutor().submit(interrupt)


class Group:
    """Process 0 and process 1 of a group: what the first broadcasts, the second receives."""

    def __init__(self, messages):
        self.messages = messages

    def broadcast(self, message=None):
        if message is None:
            return self.messages.get_nowait()
        self.messages.put(json.loads(json.dumps(message)))
        return message


def spec_that_records(trained, failing=()):
    """A spec whose training notes the width of each student, and fails for some."""

    def train(student):
        trained.append(student.in_features)
        if student.in_features in failing:
            raise OSError("out of memory")
        return student

    framework = PyTorchFramework(
        lambda architecture: nn.Linear(architecture["width"], 1), lambda student: {"score": 1.0}, 0, torch.device("cpu")
    )
    space = SearchSpace({"width": [1, 2, 3]})
    return TrialSpec(framework, FunctionTraining(train), space, (Metric("score"),), 0, ALONE)


def test_all_processes_run_the_trials_of_process_0_and_return_its_best():
    messages, led, followed = queue.SimpleQueue(), [], []
    executor = GroupExecutor(Group(messages))
    for width in (2, 3):
        future = executor.submit(run_trial, spec_that_records(led), Trial(0, {"width": width}))
        assert future.result().metrics == {"score": 1.0}
    executor.end({"width": 3})
    assert follow(Group(messages), spec_that_records(followed)) == {"width": 3}
    assert led == followed == [2, 3]


def test_trial_that_fails_in_all_processes_does_not_end_the_search():
    messages, led, followed = queue.SimpleQueue(), [], []
    executor = GroupExecutor(Group(messages))
    errors = [
        executor.submit(run_trial, spec_that_records(led, [1]), Trial(0, {"width": width})).exception()
        for width in (1, 2)
    ]
    assert [type(error) for error in errors] == [OSError, type(None)]
    executor.end(None)
    assert follow(Group(messages), spec_that_records(followed, [1])) is None
    assert followed == [1, 2]


def test_processes_that_follow_stop_with_the_error_of_process_0():
    messages = queue.SimpleQueue()
    GroupExecutor(Group(messages)).stop(ConfigurationError("no metrics"))
    with pytest.raises(SearchStoppedError, match="process 0 does, and it did: ConfigurationError: no metrics"):
        follow(Group(messages), spec_that_records([]))
