"""The flash set: batches in turns, the teacher's features of them, and one forward for all that is requested."""

from __future__ import annotations

import torch
from small_models import Counted, Transformer

from autodistill.batch import Batch
from autodistill.config.phase import PhaseConfig
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.plan import Stage
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import Tap


def batches(count=3):
    generator = torch.Generator().manual_seed(0)
    return [Batch((torch.randn(2, 5, 8, generator=generator), None)) for _ in range(count)]


def test_batches_come_in_turns() -> None:
    flash_set = FlashSet(batches(), TeacherCache(Transformer(8, 2)))
    assert [flash_set.index(number) for number in range(7)] == [0, 1, 2, 0, 1, 2, 0]
    assert [flash_set.batch(number) for number in range(3)] == list(flash_set.batches)
    assert flash_set.batch(5) is flash_set.batches[2]


def test_later_taps_are_computed_in_the_same_forward() -> None:
    teacher, first, second = Counted(Transformer(8, 2)), Tap("model.layers.0"), Tap("model.layers.1")
    flash_set = FlashSet(batches(1), TeacherCache(teacher)).with_later_taps([second])
    flash_set.features(0, [first])
    flash_set.features(1, [second])
    assert teacher.forwards == 1


def test_a_loss_that_is_not_finite_is_explained_by_the_inputs_and_the_features() -> None:
    flash_set, tap = FlashSet(batches(), TeacherCache(Transformer(8, 2))), Tap("layers.0")
    stage = Stage("layer", ("layers.0",), (LayerMapping(tap, tap),), ("NMSE",), (1.0,), False, 1, PhaseConfig())
    inputs = flash_set.loss_inputs(4, stage)
    assert inputs["the inputs"] is flash_set.batches[1].content
    assert torch.equal(inputs["the teacher's features"][tap], flash_set.features(1, [tap])[tap])
