"""Layer mappings: every accepted form of a pair of taps, every refused one, and which blocks are paired."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.models.layer_mappings import LayerMapping, automatic_mapping, in_models, parse_mapping
from autodistill.models.taps import Tap


def first(output):
    return output[0]


@pytest.mark.parametrize(
    ("spec", "student", "teacher"),
    [
        (("s", "t"), Tap("s"), Tap("t")),
        (["s", "t"], Tap("s"), Tap("t")),
        (("s", "1", "t", "1"), Tap("s", "1"), Tap("t", "1")),
        (["s", 1, "t", 0], Tap("s", "1"), Tap("t", "0")),
        (("s", "", "t", "logits"), Tap("s"), Tap("t", "logits")),
        (("s", first, "t", "0"), Tap("s", first), Tap("t", "0")),
        ([("s", "1"), ("t", "1")], Tap("s", "1"), Tap("t", "1")),
        ([["s", 1], ["t", 2]], Tap("s", "1"), Tap("t", "2")),
        ([("s", first), ("t",)], Tap("s", first), Tap("t")),
        ([("s",), ("t",)], Tap("s"), Tap("t")),
        ([("s",)], Tap("s"), Tap("s")),
        (("s",), Tap("s"), Tap("s")),
        ([("s", "1")], Tap("s", "1"), Tap("s", "1")),
        ([["s", 1]], Tap("s", "1"), Tap("s", "1")),
        (("s", 1), Tap("s", "1"), Tap("s", "1")),
        (("s", first), Tap("s", first), Tap("s", first)),
        (LayerMapping(Tap("s"), Tap("t", "0")), Tap("s"), Tap("t", "0")),
    ],
)
def test_every_accepted_form_is_normalised(spec, student: Tap, teacher: Tap) -> None:
    assert parse_mapping(spec) == LayerMapping(student, teacher)


@pytest.mark.parametrize(
    "spec",
    [
        "s",
        (),
        (1, 2),
        ("s", "t", "u"),
        ("s", "1", "t", "1", "x"),
        [("s", "1", "x"), ("t",)],
        [[]],
        None,
        3,
        {"s": "t"},
        [("s", "1"), "t"],
        [("s",), ("t",), ("u",)],
    ],
)
def test_every_other_form_is_refused_with_the_value(spec) -> None:
    with pytest.raises(ConfigurationError, match="a layer mapping is") as caught:
        parse_mapping(spec)
    assert f"but got {spec!r}." in str(caught.value)


@pytest.mark.parametrize("spec", [("s", None, "t", "1"), [("s", 1.5), ("t", "1")], ("s", "1", "t", True)])
def test_output_process_of_another_kind_is_refused(spec) -> None:
    with pytest.raises(ConfigurationError, match="an output process is '', a numeric string, a key or a callable"):
        parse_mapping(spec)


@pytest.mark.parametrize("students", range(1, 13))
@pytest.mark.parametrize("teachers", [1, 4, 6, 12, 24])
def test_automatic_mapping_follows_the_formula_and_ends_on_the_last_block(students: int, teachers: int) -> None:
    mapping = automatic_mapping(students, teachers)
    assert mapping == [math.ceil((i + 1) * teachers / students) - 1 for i in range(students)]
    assert mapping == sorted(mapping)
    assert mapping[-1] == teachers - 1
    assert mapping[0] >= 0


def named(*names: str) -> nn.Module:
    model = nn.Module()
    for name in names:
        model.add_module(name, nn.Identity())
    return model


@pytest.mark.parametrize(
    ("spec", "layers", "expected"),
    [
        (("layer", "1"), ("layer", "1"), (Tap("layer"), Tap("1"))),
        (("layer", "1"), ("layer",), (Tap("layer", "1"), Tap("layer", "1"))),
        (("layer", "misspelt"), ("layer",), (Tap("layer"), Tap("misspelt"))),
        (("layer", "other.block"), ("layer",), (Tap("layer"), Tap("other.block"))),
        (("layer", "typo"), ("block",), (Tap("layer"), Tap("typo"))),
        (("layer", "1", "layer", ""), ("layer",), (Tap("layer", "1"), Tap("layer"))),
    ],
)
def test_two_names_are_read_by_the_layers_that_the_teacher_has(spec, layers, expected) -> None:
    assert in_models([parse_mapping(spec)], named("layer"), named(*layers)) == (LayerMapping(*expected),)


@pytest.mark.parametrize(
    ("student", "teacher", "lacks"), [("layer", "block", "teacher"), ("block", "layer", "student")]
)
def test_number_that_is_neither_a_layer_nor_a_process_of_one_is_refused(student, teacher, lacks) -> None:
    sentence = (
        "('layer', '1') pairs a layer of the student with one of the teacher, or is one layer of both with its output "
        f"process; but the teacher has no layer '1', and the {lacks} no layer 'layer'; "
        "write ('student layer', 'output process', 'teacher layer', 'output process')."
    )
    with pytest.raises(ConfigurationError) as caught:
        in_models([parse_mapping(("layer", "1"))], named(student), named(teacher))
    assert caught.value.problems == [sentence]


class Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cls = Both()

    def forward(self, inputs):
        return self.cls(inputs)[0]


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, inputs):
        return self.linear(inputs), inputs


@pytest.mark.parametrize("mappings", [[("cls", "0")], [[("cls", "0")]], [["cls", 0]]], ids=str)
def test_one_tap_is_mapped_in_both_models_by_the_distiller_and_by_the_criterion(mappings) -> None:
    student, teacher = Pair(), Pair()
    regular = {"layer_mappings_for_knowledge_transfer": mappings, "loss_types": ["MSE"], "train_steps": 1}
    search = {"search_space": {"width": [1]}, "metrics": ["loss"]}
    config = AutoDistillationConfig.load({"search": search, "regular_distillation": regular})
    data = [(torch.ones(2, 3), None)]
    plan = Distiller(teacher, config, data, torch.device("cpu")).resolve(student)
    expected = LayerMapping(Tap("cls", "0"), Tap("cls", "0"))
    assert plan.regular.mappings == (expected,)
    record = plan.regular_criterion
    criterion = IntermediateLayersKnowledgeDistillationLoss(
        mappings, ["MSE"], student_model=student, teacher_model=teacher, example=torch.ones(2, 3)
    )
    assert criterion.layer_mappings == record.layer_mappings == (expected,)
    with criterion:
        criterion.teacher_model_forward(torch.ones(2, 3))
        loss = criterion(student(torch.ones(2, 3)))
    errors = student(torch.ones(2, 3)).double() - teacher(torch.ones(2, 3)).double()
    assert loss.item() == pytest.approx(errors.square().mean().item(), rel=1e-5)
