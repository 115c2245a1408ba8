"""Phases of training one after the other, as one `train_func`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.training import Training, TrainingContext

Phase = Training | Callable[[nn.Module], Any]
"""A training such as the `Distiller`, or a function that trains a model in place, or returns another one."""


class Scheduler:
    """Runs phases in order, each on the model that the one before it returned.

    Args:
        model: the model that is trained, unless another one is passed to the call.
        seed: of the phases that are trainings.

    Examples:
        >>> scheduler = Scheduler(nn.Linear(2, 1))
        >>> scheduler.combine(nn.Module.eval, lambda model: nn.Sequential(model, nn.ReLU()))
        >>> [type(part).__name__ for part in scheduler()]
        ['Linear', 'ReLU']
    """

    def __init__(self, model: nn.Module | None = None, seed: int = 0) -> None:
        self.model = model
        self.seed = seed
        self.phases: tuple[Phase, ...] = ()

    def combine(self, *phases: Phase) -> None:
        """Append phases to those that the scheduler already has.

        Raises:
            ConfigurationError: one of them is neither a training nor a function.
        """
        for phase in phases:
            if not callable(phase) and not hasattr(phase, "train"):
                raise ConfigurationError(
                    f"a phase is a Distiller or a function that takes the model, but got {type(phase).__name__}."
                )
        self.phases += phases

    def __call__(self, model: nn.Module | None = None) -> nn.Module:
        """Run all phases and return the trained model.

        Args:
            model: the model that is trained; by default the scheduler's own.

        Raises:
            ConfigurationError: there is no model or no phase, or a function returned something other than a model.
        """
        current = model if model is not None else self.model
        if current is None or not self.phases:
            missing = "model; pass it to Scheduler" if current is None else "phase; call combine first"
            raise ConfigurationError(f"a scheduler needs a model and at least one phase, but has no {missing}.")
        for phase in self.phases:
            if not callable(phase):
                current = phase.train(current, TrainingContext(self.seed)).model
                continue
            returned = phase(current)
            if not isinstance(returned, nn.Module | None):
                raise ConfigurationError(
                    f"a phase returns the trained model, or None if it is the same, but returned "
                    f"{type(returned).__name__}."
                )
            current = returned if returned is not None else current
        return current
