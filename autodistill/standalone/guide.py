"""The functions of the practical guide to distillation, for programs with their own training loop."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from autodistill.environment import resolve_device
from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.losses.criterion import run_in_eval, run_plain
from autodistill.losses.functions import distillation_loss, in_full
from autodistill.losses.weights_and_temperature import check_temperature
from autodistill.models.taps import main_part
from autodistill.tensors import to_device

EPOCHS = 10
"""The default number of epochs; the guide does not specify one."""


def softmax_with_temperature(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    """`softmax(logits / T)` over the classes.

    Args:
        logits: (N, C) or (N, L, C), or images (N, C, H, W).
        temperature: T; the higher, the more even the probabilities.

    Raises:
        ConfigurationError: the temperature is not positive and finite.

    Examples:
        >>> softmax_with_temperature(torch.tensor([[2.0, 2.0]]), temperature=4.0)
        tensor([[0.5000, 0.5000]])
    """
    return (logits / check_temperature(temperature)).softmax(1 if logits.dim() == 4 else -1)


def get_temperature(epoch: float, max_epochs: float) -> float:
    """`1 + 4 (1 - epoch / max_epochs)`: from 5 at the first epoch to 1 after the last.

    Raises:
        ConfigurationError: `max_epochs` is not positive, or the epoch is not one of them.

    Examples:
        >>> get_temperature(0, 10), get_temperature(5, 10), get_temperature(10, 10)
        (5.0, 3.0, 1.0)
    """
    if not 0 <= epoch <= max_epochs or max_epochs <= 0:
        raise ConfigurationError(f"an epoch lies between 0 and max_epochs, but got {epoch} of {max_epochs}.")
    return 1.0 + 4.0 * (1.0 - epoch / max_epochs)


def online_distillation(
    student_model: nn.Module, teacher_model: nn.Module, data: Any, temperature: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of student and teacher for the same data, the teacher's in eval mode and without gradients.

    Args:
        student_model: called in its present mode.
        teacher_model: its modes are restored.
        data: a mapping (keyword arguments), a tuple (arguments), or the only argument.
        temperature: T at which the logits will be compared; it is only validated, since losses divide by it.

    Returns:
        (student's logits, teacher's logits), neither divided by the temperature.

    Raises:
        ConfigurationError: the temperature is not positive and finite.

    Examples:
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> student_logits, teacher_logits = online_distillation(student, teacher, torch.randn(8, 4), temperature=2.0)
        >>> student_logits.requires_grad, teacher_logits.requires_grad
        (True, False)
    """
    check_temperature(temperature)
    teacher_logits = main_part(run_in_eval(teacher_model, data))
    return main_part(run_plain(student_model, data)), teacher_logits


def train_with_distillation(
    student_model: nn.Module,
    teacher_model: nn.Module | None,
    train_loader: Iterable[Any],
    optimizer: torch.optim.Optimizer,
    temperature: float = 1.0,
    alpha: float = 0.5,
    device: torch.device | str = "auto",
    num_epochs: int = EPOCHS,
) -> list[float]:
    """Train a student in place by `distillation_loss`.

    Args:
        student_model: moved to `device`; in training mode afterwards.
        teacher_model: moved to `device`; predicts for batches without predictions. None if all have them.
        train_loader: batches (inputs, labels, teacher's logits), as those of a `DistillationDataset`, or (inputs,
            labels); read once in each epoch.
        optimizer: of the student's parameters.
        temperature: T, positive.
        alpha: the teacher's share of the loss, in [0, 1].
        device: 'auto' for a GPU if there is one, else the CPU.
        num_epochs: how often the loader is read.

    Returns:
        The mean loss of each epoch.

    Raises:
        ConfigurationError: an argument is out of its range, a batch has another form, or there is none.
        NonFiniteError: a loss became NaN or infinite.

    Examples:
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> batches = [(torch.randn(8, 4), torch.randint(0, 3, (8,)))]
        >>> optimizer, scheduler = configure_training(student, learning_rate=0.01, num_epochs=2)
        >>> len(train_with_distillation(student, teacher, batches, optimizer, device="cpu", num_epochs=2))
        2
    """
    if num_epochs < 1:
        raise ConfigurationError(f"training takes at least one epoch, but num_epochs is {num_epochs}.")
    device = resolve_device(device)
    student_model.to(device).train()
    teacher = teacher_model.to(device) if teacher_model is not None else None
    history = []
    for epoch in range(num_epochs):
        losses = []
        for content in train_loader:
            data, labels, predictions = _triple(to_device(content, device), teacher)
            logits = in_full(main_part(student_model(data)))
            loss = distillation_loss(logits, in_full(predictions), labels, temperature, alpha)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            losses.append(loss.detach())
        if not losses:
            raise ConfigurationError("training needs at least one batch in each epoch, but the loader yielded none.")
        history.append(torch.stack(losses).mean().item())
        if not math.isfinite(history[-1]):
            raise NonFiniteError(
                f"the loss must stay finite, but became {history[-1]} in epoch {epoch}; lower the learning rate."
            )
    return history


def _triple(content: Any, teacher: nn.Module | None) -> tuple[Any, torch.Tensor, torch.Tensor]:
    """The inputs, the labels, and the teacher's logits: those of the batch, else computed."""
    parts = len(content) if isinstance(content, tuple | list) else 0
    if parts == 3 and isinstance(content[2], torch.Tensor):
        return content[0], content[1], content[2]
    if parts == 2 and teacher is not None:
        return content[0], content[1], main_part(run_in_eval(teacher, content[0]))
    raise ConfigurationError(
        f"a batch is (inputs, labels, teacher's logits), or (inputs, labels) with a teacher_model, but the loader "
        f"yielded {type(content).__name__}" + (f" of {parts}" if parts else "") + "; for other forms use DistilRunner."
    )


def configure_training(
    student_model: nn.Module, learning_rate: float, num_epochs: int = EPOCHS
) -> tuple[torch.optim.Optimizer, LRScheduler]:
    """Adam, and a cosine schedule from the learning rate to 0 over the epochs.

    Args:
        student_model: whose parameters are trained.
        learning_rate: at the start, positive.
        num_epochs: calls of `scheduler.step()`, one after each epoch, until the rate is 0.

    Raises:
        ConfigurationError: the learning rate or the number of epochs is not positive.

    Examples:
        >>> optimizer, scheduler = configure_training(nn.Linear(4, 3), learning_rate=0.1, num_epochs=2)
        >>> optimizer.step()
        >>> scheduler.step()
        >>> round(optimizer.param_groups[0]["lr"], 6)
        0.05
    """
    problems = [
        f"{name} must be positive, but is {value}."
        for name, value in (("learning_rate", learning_rate), ("num_epochs", num_epochs))
        if not value > 0
    ]
    if problems:
        raise ConfigurationError(problems)
    optimizer = torch.optim.Adam(student_model.parameters(), lr=learning_rate)
    return optimizer, CosineAnnealingLR(optimizer, T_max=num_epochs)
