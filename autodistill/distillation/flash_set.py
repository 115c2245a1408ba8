"""The flash set: the batches of flash distillation, and what the teacher computes for them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from autodistill.batch import Batch
from autodistill.distillation.activation_store import GIB
from autodistill.distillation.plan import Stage
from autodistill.distillation.teacher_cache import TeacherCache, loss_inputs
from autodistill.losses.criterion import Features
from autodistill.losses.top_k import TeacherFeatures
from autodistill.models.taps import Tap
from autodistill.tensors import nbytes, tensors_in

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class FlashSet:
    """The batches that flash distillation reads repeatedly, with the teacher's features.

    Args:
        batches: at least one, on the student's device.
        cache: computes the teacher's features.
        later_taps: the other taps of the teacher that will be requested: computed in the same forward pass.

    Examples:
        >>> batches = [Batch((torch.full((1, 2), value), None)) for value in (1.0, 2.0)]
        >>> flash_set = FlashSet(batches, TeacherCache(torch.nn.Identity()))
        >>> flash_set.batch(3).inputs
        tensor([[2., 2.]])
        >>> flash_set.features(3, [Tap("")])
        {Tap(path='', process=''): tensor([[2., 2.]])}
    """

    batches: Sequence[Batch]
    cache: TeacherCache
    later_taps: Sequence[Tap] = ()

    def with_later_taps(self, taps: Sequence[Tap]) -> FlashSet:
        """The same batches, for which these features of the teacher will be requested later."""
        return replace(self, later_taps=taps)

    @property
    def device(self) -> torch.device:
        """The device of the batches."""
        return self.batches[0].device

    def index(self, number: int) -> int:
        """The position in the set of batch number k of an endless stream: k modulo the number of batches."""
        return number % len(self.batches)

    def batch(self, number: int) -> Batch:
        """Batch number k of an endless stream."""
        return self.batches[self.index(number)]

    def features(self, number: int, taps: Sequence[Tap]) -> Features:
        """The teacher's features of batch number k, without gradients."""
        return self.cache.features(self.batch(number), taps, self.later_taps)

    def targets(self, number: int, stage: Stage) -> TeacherFeatures:
        """The teacher's features of batch number k that a stage compares, some logits reduced to the largest."""
        reduced = set() if stage.top_k is None else set(stage.top_k.taps)
        whole = self.features(number, [tap for tap in stage.teacher_taps if tap not in reduced])
        logits = [tap for tap in stage.teacher_taps if tap in reduced]
        return {**whole, **self.cache.outputs(self.batch(number), logits, stage.top_k)} if logits else whole

    def loss_inputs(self, number: int, stage: Stage) -> dict[str, Any]:
        """The inputs of the loss of batch number k besides the student: they explain a loss that is not finite."""
        return loss_inputs(self.batch(number), self.targets(number, stage))


def draw_flash_set(
    batches: Iterable[Batch], cache: TeacherCache, requested: Callable[[Batch], Sequence[Tap]], limit_gb: float
) -> FlashSet:
    """The first batches whose contents and features of the teacher stay within a limit; at least one.

    The teacher runs on the first batch. The size of the others follows from it, as their features are in proportion to
    the elements of their first tensor (tokens, pixels).

    Args:
        batches: in the order of the training data; no more are read than needed.
        cache: computes all requested features whenever the teacher runs on one of these batches.
        requested: returns, for the first batch, the taps of the teacher that students may request.
        limit_gb: of all batches, in GiB.

    Examples:
        >>> batches = [Batch((torch.full((1, 2), value), None)) for value in (1.0, 2.0, 3.0)]
        >>> cache = TeacherCache(torch.nn.Identity())
        >>> drawn = draw_flash_set(batches, cache, lambda batch: [Tap("")], limit_gb=40 / 2**30)
        >>> len(drawn.batches)  # of 8 bytes each, and 8 bytes of features
        2
    """
    drawn: list[Batch] = []
    taps: Sequence[Tap] = ()
    used = size_of_element = 0.0
    for batch in batches:
        if not drawn:
            with contextlib.suppress(Exception):  # raised with all other mistakes when a student is checked
                taps = requested(batch)
                size_of_element = cache.nbytes(cache.features(batch, taps)) / elements_of_inputs(batch)
        used += nbytes(batch.content) + size_of_element * elements_of_inputs(batch)
        if drawn and used > limit_gb * GIB:
            logger.info(
                "flash distillation reads %d batches again and again: with the teacher's hidden states, more would "
                "exceed flash_set_gb (%g)",
                len(drawn),
                limit_gb,
            )
            break
        drawn.append(batch)
    cache.expect(drawn, taps)
    return FlashSet(drawn, cache)


def elements_of_inputs(batch: Batch) -> int:
    """The number of elements of a batch's first tensor: its tokens or pixels, in proportion to which a model works.

    Examples:
        >>> elements_of_inputs(Batch({"input_ids": torch.ones(2, 5), "labels": torch.ones(2)}))
        10
    """
    return max(1, next((tensor.numel() for tensor in tensors_in(batch.content)), 1))
