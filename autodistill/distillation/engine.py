"""The contract of the engines that run the stages of a plan."""

from __future__ import annotations

from typing import Protocol

from autodistill.training import StageRecord, TrainingContext


class Engine(Protocol):
    """Runs one or more stages of a plan on the student for which it was created."""

    def run(self, context: TrainingContext) -> list[StageRecord]:
        """Train the student in place.

        Args:
            context: seed, progress report and checkpoints of this training.

        Returns:
            A record for each stage.

        Raises:
            NonFiniteError: the loss became NaN or infinite.
        """
