"""The settings of regular distillation: the forms of its lists, and how they must agree."""

from __future__ import annotations

import pytest

from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.errors import ConfigurationError


def sentences(make) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ([("s", "t")], [("s", "t")]),
        ([["s", "t"]], [("s", "t")]),
        ([[("s", "t")]], [("s", "t")]),
        ([[["s", "t"], ["u", "v"]]], [("s", "t"), ("u", "v")]),
        ([["s", "t"], ["u", "v"]], [("s", "t"), ("u", "v")]),
        ([[("s", "1", "t", "1")]], [("s1", "t1")]),
        ([[("s", "1"), ("t", "1")]], [("s1", "t1")]),
        ([[("s", 1), ("t", 0)]], [("s1", "t0")]),
        ([[("s", "1"), ("t", "1")], ("u", "v")], [("s1", "t1"), ("u", "v")]),
        ([("s",)], [("s", "s")]),
        ([[("s",)]], [("s", "s")]),
    ],
)
def test_mappings_of_the_only_stage_may_be_nested_or_not(given, paths) -> None:
    config = RegularDistillationConfig(layer_mappings_for_knowledge_transfer=given)
    assert [
        (m.student.path + m.student.process, m.teacher.path + m.teacher.process)
        for m in config.layer_mappings_for_knowledge_transfer
    ] == paths


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layer_mappings_for_knowledge_transfer": []}, "must hold at least one mapping, but is empty"),
        (
            {"layer_mappings_for_knowledge_transfer": [("a",), ("b",)], "loss_types": ["KL", "KL", "KL"]},
            "loss_types must have one entry for each mapping, but has 3 for 2 mappings.",
        ),
        (
            {"layer_mappings_for_knowledge_transfer": [("a",), ("b",)], "loss_weights": [1, 1, 1]},
            "loss_weights must have one entry for each mapping, but has 3 for 2 mappings.",
        ),
    ],
)
def test_lists_of_regular_distillation_must_fit_its_mappings(fields, sentence: str) -> None:
    assert sentence in sentences(lambda: RegularDistillationConfig(**fields))


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"loss_types": ["CE", "KL", "MSE"]},
            "loss_types without layer_mappings_for_knowledge_transfer is one value, or a pair for the labels and the "
            "teacher (loss_types and loss_weights alike), but got ['CE', 'KL', 'MSE'].",
        ),
        (
            {"loss_types": "KL", "loss_weights": [0.5, 0.5]},
            "loss_weights without layer_mappings_for_knowledge_transfer is one value, or a pair for the labels and the "
            "teacher (loss_types and loss_weights alike), but got [0.5, 0.5].",
        ),
        (
            {"loss_types": ["KL", "KL"]},
            "the loss between student and labels is one of CE, MSE, but got 'KL'.",
        ),
        (
            {"loss_types": ["CE", "CE"], "add_origin_loss": True},
            "add_origin_loss belongs to a single loss type or to mappings; in a pair the student's own loss is the "
            "first, with its weight.",
        ),
    ],
)
def test_pair_of_losses_that_is_none_is_refused(given, sentence) -> None:
    assert sentence in sentences(lambda: RegularDistillationConfig(**given))


def test_pair_of_losses_without_mappings_is_on_predictions() -> None:
    given = {"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5]}
    assert RegularDistillationConfig(**given).on_predictions
    assert not RegularDistillationConfig().on_predictions
    mapped = {"layer_mappings_for_knowledge_transfer": [("a", "b"), ("c", "d")], "loss_types": ["CE", "CE"]}
    assert not RegularDistillationConfig(**mapped).on_predictions
