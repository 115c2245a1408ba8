"""The flash set: the batches of flash distillation, and what the teacher computes for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from autodistill.batch import Batch
from autodistill.distillation.teacher_cache import TeacherCache, loss_inputs
from autodistill.losses.criterion import Features
from autodistill.models.taps import Tap


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

    def loss_inputs(self, number: int, taps: Sequence[Tap]) -> dict[str, Any]:
        """The inputs of the loss of batch number k besides the student: they explain a loss that is not finite."""
        return loss_inputs(self.batch(number), self.features(number, taps))
