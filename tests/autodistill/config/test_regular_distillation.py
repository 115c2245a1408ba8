"""The settings of regular distillation: the forms of its lists, and how they must agree."""

from __future__ import annotations

import pytest

from autodistill.config.auto_distillation import AutoDistillationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.temperature import AnnealedTemperature
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


# --- the largest logits ----------------------------------------------------------------------------------------------

MAPPED = {"layer_mappings_for_knowledge_transfer": [("a", "b"), ("c", "d")]}


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"loss_types": "KL"},
        {"loss_types": ["CE", "KL"]},
        {**MAPPED, "loss_types": ["KL", "MSE"]},
        {"layer_mappings_for_knowledge_transfer": lambda student, teacher: [("a", "b")], "loss_types": "KL"},
    ],
    ids=str,
)
def test_top_k_is_accepted_where_there_may_be_a_divergence(fields) -> None:
    assert RegularDistillationConfig(top_k=8, temperature=2, **fields).top_k == 8


@pytest.mark.parametrize(
    ("fields", "received"),
    [
        ({"loss_types": "CE"}, "CE"),
        ({"loss_types": ["CE", "MSE"]}, "MSE"),
        (MAPPED, "MSE"),
        ({**MAPPED, "loss_types": ["cosine", "CE"]}, "cosine, CE"),
    ],
    ids=str,
)
def test_top_k_without_a_divergence_is_refused(fields, received: str) -> None:
    assert (
        "top_k reduces the teacher's logits that are compared by KL, but loss_types is "
        f"{received}; use KL, or leave top_k out."
    ) in sentences(lambda: RegularDistillationConfig(top_k=8, **fields))


def cooled(progress: float) -> float:
    return 2 - progress


@pytest.mark.parametrize(
    ("temperature", "received"),
    [
        (cooled, f"'{__name__}.cooled'"),
        (AnnealedTemperature(start=5, end=1), "AnnealedTemperature(start=5.0, end=1.0, shape='linear')"),
    ],
    ids=["function", "annealed"],
)
def test_top_k_with_a_changing_temperature_is_refused(temperature, received: str) -> None:
    message = sentences(lambda: RegularDistillationConfig(top_k=8, temperature=temperature, loss_types="MSE"))
    assert f"so temperature must be a number, but is {received}; set a number, or leave top_k out." in message
    assert "but loss_types is MSE" in message  # both mistakes are in one error


@pytest.mark.parametrize("k", [0, -1, 2.5, True, "many"])
def test_top_k_that_is_no_count_is_refused(k) -> None:
    assert "top_k" in sentences(lambda: RegularDistillationConfig(top_k=k))


def test_top_k_goes_to_yaml_and_back_and_is_recorded_only_if_configured(tmp_path) -> None:
    search = {"search_space": {"width": [8]}, "metrics": ["loss"]}
    config = AutoDistillationConfig.load({"search": search, "regular_distillation": {"top_k": 8, "temperature": 2.0}})
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert AutoDistillationConfig.load(tmp_path / "config.yaml").regular_distillation == config.regular_distillation
    assert config.regular_distillation.model_dump(mode="json")["top_k"] == 8
    assert "top_k" not in RegularDistillationConfig().model_dump(mode="json")  # as in directories of earlier versions
