"""One trial: an architecture, its state and its metrics."""

from __future__ import annotations

import reprlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from autodistill.file_hashes import leads_outside
from autodistill.files import TEMPORARY_SUFFIX
from autodistill.json_files import read_record
from autodistill.metrics.metric import is_finite_number
from autodistill.search.layout import DAMAGED_SUFFIX, TRIAL_FILE, trial_name
from search_spaces import Architecture
from search_spaces.checks import is_value, plain

_MOST_ATTEMPTS = 10**6

EARLIER_ERRORS = "earlier_errors"
"""The key in the details of a trial that failed and was run again: the list of its errors, the first one first."""

EARLIER_METRICS = "earlier_metrics"
"""The same for the metrics of a trial that was complete, and was run again since its student was damaged."""


CHOSEN = "chosen"
"""The key in the details of a trial that the user had finished: its student is kept."""


class TrialState(StrEnum):
    """The state of a trial."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"


def now() -> datetime:
    """The current time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Trial:
    """One architecture, with its state and its metrics.

    Args:
        number: the position in the search, from 0.
        architecture: the argument of `model_builder`.
        state: running, paused (evaluated in the first rung, and not promoted), complete or failed.
        metrics: the values by name; empty unless complete.
        after_flash: the values of the first rung (after flash distillation, or of the slice of an elastic student), if
            the search has `promote`; empty until they are known.
        error: the traceback of a failed trial.
        directory: its folder in the search directory.
        started_at: when its last attempt began, in UTC.
        finished_at: when it was completed, failed or paused.
        attempts: how often it was started without progress; more than once after an interruption. A checkpoint written
            since the last start, a promotion, or running a failed trial again resets it to one.
        starts: how often it was started at all. Each start writes into a folder of its own, so that a worker that was
            given up, and may still be at work, changes nothing of the next.
        details: further results, as JSON: losses by block, the spread of the latency.
        student: the hash of each file of the trained student; empty if none was saved.
        added: it was run elsewhere and recorded with `add_trial`; it has no student.
    """

    number: int
    architecture: Architecture
    state: TrialState = TrialState.RUNNING
    metrics: dict[str, float] = field(default_factory=dict)
    after_flash: dict[str, float] = field(default_factory=dict)
    error: str | None = None
    directory: Path | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    attempts: int = 1
    starts: int = 1
    details: dict[str, Any] = field(default_factory=dict)
    student: dict[str, str] = field(default_factory=dict)
    added: bool = False

    @property
    def is_measured(self) -> bool:
        """Whether it has metrics, final ones or those after flash distillation."""
        return bool(self.metrics or self.after_flash)

    @property
    def duration(self) -> float | None:
        """Seconds from the start of the last attempt to the end; None while it runs."""
        if self.started_at is None or self.finished_at is None:
            return None
        return (self.finished_at - self.started_at).total_seconds()

    def complete(
        self,
        metrics: Mapping[str, float],
        details: Mapping[str, Any] | None = None,
        student: Mapping[str, str] | None = None,
    ) -> Trial:
        """This trial, completed now."""
        return self._finish(TrialState.COMPLETE, details, metrics=dict(metrics), student=dict(student or {}))

    def pause(self, metrics: Mapping[str, float], details: Mapping[str, Any] | None = None) -> Trial:
        """This trial, paused now with its metrics after flash distillation."""
        return self._finish(TrialState.PAUSED, details, after_flash=dict(metrics))

    def promote(self) -> Trial:
        """This trial, running again to be finished."""
        return replace(self.start(attempts=1), finished_at=None)

    def start(self, attempts: int) -> Trial:
        """This trial, started once more now."""
        return replace(self, state=TrialState.RUNNING, attempts=attempts, starts=self.starts + 1, started_at=now())

    def fail(self, error: str, details: Mapping[str, Any] | None = None) -> Trial:
        """This trial, failed now; `error` is its traceback."""
        return self._finish(TrialState.FAILED, details, error=error)

    def reopen(self) -> Trial:
        """This trial, to be run again as after an orderly interruption; its error or its metrics become a detail."""
        details = dict(self.details)
        for key, value in ((EARLIER_ERRORS, self.error), (EARLIER_METRICS, self.metrics)):
            if value:
                earlier = details.get(key)
                details[key] = [*(earlier if isinstance(earlier, list) else []), value]
        return replace(
            self,
            state=TrialState.RUNNING,
            attempts=0,
            metrics={},
            error=None,
            finished_at=None,
            details=details,
            student={},
        )

    def _finish(self, state: TrialState, details: Mapping[str, Any] | None, **changes: Any) -> Trial:
        merged = {**self.details, **(details or {})}
        return replace(self, state=state, finished_at=now(), details=merged, **changes)

    def to_json(self) -> dict[str, Any]:
        """Everything but the directory, for a JSON file.

        Examples:
            >>> trial = Trial(0, {"layers": 2}).complete({"accuracy": 0.9})
            >>> Trial.from_json(trial.to_json()) == trial
            True
        """
        return {
            "number": self.number,
            "architecture": self.architecture,
            "state": self.state.value,
            "metrics": self.metrics,
            "after_flash": self.after_flash,
            "started_at": None if self.started_at is None else self.started_at.isoformat(),
            "finished_at": None if self.finished_at is None else self.finished_at.isoformat(),
            "attempts": self.attempts,
            "starts": self.starts,
            "error": self.error,
            "details": self.details,
            "student": self.student,
            "added": self.added,
        }

    @classmethod
    def from_json(cls, record: Any, directory: Path | None = None) -> Trial:
        """The trial that `to_json` described; unknown keys are ignored.

        Raises:
            ValueError: the record does not describe a trial.
        """
        try:
            details = _typed(record, "details", dict)
            trial = cls(
                number=_typed(record, "number", int),
                architecture={name: plain(value) for name, value in _typed(record, "architecture", dict).items()},
                state=TrialState(record["state"]),
                metrics=_numbers(record, "metrics"),
                after_flash=_numbers(record, "after_flash"),
                error=_typed(record, "error", str | None),
                directory=directory,
                started_at=_time(record, "started_at"),
                finished_at=_time(record, "finished_at"),
                attempts=_typed(record, "attempts", int),
                starts=_typed({"starts": 1, **record}, "starts", int),  # earlier versions wrote none
                details=details,
                student=_hashes(record),
                added=record.get("added", details.get("added", False)) is True,  # earlier versions: in the details
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no record of a trial: {type(error).__name__} {error}") from error
        trial._check()
        return trial

    def _check(self) -> None:
        for name, count in (("attempts", self.attempts), ("starts", self.starts)):
            if not 0 <= count <= _MOST_ATTEMPTS:
                raise ValueError(f"{name} must be from 0 to {_MOST_ATTEMPTS}, but are {_shown(count)}")
        if not all(is_value(value) for value in self.architecture.values()):
            raise ValueError("the values of the architecture must be numbers, texts, or lists of such values")
        if (missing := self.lacks()) is not None:
            raise ValueError(missing)

    def lacks(self, metrics: Collection[str] = ()) -> str | None:
        """What is missing of the values that the trial must have in its state, as the end of a sentence.

        Args:
            metrics: the names of all metrics of the search; at least one value is needed in any case.

        Returns:
            None if nothing is missing.

        Examples:
            >>> Trial(0, {"layers": 2}).complete({"accuracy": 0.9}).lacks(["accuracy", "latency"])
            "it is complete, but has no value of 'latency'"
        """
        needed = {"is complete": self.metrics} if self.state is TrialState.COMPLETE else {}
        if self.after_flash or self.state is TrialState.PAUSED:
            needed["was evaluated in the first rung"] = self.after_flash
        for what, values in needed.items():
            missing = [name for name in metrics if name not in values]
            if missing or not values:
                return f"it {what}, but has no value of {', '.join(map(repr, missing)) or 'any metric'}"
        return None


def _numbers(record: Mapping[str, Any], key: str) -> dict[str, float]:
    values = _typed(record, key, dict)
    for name, value in values.items():
        if not is_finite_number(value):
            raise TypeError(f"{key} has {_shown(value)} for {name!r}, which is no finite number")
    return {name: float(value) for name, value in values.items()}


def _hashes(record: Mapping[str, Any]) -> dict[str, str]:
    if "student" not in record:  # earlier versions wrote none
        return {}
    hashes: dict[str, str] = _typed(record, "student", dict)
    for name, value in hashes.items():
        if leads_outside(name) or not isinstance(value, str):
            raise TypeError(f"student has {_shown(value)} for {_shown(name)}")
    return hashes


def _time(record: Mapping[str, Any], key: str) -> datetime | None:
    text = _typed(record, key, str | None)
    if text is None:
        return None
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{key} must have a zone, but is {text}")
    return time.astimezone(UTC)


def _typed(record: Mapping[str, Any], key: str, kind: Any) -> Any:
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is {_shown(value)}")
    return value


def _shown(value: object) -> str:
    """A value of unknown size for a message."""
    return reprlib.repr(value)


def read_trial(directory: Path, metrics: Collection[str] = ()) -> Trial | None:
    """The trial in a folder; None if the folder has no record yet.

    Args:
        directory: the folder.
        metrics: the names of the search's metrics.

    Raises:
        ValueError: the record is damaged, lacks a metric, or is that of another folder's trial.
        OSError: it cannot be read.
    """
    try:
        trial = Trial.from_json(read_record(directory / TRIAL_FILE), directory)
    except FileNotFoundError:
        return None
    except IsADirectoryError as error:
        raise ValueError("it is a folder") from error
    if directory.name != trial_name(trial.number):
        raise ValueError(f"the record is that of trial {_shown(trial.number)}")
    if (missing := trial.lacks(metrics)) is not None:
        raise ValueError(missing)
    return trial


def has_lost_its_record(directory: Path) -> bool:
    """Whether a folder without a record holds files of a trial; those set aside or still being written do not count.

    Raises:
        OSError: the folder cannot be read.
    """
    passing = {TEMPORARY_SUFFIX, DAMAGED_SUFFIX}
    return not all(passing.intersection(entry.suffixes) for entry in directory.iterdir())
