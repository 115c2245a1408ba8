"""What a search reports to a display."""

from __future__ import annotations

from typing import Protocol

from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial


class Progress(Protocol):
    """What the search tells a display. `close` may be called at any time, more than once."""

    def search_started(self, total_trials: int, done: int) -> None:
        """A search of `total_trials` begins, `done` of which are there from an earlier run."""

    def trial_started(self, trial: Trial) -> None:
        """A trial begins, or is promoted: it has metrics after flash distillation then."""

    def stage(self, name: str, steps: int) -> None:
        """A part of the current trial begins: a block of flash distillation, say."""

    def step(self, n: int, loss: float | None = None) -> None:
        """`n` steps of the current stage are done."""

    def trial_finished(self, trial: Trial) -> None:
        """The current trial is complete, has failed, or is paused."""

    def search_finished(self, result: SearchResult) -> None:
        """The search is over."""

    def close(self) -> None:
        """Give the terminal back, also when the search is interrupted."""


class NoProgress:
    """Shows nothing."""

    def search_started(self, total_trials: int, done: int) -> None: ...
    def trial_started(self, trial: Trial) -> None: ...
    def stage(self, name: str, steps: int) -> None: ...
    def step(self, n: int, loss: float | None = None) -> None: ...
    def trial_finished(self, trial: Trial) -> None: ...
    def search_finished(self, result: SearchResult) -> None: ...
    def close(self) -> None: ...
