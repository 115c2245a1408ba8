"""The teacher runs in eval mode, no further than needed, and what it costs is counted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.teacher_run import TeacherRun
from autodistill.errors import ConfigurationError
from autodistill.models.taps import Tap


class Noisy(nn.Module):
    def __init__(self, scale: float) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)
        self.scale = scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + self.scale * torch.rand(3)


def batch(size: int = 4) -> Batch:
    return Batch((torch.randn(size, 3, generator=torch.Generator().manual_seed(size)), None))


def test_features_are_those_of_eval_mode_and_samples_are_counted() -> None:
    teacher = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.9))
    run = TeacherRun(teacher)
    for size in (4, 2):
        (found,) = run.features(batch(size), [Tap("")]).values()
        assert torch.equal(found, teacher[0](batch(size).inputs))
        assert not found.requires_grad
    assert (run.forwards, run.samples) == (2, 6)


def test_later_forwards_end_at_the_last_layer() -> None:
    finished = []
    teacher = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2))
    teacher[1].register_forward_hook(lambda *_: finished.append(1))
    run = TeacherRun(teacher)
    for _ in range(3):
        run.features(batch(), [Tap("0")])
    assert len(finished) == 1


def test_a_teacher_must_not_use_the_random_numbers_that_it_draws() -> None:
    with pytest.raises(ConfigurationError, match="differs between two forward passes"):
        TeacherRun(Noisy(0.5)).features(batch(), [Tap("")])
    run = TeacherRun(Noisy(0.0))
    for _ in range(2):
        run.features(batch(), [Tap("")])
    assert run.forwards == 2
