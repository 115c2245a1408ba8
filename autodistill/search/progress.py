"""Progress reports of a search to a display, and of the losses of its trials to files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from autodistill.files import remove
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial
from autodistill.training import NoReport, TrainingReport


class Progress(TrainingReport, Protocol):
    """The events that a search reports to a display. `close` may be called at any time, more than once."""

    def search_started(self, total_trials: int, done: int) -> None:
        """A search of `total_trials` begins; `done` of them were finished in an earlier run."""

    def trial_started(self, trial: Trial) -> None:
        """A trial begins, or continues after its promotion; then it has metrics after flash distillation."""

    def trial_finished(self, trial: Trial) -> None:
        """The current trial is complete, has failed, or is paused."""

    def search_finished(self, result: SearchResult) -> None:
        """The search is over."""

    def close(self) -> None:
        """Release the terminal, also when the search is interrupted."""


class NoProgress(NoReport):
    """A display that shows nothing."""

    def search_started(self, total_trials: int, done: int) -> None:
        """Nothing."""

    def trial_started(self, trial: Trial) -> None:
        """Nothing."""

    def trial_finished(self, trial: Trial) -> None:
        """Nothing."""

    def search_finished(self, result: SearchResult) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


class LossRecorder:
    """Writes the losses of every finished stage as a line of JSON, and forwards all reports.

    Args:
        file: an earlier one is removed when a stage begins.
        report: receives all events too.
        continues: an earlier file stays, without the lines of stages that are run again.
    """

    def __init__(self, file: Path, report: TrainingReport, *, continues: bool = False) -> None:
        self._file = file
        self._report = report
        self._began = continues
        self._continues = continues

    def stage(self, name: str, steps: int) -> None:
        """A stage of `steps` steps begins."""
        self._begin()
        self._report.stage(name, steps)

    def _begin(self) -> None:
        if not self._began:
            remove(self._file)
        self._began = True

    def step(self, step: int, loss: float) -> None:
        """`step` steps of the stage are done."""
        self._report.step(step, loss)

    def finished(self, name: str, losses: Sequence[float]) -> None:
        """A stage is done; writes a line with the losses of all its steps."""
        self._begin()
        self._file.parent.mkdir(exist_ok=True)
        if self._continues and self._file.exists():
            lines = self._file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = "".join(line for line in lines if f'"stage": {json.dumps(name)},' not in line)
            self._file.write_text(kept, encoding="utf-8")
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"stage": name, "losses": list(losses)}) + "\n")
        self._report.finished(name, losses)
