"""One trial: an architecture, its state and its metrics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

from autodistill.errors import ConfigurationError
from autodistill.files import read_json
from autodistill.search.layout import TRIAL_FILE, trial_name
from search_spaces import Architecture
from search_spaces.checks import plain

EARLIER_ERRORS = "earlier_errors"
"""The key in the details of a trial that failed and was run again: the list of its errors, the first one first."""


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
        state: running, paused (evaluated after flash distillation, and not promoted), complete or failed.
        metrics: the values by name; empty unless complete.
        after_flash: the values after flash distillation, if the search has `promote`; empty until they are known.
        error: the traceback of a failed trial.
        directory: its folder in the search directory.
        started_at: when its last attempt began, in UTC.
        finished_at: when it was completed, failed or paused.
        attempts: how often it was started; more than once after an interruption. A promotion, or running a failed
            trial again, resets it to one.
        details: further results, as JSON: losses by block, the spread of the latency.
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
    details: dict[str, Any] = field(default_factory=dict)
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

    def complete(self, metrics: Mapping[str, float], details: Mapping[str, Any] | None = None) -> Trial:
        """This trial, completed now."""
        return self._finish(TrialState.COMPLETE, details, metrics=dict(metrics))

    def pause(self, metrics: Mapping[str, float], details: Mapping[str, Any] | None = None) -> Trial:
        """This trial, paused now with its metrics after flash distillation."""
        return self._finish(TrialState.PAUSED, details, after_flash=dict(metrics))

    def promote(self) -> Trial:
        """This trial, running again to be finished."""
        return replace(self, state=TrialState.RUNNING, attempts=1, started_at=now(), finished_at=None)

    def fail(self, error: str, details: Mapping[str, Any] | None = None) -> Trial:
        """This trial, failed now; `error` is its traceback."""
        return self._finish(TrialState.FAILED, details, error=error)

    def reopen(self) -> Trial:
        """This failed trial, to be run again as after an orderly interruption; its error becomes a detail."""
        errors = [*self.details.get(EARLIER_ERRORS, []), self.error]
        return replace(
            self,
            state=TrialState.RUNNING,
            attempts=0,
            error=None,
            finished_at=None,
            details={**self.details, EARLIER_ERRORS: errors},
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
            "error": self.error,
            "details": self.details,
            "added": self.added,
        }

    @classmethod
    def from_json(cls, record: Any, directory: Path | None = None) -> Trial:
        """The trial that `to_json` described; unknown keys are ignored.

        Raises:
            ValueError: the record does not describe a trial.
        """
        try:
            started, finished = (
                None if record[key] is None else datetime.fromisoformat(record[key])
                for key in ("started_at", "finished_at")
            )
            details = _typed(record, "details", dict)
            return cls(
                number=_typed(record, "number", int),
                architecture={name: plain(value) for name, value in _typed(record, "architecture", dict).items()},
                state=TrialState(record["state"]),
                metrics=_numbers(record, "metrics"),
                after_flash=_numbers(record, "after_flash"),
                error=_typed(record, "error", str | None),
                directory=directory,
                started_at=started,
                finished_at=finished,
                attempts=_typed(record, "attempts", int),
                details=details,
                added=record.get("added", details.get("added", False)) is True,  # earlier versions: in the details
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"no record of a trial: {type(error).__name__} {error}") from error


def _numbers(record: Mapping[str, Any], key: str) -> dict[str, float]:
    return {name: float(value) for name, value in _typed(record, key, dict).items()}


def _typed(record: Mapping[str, Any], key: str, kind: Any) -> Any:
    value = record[key]
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is {value!r}")
    return value


def ensure_has_student(trial: Trial) -> None:
    """Raise an error for a trial that never had a trained student.

    Raises:
        ConfigurationError: it is paused, or was added.
    """
    if trial.state is TrialState.PAUSED:
        raise ConfigurationError(
            f"a student is kept once its trial is complete, but trial {trial.number} is paused after flash "
            "distillation; resume the search with a larger promote, or without it."
        )
    if trial.added:
        raise ConfigurationError(
            f"a student is kept where it was trained, but trial {trial.number} was run elsewhere and added; take that "
            "of another trial."
        )


def read_trial(directory: Path) -> Trial | None:
    """The trial in a folder; None if the folder has no record yet.

    Raises:
        ValueError: the record is damaged, or is that of another folder's trial.
    """
    try:
        trial = Trial.from_json(read_json(directory / TRIAL_FILE), directory)
    except FileNotFoundError:
        return None
    if directory.name != trial_name(trial.number):
        raise ValueError(f"the record is that of trial {trial.number}")
    return trial
