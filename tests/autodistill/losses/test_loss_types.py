"""One entry of the table is a loss type: everything that names or computes losses reads it."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch

from autodistill.config import json_schema
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.errors import ConfigurationError
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
from autodistill.losses.loss_types import (
    LOSS_TYPES,
    LossName,
    LossType,
    pair_type_problems,
    top_k_types,
    type_problems,
)
from autodistill.losses.top_k import top_k_kl_divergence, top_k_logits
from autodistill.models.taps import Tap


def test_names_that_a_configuration_accepts_are_those_of_the_table() -> None:
    assert get_args(LossName) == tuple(LOSS_TYPES)
    for name in LOSS_TYPES:
        assert FlashDistillationConfig(loss_types=name).loss_types == name
        assert RegularDistillationConfig(loss_types=name).loss_types == name


def test_schema_for_editors_offers_the_names_of_the_table() -> None:
    offered = [enum for enum in enums(json_schema()["$defs"]) if "NMSE" in enum]
    assert offered
    assert all(enum == list(LOSS_TYPES) for enum in offered)


def enums(schema: Any) -> list[list[Any]]:
    parts = schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else []
    own = [schema["enum"]] if isinstance(schema, dict) and isinstance(schema.get("enum"), list) else []
    return own + [enum for part in parts for enum in enums(part)]


def test_types_that_compare_logits_are_those_that_may_be_the_teachers_loss() -> None:
    with_logits = [name for name, kind in LOSS_TYPES.items() if kind.compares_logits]
    assert with_logits == ["KL", "CE", "DIST", "LSKD", "DKD"]
    assert [name for name, kind in LOSS_TYPES.items() if kind.on_predictions] == ["MSE", *with_logits]
    assert [name for name, kind in LOSS_TYPES.items() if kind.on_probabilities is not None] == ["KL", "CE", "DIST"]


@pytest.mark.parametrize("name", ["LSKD", "DKD"])
def test_type_without_a_form_for_probabilities_refuses_them(name: str) -> None:
    maps = torch.full((1, 2, 4, 4), 0.25)
    with pytest.raises(
        ConfigurationError, match=r"compares logits, but both features are probabilities .*; use KL, CE"
    ):
        LOSS_TYPES[name].function_for(maps, maps)
    assert LOSS_TYPES[name].function_for(maps, maps - 1) is LOSS_TYPES[name].on_features


def test_the_labels_loss_and_the_teachers_are_known_by_their_position() -> None:
    assert pair_type_problems(["CE", "KL"]) == []
    assert pair_type_problems(["KL", "cosine"]) == [
        "the loss between student and labels is one of CE, MSE, but got 'KL'.",
        "the loss between student and teacher is one of CE, DIST, DKD, KL, LSKD, MSE, but got 'cosine'.",
    ]


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_temperature_matters_between_logits_only(name: str) -> None:
    student, teacher = torch.randn(2, 6, 5).unbind()
    labels = torch.arange(6) % 5
    cold, hot = (LOSS_TYPES[name].between(student, teacher, None, temperature, labels) for temperature in (1.0, 3.0))
    assert (cold != hot) == LOSS_TYPES[name].compares_logits


def huber(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    return torch.nn.functional.huber_loss(student, teacher)


def test_new_loss_type_is_one_entry_for_both_criteria_and_their_checks(monkeypatch) -> None:
    assert type_problems(["Huber"])
    monkeypatch.setitem(LOSS_TYPES, "Huber", LossType(huber, on_predictions=True))
    assert type_problems(["Huber"]) == []
    student, teacher = torch.randn(2, 4, 3).unbind()
    layers = IntermediateLayersKnowledgeDistillationLoss([("s", "t")], ["Huber"])
    layers.init_feature_matcher({Tap("s"): student}, {Tap("t"): teacher})
    torch.testing.assert_close(layers.loss_cal({Tap("s"): student}, {Tap("t"): teacher}), huber(student, teacher))
    predictions = KnowledgeDistillationLoss(loss_types=["CE", "Huber"])
    torch.testing.assert_close(predictions.teacher_student_loss_cal(student, teacher), huber(student, teacher))


@pytest.mark.parametrize("name", LOSS_TYPES)
def test_the_largest_logits_are_compared_by_the_types_that_need_no_others(name: str) -> None:
    student, teacher = torch.randn(2, 6, 5).unbind()
    top = top_k_logits(teacher, 3, temperature=2.0)
    if name in top_k_types():
        loss = LOSS_TYPES[name].between(student, top, None, 2.0)
        torch.testing.assert_close(loss, top_k_kl_divergence(student, top, None, 2.0))
    else:
        with pytest.raises(
            ConfigurationError, match="needs all of the teacher's logits, but got the 3 largest; use KL"
        ):
            LOSS_TYPES[name].between(student, top, None, 2.0, torch.arange(6) % 5)
