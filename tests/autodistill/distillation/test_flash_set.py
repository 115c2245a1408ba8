"""The flash set: batches in turns, the teacher's features of them, and one forward for all that is requested."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file
from shuffled_samples import make_distiller
from small_models import Counted, Transformer

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.flash_set import FlashSet, draw_flash_set
from autodistill.distillation.plan import Stage
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.distiller import Storage
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
    pair = LayerMapping(tap, tap)
    stage = Stage("first", ("layers.0",), (pair,), ("MSE",), (1.0,), False, 1, FlashDistillationConfig())
    inputs = flash_set.loss_inputs(4, stage)
    assert inputs["the inputs"] is flash_set.batches[1].content
    assert torch.equal(inputs["the teacher's features"][tap], flash_set.features(1, [tap])[tap])


BATCH, FEATURE, HIDDEN = 2 * 5 * 8 * 4, 2 * 5 * 6 * 4, ("layers.0", "layers.1")
"""The bytes of a batch of `batches`, and of a hidden state of 6 channels."""


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_are_drawn_while_they_and_their_features_are_within_the_limit(count: int, exact: bool) -> None:
    one = BATCH + len(HIDDEN) * FEATURE // (1 if exact else 2)
    for spare in (0, one - 1):
        cache = TeacherCache(Transformer(6, 2), exact=exact)
        drawn = draw_flash_set(
            iter(batches(6)), cache, lambda batch: [*map(Tap, HIDDEN)], (count * one + spare) / 2**30
        )
        assert len(drawn.batches) == count
        assert cache.run.forwards == 1


def test_one_batch_is_drawn_however_small_the_limit_and_no_more_are_read_than_needed(caplog) -> None:
    read = []
    given = (read.append(batch) or batch for batch in batches(6))
    with caplog.at_level(logging.INFO):
        drawn = draw_flash_set(given, TeacherCache(Transformer(6, 2)), lambda batch: [Tap(HIDDEN[0])], 1e-12)
    assert len(drawn.batches) == 1
    assert len(read) == 2
    assert "flash distillation reads 1 batches again and again" in caplog.text


def test_features_on_disk_are_as_large_as_the_limit_allows(tmp_path) -> None:
    limit = 6 * (BATCH + 3 * FEATURE)  # the input of the first block, and the outputs of two
    loader = [batch.content for batch in batches(20)]
    loader = [(inputs, torch.zeros(2).long()) for inputs, _ in loader]
    distiller = make_distiller(
        Transformer(6, 2), loader, Storage(tmp_path), flash={"train_steps": 20, "flash_set_gb": limit / 2**30}
    )
    flash_set = distiller.flash_set
    assert len(flash_set.batches) == 5  # with their targets
    for number in range(5):
        flash_set.features(number, [Tap("layers.1", "auto")])
    stored = [load_file(path)["feature"] for path in tmp_path.glob("*.safetensors")]
    kept = [feature for feature in stored if feature.dim() == 3]  # not the predictions for the first batch
    assert sum(4 * feature.numel() for feature in kept) == 5 * 3 * FEATURE <= limit - 5 * BATCH
