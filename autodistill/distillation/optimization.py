"""The optimizer and the learning-rate schedule of a stage."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from autodistill.config.phase import PhaseConfig


def make_optimizer(settings: PhaseConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer of these parameters.

    Examples:
        >>> optimizer = make_optimizer(PhaseConfig(optimizer="SGD", learning_rate=0.5), nn.Linear(2, 1).parameters())
        >>> type(optimizer).__name__, optimizer.param_groups[0]["lr"]
        ('SGD', 0.5)
    """
    optimizer_class = getattr(torch.optim, settings.optimizer)
    optimizer: torch.optim.Optimizer = optimizer_class(
        parameters,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        **settings.optimizer_arguments,
    )
    return optimizer


def make_schedule(settings: PhaseConfig, optimizer: torch.optim.Optimizer, steps: int) -> LRScheduler:
    """The configured learning-rate schedule over `steps` optimizer updates.

    Examples:
        >>> settings = PhaseConfig(optimizer="SGD", learning_rate=1.0, warmup_ratio=0.5)
        >>> schedule = make_schedule(settings, make_optimizer(settings, nn.Linear(2, 1).parameters()), steps=4)
        >>> schedule.get_last_lr()
        [0.0]
    """
    schedule: LRScheduler = get_scheduler(
        settings.scheduler,
        optimizer,
        num_warmup_steps=round(settings.warmup_ratio * steps),
        num_training_steps=steps,
    )
    return schedule
