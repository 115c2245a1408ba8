"""The optimizer and the learning-rate schedule of a stage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler
from transformers import get_scheduler

from autodistill.config.phase import PhaseConfig

_FUSED = ("Adam", "AdamW")
"""Optimizers that update all parameters in one pass by default; on CPU, that is several times faster."""


def make_optimizer(settings: PhaseConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer of these parameters, in one group, or in two if biases and norms do not decay.

    Adam and AdamW are `fused`, unless `optimizer_arguments` set that or `foreach`.

    Examples:
        >>> optimizer = make_optimizer(PhaseConfig(optimizer="SGD", learning_rate=0.5), nn.Linear(2, 1).parameters())
        >>> type(optimizer).__name__, optimizer.param_groups[0]["lr"]
        ('SGD', 0.5)
    """
    parameters = list(parameters)
    optimizer_class = getattr(torch.optim, settings.optimizer)
    optimizer: torch.optim.Optimizer = optimizer_class(
        parameters if settings.decay_biases_and_norms else _groups(parameters),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        **({"fused": True} if _fused(settings, parameters) else {}),
        **settings.optimizer_arguments,
    )
    return optimizer


def _fused(settings: PhaseConfig, parameters: Sequence[nn.Parameter]) -> bool:
    excluded = {"fused", "foreach", "differentiable"} & settings.optimizer_arguments.keys()
    return (
        settings.optimizer in _FUSED
        and not excluded
        and all(one.is_floating_point() and one.device.type in ("cpu", "cuda") for one in parameters)
    )


def _groups(parameters: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
    """Matrices, which decay, and parameters of fewer than two axes, which do not; without an empty group."""
    matrices = [parameter for parameter in parameters if parameter.dim() >= 2]
    others = [parameter for parameter in parameters if parameter.dim() < 2]
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": others, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


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
        scheduler_specific_kwargs=settings.scheduler_arguments,
    )
    return schedule
