"""The stages of a plan, from settings, a student, a teacher and a batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.distillation.plan import Plan, flash_stages, regular_mappings, regular_stage
from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import AUTO, Tap


class Blocks(nn.Module):
    def __init__(self, depth: int, width: int = 4) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.head = nn.Linear(width, 3)


STUDENT, TEACHER = Blocks(2), Blocks(6, 8)
X = torch.zeros(5, 4)
CLASSES, VALUES = torch.zeros(5, dtype=torch.long), torch.zeros(5, 3)


def mapping(student: str, teacher: str, process: str = "") -> LayerMapping:
    return LayerMapping(Tap(student, process), Tap(teacher, process))


def regular(config: RegularDistillationConfig, batch: Batch, output):
    return regular_stage(config, regular_mappings(config, STUDENT, TEACHER), batch, output)


# --- flash -----------------------------------------------------------------------------------------------------------


def test_automatic_stages_pair_the_blocks_by_depth() -> None:
    stages = flash_stages(FlashDistillationConfig(train_steps=9), STUDENT, TEACHER)
    assert [stage.blocks for stage in stages] == [("layer.0",), ("layer.1",)]
    assert [stage.mappings for stage in stages] == [
        (mapping("layer.0", "layer.2", AUTO),),
        (mapping("layer.1", "layer.5", AUTO),),
    ]
    for stage in stages:
        assert (stage.loss_types, stage.loss_weights) == (("NMSE",), (1.0,))
        assert (stage.add_origin_loss, stage.steps) == (False, 9)


def test_lists_are_per_block_and_single_values_hold_for_all_blocks() -> None:
    config = FlashDistillationConfig(
        block_names=["layer.0", ["layer.1", "head"]],
        layer_mappings_for_knowledge_transfer=[[("layer.0", "layer.0"), ("layer.0", "layer.1")], [("head",)]],
        loss_types=[["KL", "MSE"], "L1"],
        loss_weights=0.5,
        add_origin_loss=[True, False],
        train_steps=[3, 4],
    )
    first, second = flash_stages(config, STUDENT, TEACHER)
    assert (first.name, second.name) == ("layer.0", "layer.1 + head")
    assert (first.blocks, second.blocks) == (("layer.0",), ("layer.1", "head"))
    assert (first.loss_types, second.loss_types) == (("KL", "MSE"), ("L1",))
    assert (first.loss_weights, second.loss_weights) == ((0.5, 0.5), (0.5,))
    assert (first.add_origin_loss, second.add_origin_loss) == (True, False)
    assert (first.steps, second.steps) == (3, 4)
    assert first.student_taps == [Tap("layer.0")]  # mapped twice, recorded once
    assert first.teacher_taps == [Tap("layer.0"), Tap("layer.1")]
    assert first.settings is config


def test_functions_receive_the_student_and_the_teacher() -> None:
    config = FlashDistillationConfig(
        block_names=lambda student: [f"layer.{index}" for index in range(len(student.layer))],
        layer_mappings_for_knowledge_transfer=lambda student, teacher: [
            [(f"layer.{index}", f"layer.{len(teacher.layer) - 1}")] for index in range(len(student.layer))
        ],
    )
    for depth in (1, 3):
        stages = flash_stages(config, Blocks(depth), TEACHER)
        assert [stage.mappings for stage in stages] == [(mapping(f"layer.{i}", "layer.5"),) for i in range(depth)]


def test_lengths_that_do_not_fit_the_student_are_in_one_error() -> None:
    config = FlashDistillationConfig(
        layer_mappings_for_knowledge_transfer=lambda student, teacher: [[("layer.0", "layer.0")]],
        loss_types=[["MSE", "KL"], "MSE", "MSE"],
        train_steps=[1, 2, 3],
    )
    with pytest.raises(ConfigurationError) as caught:
        flash_stages(config, STUDENT, TEACHER)
    assert caught.value.problems == [
        "layer_mappings_for_knowledge_transfer must have one entry for each block, but has 1 for 2 blocks.",
        "loss_types must have one entry for each block, but has 3 for 2 blocks.",
        "loss_types[0] must have one entry for each mapping, but has 2 for 1 mappings.",
        "train_steps must have one entry for each block, but has 3 for 2 blocks.",
    ]


def test_function_that_names_no_block_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="block_names must name at least one block"):
        flash_stages(FlashDistillationConfig(block_names=lambda student: []), STUDENT, TEACHER)


def test_student_without_repeated_blocks_needs_block_names() -> None:
    with pytest.raises(ConfigurationError, match="pass block_names and layer_mappings_for_knowledge_transfer"):
        flash_stages(FlashDistillationConfig(), nn.Linear(2, 2), TEACHER)


# --- regular ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "output", "loss_type", "origin"),
    [
        (Batch((X, CLASSES)), torch.zeros(5, 3), "KL", True),
        (Batch((X, VALUES)), torch.zeros(5, 3), "NMSE", True),
        (Batch(X), torch.zeros(5, 3), "NMSE", False),
        (Batch({"x": X}), {"logits": torch.zeros(5, 3)}, "KL", False),
        (Batch({"x": X, "labels": CLASSES}), {"last_hidden_state": torch.zeros(5, 3)}, "NMSE", True),
    ],
    ids=["classes", "values", "no targets", "logits by name", "hidden states"],
)
def test_automatic_stage_compares_predictions_by_their_kind(batch: Batch, output, loss_type: str, origin: bool) -> None:
    stage = regular(RegularDistillationConfig(train_steps=4), batch, output)
    assert stage.blocks == ("",)
    assert stage.mappings == (mapping("", "", AUTO),)
    assert (stage.loss_types, stage.loss_weights, stage.steps) == ((loss_type,), (1.0,), 4)
    assert stage.add_origin_loss is origin


def test_configured_settings_override_detected_ones() -> None:
    config = RegularDistillationConfig(loss_types="L1", loss_weights=3, add_origin_loss=False)
    stage = regular(config, Batch((X, CLASSES)), torch.zeros(5, 3))
    assert (stage.loss_types, stage.loss_weights, stage.add_origin_loss) == (("L1",), (3.0,), False)


def test_configured_mappings_are_squared_errors_without_the_own_loss_by_default() -> None:
    config = RegularDistillationConfig(layer_mappings_for_knowledge_transfer=[("head",), ("layer.1", "layer.5")])
    stage = regular(config, Batch((X, CLASSES)), torch.zeros(5, 3))
    assert stage.mappings == (mapping("head", "head"), mapping("layer.1", "layer.5"))
    assert (stage.loss_types, stage.loss_weights, stage.add_origin_loss) == (("MSE", "MSE"), (1.0, 1.0), False)


def test_mappings_may_be_a_function_whose_length_is_checked() -> None:
    def last(student, teacher):
        return [(f"layer.{len(student.layer) - 1}", f"layer.{len(teacher.layer) - 1}")]

    config = RegularDistillationConfig(layer_mappings_for_knowledge_transfer=last, loss_types=["KL"])
    assert regular(config, Batch(X), X).mappings == (mapping("layer.1", "layer.5"),)
    config = RegularDistillationConfig(layer_mappings_for_knowledge_transfer=last, loss_weights=[1, 2])
    with pytest.raises(ConfigurationError, match="loss_weights must have one entry for each mapping, but has 2 for 1"):
        regular(config, Batch(X), X)


# --- plan -------------------------------------------------------------------------------------------------------------


def test_plan_lists_its_stages_in_order_and_every_teacher_tap_once() -> None:
    stages = flash_stages(FlashDistillationConfig(), STUDENT, TEACHER)
    last = regular(RegularDistillationConfig(), Batch(X), X)
    plan = Plan(stages, last)
    assert plan.stages == [*stages, last]
    assert plan.teacher_taps == [Tap("layer.2", AUTO), Tap("layer.5", AUTO), Tap("", AUTO)]
    assert Plan((*stages, *stages), None).teacher_taps == [Tap("layer.2", AUTO), Tap("layer.5", AUTO)]
