"""Blocks of one student in several workers: student, losses and record are those of one process, to the bit."""

from __future__ import annotations

from concurrent.futures import Future

import elastic_search
import pytest
import torch
from safetensors.torch import load_file

from autodistill import ConfigurationError, SearchResult, SearchStoppedError, auto_distillation
from autodistill.search.block_workers import SpreadBlocks, balanced
from autodistill.search.executors import WorkerLostError
from autodistill.transport import pack, unpack

ARCHITECTURE = {"hidden_size": 8, "num_hidden_layers": 3, "intermediate_size": 12}


class Copies:
    """An executor that runs every call with a copy of its arguments, as a worker would have it.

    Args:
        slots: the number of groups.
        losses: how many of the first calls are lost.
    """

    shares_disk = True

    def __init__(self, slots, losses=0):
        self.slots = slots
        self.losses = losses
        self.stages = []

    def submit(self, function, spec, *arguments):
        future = Future()
        if self.losses:
            self.losses -= 1
            future.set_exception(WorkerLostError("its worker was lost"))
            return future
        self.stages.append(arguments[-1])
        sent = unpack(pack((spec.for_another_process(), arguments)))
        sent[0].framework.place()
        sent[0].training.place(None)
        future.set_result(function(sent[0], *sent[1]))
        return future

    def interrupt(self):
        pass

    def close(self):
        pass


def make_search(directory, init="teacher", **flash):
    settings = {"search_space": {name: [value] for name, value in ARCHITECTURE.items()}, "metrics": ["closeness"]}
    config = {
        "search": settings | {"seed": 3},
        "flash_distillation": {"train_steps": 5, "inputs": "teacher"} | flash,
        "regular_distillation": {"train_steps": 3},
    }
    if init is not None:
        config["init"] = {"least_squares": "none", "batches": 2}
    return elastic_search.make_search(directory, config)


def finished(directory):
    (trial,) = SearchResult.load(directory)
    weights = load_file(trial.directory / "student/model.safetensors")
    losses = (trial.directory / "progress.jsonl").read_text()
    return trial.metrics, trial.details["distillation"], losses, {name: t.tolist() for name, t in weights.items()}


@pytest.mark.parametrize(
    "flash",
    [
        {},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
        {"mixed_precision": "bf16"},
    ],
    ids=str,
)
@pytest.mark.parametrize("slots", [2, 3])
def test_student_is_that_of_one_process(tmp_path, monkeypatch, slots, flash):
    make_search(tmp_path / "alone", **flash).finish(ARCHITECTURE)
    search, executor = make_search(tmp_path / "spread", **flash), Copies(slots)
    spread_by(monkeypatch, executor)
    search.finish(ARCHITECTURE, workers=slots)
    assert len(executor.stages) == slots
    assert sorted(stage for group in executor.stages for stage in group) == [0, 1, 2, 3]  # the last is outside
    assert finished(tmp_path / "spread") == finished(tmp_path / "alone")


def spread_by(monkeypatch, executor):
    """Let `finish` use this executor."""

    class Opened:
        def __enter__(self):
            return executor

        def __exit__(self, *error):
            pass

    monkeypatch.setattr(auto_distillation, "opened", lambda chosen, device, timeout: Opened())


def test_local_processes_train_the_blocks_of_a_student(tmp_path):
    make_search(tmp_path / "alone").finish(ARCHITECTURE)
    make_search(tmp_path / "spread").finish(ARCHITECTURE, workers=2)
    assert finished(tmp_path / "spread") == finished(tmp_path / "alone")


def test_blocks_of_a_lost_worker_are_trained_again_a_few_times(tmp_path, monkeypatch, caplog):
    make_search(tmp_path / "alone").finish(ARCHITECTURE)
    spread_by(monkeypatch, Copies(2, losses=3))
    make_search(tmp_path / "spread").finish(ARCHITECTURE, workers=2)
    assert finished(tmp_path / "spread") == finished(tmp_path / "alone")
    assert "blocks are trained again: its worker was lost" in caplog.text
    spread_by(monkeypatch, Copies(2, losses=99))
    with pytest.raises(SearchStoppedError, match="4 were lost in turn: its worker was lost"):
        make_search(tmp_path / "lost").finish(ARCHITECTURE, workers=2)


def test_blocks_that_depend_on_each_other_are_refused_with_other_mistakes(tmp_path):
    with pytest.raises(ConfigurationError) as error:
        make_search(tmp_path, init=None, inputs="student").finish(ARCHITECTURE, train_steps=0, workers=2)
    text = str(error.value)
    assert "flash_distillation.inputs is 'student'; set inputs: teacher, or leave executor and workers out" in text
    assert "train_steps must be" in text


@pytest.mark.parametrize(
    ("sizes", "count", "groups"),
    [
        ([3, 3, 3, 3], 2, [[0, 2], [1, 3]]),
        ([8, 1, 1, 1], 2, [[0], [1, 2, 3]]),
        ([1, 2], 5, [[1], [0]]),
        ([4], 1, [[0]]),
    ],
)
def test_groups_are_about_equal(sizes, count, groups):
    assert balanced(sizes, count) == groups


def test_error_of_a_worker_is_raised():
    class Failing(Copies):
        def submit(self, function, spec, *arguments):
            future = Future()
            future.set_exception(torch.OutOfMemoryError("too large"))
            return future

    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        SpreadBlocks(Failing(2), None, ARCHITECTURE, 0).train([1, 1])
