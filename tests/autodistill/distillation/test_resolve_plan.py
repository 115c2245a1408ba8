"""A plan is resolved with one forward of the student, and every mistake is in one error."""

from __future__ import annotations

import pytest
import torch
from small_models import Counted, Transformer
from torch import nn

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.resolve_plan import Phases, resolve
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError

SEARCH = {"search_space": {"width": [8]}, "metrics": ["loss"]}


def phases(leads=True, **sections) -> Phases:
    return Phases.of(AutoDistillationConfig.load({"search": SEARCH} | sections), leads=leads)


def flash_set(teacher: nn.Module) -> FlashSet:
    batch = Batch((torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0)), torch.zeros(4, dtype=torch.long)))
    return FlashSet([batch], TeacherCache(teacher))


def test_the_student_runs_once_for_both_phases() -> None:
    student, teacher = Counted(Transformer(8, 2)), Counted(Transformer(16, 4))
    plan = resolve(phases(flash_distillation="auto", regular_distillation="auto"), student, flash_set(teacher))
    assert (student.forwards, teacher.forwards) == (1, 1)
    assert plan.regular is not None
    assert plan.regular.loss_types == ("KL",)  # logits: computed in the same forward
    assert len(plan.flash_criteria) == len(plan.flash) == 2
    assert plan.regular_criterion is not None


def test_mistakes_of_both_phases_are_in_one_error() -> None:
    wrong = phases(
        flash_distillation={"loss_types": ["MSE", "MSE", "MSE"]},
        regular_distillation={"layer_mappings_for_knowledge_transfer": [("heads", "head")]},
    )
    with pytest.raises(ConfigurationError) as caught:
        resolve(wrong, Transformer(8, 2), flash_set(Transformer(16, 4)))
    assert [problem.split(",")[0] for problem in caught.value.problems] == [
        "loss_types must have one entry for each block",
        "the student (Transformer) has no layer 'heads'; did you mean 'head'?",
    ]


def test_frozen_layers_and_features_that_cannot_be_matched_are_in_one_error() -> None:
    student = Transformer(8, 2)
    student.layers[0].requires_grad_(False)
    mapped = {"layer_mappings_for_knowledge_transfer": [("layers.1", "head")]}
    with pytest.raises(ConfigurationError) as caught:
        resolve(phases(flash_distillation="auto", regular_distillation=mapped), student, flash_set(Transformer(16, 4)))
    frozen, unlike = caught.value.problems
    assert "'layers.0' has none that requires gradients" in frozen
    assert unlike.startswith("mapped features must have the same number of axes")


def test_a_process_other_than_the_first_takes_part_in_regular_distillation_alone() -> None:
    sections = {"flash_distillation": "auto", "regular_distillation": "auto", "init": "teacher"}
    leading, following = phases(**sections), phases(leads=False, **sections)
    assert leading.flash is not None
    assert leading.init is not None
    assert (following.flash, following.init) == (None, None)
    assert following.regular == leading.regular
    assert following.seed == leading.seed


def test_loss_type_that_needs_labels_is_refused_before_training_if_there_are_none() -> None:
    wrong = phases(regular_distillation={"loss_types": "DKD", "add_origin_loss": False})
    student, teacher = Transformer(8, 2), Transformer(16, 4)
    unlabelled = FlashSet([Batch(torch.randn(4, 5, 8))], TeacherCache(teacher))
    message = "DKD needs labels that are class numbers, but the batch has none; use KL without them."
    with pytest.raises(ConfigurationError) as caught:
        resolve(wrong, student, unlabelled)
    assert caught.value.problems == [message]
    assert resolve(wrong, student, flash_set(teacher)).regular.loss_types == ("DKD",)


def test_loss_type_with_parameters_is_refused_for_teacher_fed_blocks() -> None:
    sections = {"train_steps": 2, "inputs": "teacher", "loss_types": "VID"}
    with pytest.raises(ConfigurationError, match=r"no feature matchers, but the loss types of 'layers.0', VID, have"):
        resolve(phases(flash_distillation=sections), Transformer(8, 2), flash_set(Transformer(8, 2)))
    sections["loss_types"] = "SP"
    assert len(resolve(phases(flash_distillation=sections), Transformer(8, 2), flash_set(Transformer(8, 2))).flash) == 2
