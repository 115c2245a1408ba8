"""Optimizer and schedule as configured."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autodistill import PhaseConfig
from autodistill.distillation.optimization import make_optimizer, make_schedule


def rates(settings, steps):
    """The learning rate of every step."""
    optimizer = make_optimizer(settings, nn.Linear(2, 1).parameters())
    schedule = make_schedule(settings, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_over_the_warm_up_and_falls_linearly_to_zero():
    settings = PhaseConfig(optimizer="SGD", learning_rate=2.0, scheduler="linear", warmup_ratio=0.2)
    warm_up = [2.0 * step / 2 for step in range(2)]
    decay = [2.0 * (10 - step) / 8 for step in range(2, 10)]
    assert rates(settings, 10) == pytest.approx(warm_up + decay)


def test_the_constant_schedule_keeps_the_rate():
    settings = PhaseConfig(optimizer="SGD", learning_rate=0.5, scheduler="constant")
    assert rates(settings, 3) == [0.5] * 3


def test_the_optimizer_has_its_class_decay_and_further_arguments():
    settings = PhaseConfig(optimizer="SGD", weight_decay=0.25, optimizer_arguments={"momentum": 0.5})
    optimizer = make_optimizer(settings, nn.Linear(2, 1).parameters())
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["weight_decay"], optimizer.defaults["momentum"]) == (0.25, 0.5)
