"""The contract between a search and the training of a student."""

from __future__ import annotations

import json

import pytest
from protocols import differences

from autodistill.distiller import Distiller
from autodistill.training import (
    FunctionTraining,
    NoReport,
    StageRecord,
    Trained,
    Training,
    TrainingContext,
    TrainingReport,
)


@pytest.mark.parametrize("kind", [FunctionTraining, Distiller])
def test_every_training_has_the_methods_that_a_search_calls(kind: type) -> None:
    assert differences(kind, Training) == {}


def test_function_is_called_with_the_student_and_what_it_returns_is_the_model() -> None:
    training = FunctionTraining(lambda student: [*student, "trained"])
    assert training.train(["built"], TrainingContext(seed=0)) == Trained(["built", "trained"], stages=())


def test_function_may_change_the_size_and_is_described_by_its_kind_alone() -> None:
    training = FunctionTraining(list)
    training.check("any student")
    assert training.keeps_size is False
    assert training.describe() == FunctionTraining(tuple).describe() == {"distillation": "train_func"}


def test_what_a_function_raises_is_passed_on() -> None:
    def broken(student: object) -> object:
        raise OSError("no disk")

    with pytest.raises(OSError, match="no disk"):
        FunctionTraining(broken).train(None, TrainingContext(seed=0))


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (StageRecord("head", 1.5, 0.25), {"stage": "head", "first_loss": 1.5, "last_loss": 0.25}),
        (
            StageRecord("block", 0.0, 0.0, mode="replay", reason="shared weights", steps=0),
            {
                "stage": "block",
                "first_loss": 0,
                "last_loss": 0,
                "mode": "replay",
                "reason": "shared weights",
                "steps": 0,
            },
        ),
    ],
)
def test_record_of_a_stage_is_read_back_and_leaves_out_what_is_none(record: StageRecord, expected: object) -> None:
    assert record.to_json() == expected
    assert StageRecord(**json.loads(json.dumps(record.to_json()))) == record


def test_context_reports_nowhere_and_keeps_no_checkpoints_by_default() -> None:
    context = TrainingContext(seed=3)
    assert (type(context.report), context.checkpoint_directory, context.flash_only) == (NoReport, None, False)
    assert differences(NoReport, TrainingReport) == {}


def test_function_shares_nothing_that_must_be_prepared() -> None:
    calls: list[object] = []
    FunctionTraining(calls.append).prepare(NoReport())
    assert calls == []
