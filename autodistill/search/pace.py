"""How fast a search runs and how much work remains, from the times that its trials recorded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState

RECENT = 20
"""The number of the last trials whose pace counts."""

_MOST = 10**9  # trials: more are a mistake in the file, and taken for no limit
_ROUNDING = 1e-9  # as in the promotion: 0.29 of 100 trials are 29, though 0.29 * 100 < 29


@dataclass(frozen=True)
class Pace:
    """The pace of a search.

    With `promote` a trial has two parts, which end when it is paused and when it is complete; each part has its own
    time, and only a share of the trials has the second.

    Args:
        done: the trials that count towards `max_trials`.
        total: `max_trials`; None if the search has no such limit, or has more trials already.
        seconds: of a trial, the mean of the recent ones; None while no trial has ended.
        remaining: seconds of work until `total` trials are done; None if `total` or the time of a part is not known.
        since: when the trial began that is running.

    Examples:
        >>> Pace(done=10, total=50, seconds=90.0, remaining=3600.0).trials_per_hour
        40.0
    """

    done: int
    total: int | None
    seconds: float | None
    remaining: float | None
    since: datetime | None = None

    @classmethod
    def of(cls, result: SearchResult, description: Mapping[str, Any]) -> Pace:
        """The pace of a search.

        Args:
            result: its trials.
            description: its settings, as `search.json` has them; those that are not valid count as absent.
        """
        promote = _share(description.get("promote"))
        done, total = len(result.tried), _limit(description.get("max_trials"))
        if total is not None and total < done:
            total = None
        second = _mean(trial for trial in result if trial.after_flash and trial.state is not TrialState.PAUSED)
        first = _mean(trial for trial in result if _is_first_part(trial, promote))
        running = [t.started_at for t in result if t.state is TrialState.RUNNING and t.started_at is not None]
        remaining = None
        if total is not None:
            remaining = _work(total - done, first) + _work(_promotions(result, promote, total), second)
        return cls(
            done=done,
            total=total,
            seconds=first if promote is None or first is None else _known(first + _work(promote, second)),
            remaining=None if remaining is None else _known(remaining),
            since=max(running, default=None),
        )

    @property
    def trials_per_hour(self) -> float | None:
        """How many trials the search does in an hour; None if the time of a trial is not known, or is none."""
        return 3600 / self.seconds if self.seconds else None

    def end(self, now: datetime) -> datetime | None:
        """When the search is expected to end, if it goes on; None if this is not known, or beyond the calendar.

        Args:
            now: the current time; the running trial has taken a part of the work off already.
        """
        if self.remaining is None:
            return None
        try:
            return max(now, min(now, self.since or now) + timedelta(seconds=self.remaining))
        except OverflowError:
            return None


def _is_first_part(trial: Trial, promote: float | None) -> bool:
    """Whether a trial took the time that others will take until they are tried."""
    if trial.state is TrialState.PAUSED:
        return promote is not None
    if trial.after_flash:  # its time is that of its second part
        return False
    return promote is None or trial.state is not TrialState.COMPLETE  # else it ran before the search had `promote`


def _promotions(result: SearchResult, promote: float | None, total: int) -> float:
    """How many paused or running trials are still to be trained to the end: at least as many as are running."""
    ended = sum(bool(trial.after_flash) and trial.state is not TrialState.PAUSED for trial in result.finished)
    running = sum(bool(trial.after_flash) for trial in result if trial.state is TrialState.RUNNING)
    due = len(result.paused) + running if promote is None else math.floor(promote * total + _ROUNDING) - ended
    return max(due, running)


def _mean(trials: Iterable[Trial]) -> float | None:
    """The mean duration of the recent ones of some trials, in seconds; None if there are none.

    Trials that were added ran elsewhere, and the clock may have been set back during others.
    """
    timed = [
        (trial.finished_at, trial.duration)
        for trial in trials
        if not trial.added and trial.finished_at is not None and trial.duration is not None and trial.duration >= 0
    ]
    durations = [duration for _, duration in sorted(timed)[-RECENT:]]
    return math.fsum(durations) / len(durations) if durations else None


def _work(trials: float, seconds: float | None) -> float:
    """The time of some trials or parts of them; NaN if there are some, and it is not known how long one takes."""
    if trials == 0:
        return 0.0
    return math.nan if seconds is None else trials * seconds


def _known(seconds: float) -> float | None:
    return None if math.isnan(seconds) else seconds


def _limit(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= _MOST else None


def _share(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and 0 < value <= 1 else None
