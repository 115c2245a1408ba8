"""What the parts of a search and the training of a student know of each other. No torch is imported here.

`Training` is what `run_trial` calls: the built-in `Distiller`, a user's `train_func`, a trainer of another library.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import torch

    from autodistill.distillation.checkpoints import Checkpoints
    from autodistill.processes import Processes


class TrainingReport(Protocol):
    """What is reported of a trial's training, while it runs."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of so many steps begins."""

    def step(self, step: int, loss: float) -> None:
        """So many steps of the stage are done; the loss of the last one."""

    def finished(self, name: str, losses: Sequence[float]) -> None:
        """A stage is done; the losses of all its steps."""


class NoReport:
    """A report that goes nowhere."""

    def stage(self, name: str, steps: int) -> None:
        """Nothing."""

    def step(self, step: int, loss: float) -> None:
        """Nothing."""

    def finished(self, name: str, losses: Sequence[float]) -> None:
        """Nothing."""
