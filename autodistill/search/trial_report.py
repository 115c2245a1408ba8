"""What a trial's training tells the world: the progress display, and the losses in the trial's directory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from autodistill.search.progress import Progress

LOSSES_FILE = "progress.jsonl"


class TrialReport:
    """Passes a trial's training on to a display, and writes the losses of every finished stage to `progress.jsonl`.

    Args:
        progress: the display.
        directory: the trial's.
    """

    def __init__(self, progress: Progress, directory: Path) -> None:
        self._progress = progress
        self._losses = directory / LOSSES_FILE
        self._losses.unlink(missing_ok=True)

    def stage(self, name: str, steps: int) -> None:
        """A stage begins."""
        self._progress.stage(name, steps)

    def step(self, step: int, loss: float) -> None:
        """So many steps of the stage are done."""
        self._progress.step(step, loss)

    def finished(self, name: str, losses: Sequence[float]) -> None:
        """A stage is done: a line with the losses of all its steps."""
        with self._losses.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": name, "losses": list(losses)}) + "\n")
