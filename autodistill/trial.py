"""What happened: one trial, and the result of a search, which is all of its trials."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.json_files import read_json
from autodistill.metrics import Metric, is_finite_number, losses, metric_problems, violations
from autodistill.pareto import nearest_to_ideal, non_dominated
from search_spaces import Architecture

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

SEARCH_FILE = "search.json"
TRIAL_FILE = "trial.json"
TRIALS = "trials"
TEACHER_CACHE = "teacher_cache"

_UNKNOWN = datetime.min.replace(tzinfo=UTC)


class TrialState(StrEnum):
    """Where a trial stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETE = "complete"
    FAILED = "failed"


def now() -> datetime:
    """The time in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Trial:
    """One architecture, and what became of it.

    Args:
        number: the position in the search, from 0.
        architecture: what `model_builder` was given.
        state: running, paused (evaluated after flash distillation, and not promoted), complete or failed.
        metrics: the values by name; empty unless complete.
        after_flash: the values after flash distillation, where the search has `promote`; empty until they are known.
        error: the traceback of a failed trial.
        directory: its folder in the search directory.
        started_at: when its last attempt began, in UTC.
        finished_at: when it was completed, failed or paused.
        attempts: how often it was begun; more than once after an interruption. A promotion counts anew.
        details: whatever else is worth keeping, as JSON: losses by block, the spread of the latency.
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

    @property
    def is_measured(self) -> bool:
        """Whether there are metrics of it, be they those after flash distillation."""
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
        """This trial, evaluated now after flash distillation; it waits for its promotion."""
        return self._finish(TrialState.PAUSED, details, after_flash=dict(metrics))

    def promote(self) -> Trial:
        """This trial, to be finished from now on."""
        return replace(self, state=TrialState.RUNNING, attempts=1, started_at=now(), finished_at=None)

    def fail(self, error: str, details: Mapping[str, Any] | None = None) -> Trial:
        """This trial, failed now; `error` is its traceback."""
        return self._finish(TrialState.FAILED, details, error=error)

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
        }

    @classmethod
    def from_json(cls, record: Any, directory: Path | None = None) -> Trial:
        """The trial that `to_json` described; keys it does not know are ignored.

        Raises:
            ValueError: the record describes no trial.
        """
        try:
            started, finished = (
                None if record[key] is None else datetime.fromisoformat(record[key])
                for key in ("started_at", "finished_at")
            )
            return cls(
                number=_typed(record, "number", int),
                architecture=_typed(record, "architecture", dict),
                state=TrialState(record["state"]),
                metrics=_numbers(record, "metrics"),
                after_flash=_numbers(record, "after_flash"),
                error=_typed(record, "error", str | None),
                directory=directory,
                started_at=started,
                finished_at=finished,
                attempts=_typed(record, "attempts", int),
                details=_typed(record, "details", dict),
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


def read_trial(directory: Path) -> Trial | None:
    """The trial in a folder; None where the folder has no record yet.

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


def trial_name(number: int) -> str:
    """The name of a trial's folder.

    Examples:
        >>> trial_name(12)
        '000012'
    """
    return f"{number:06d}"


def student_directory(search_dir: Path, number: int) -> Path:
    """Where the trained student of a trial is kept."""
    return search_dir / TRIALS / trial_name(number) / "student"


def trial_directories(search_dir: Path) -> list[Path]:
    """The folders of trials in a search directory, by number."""
    folders = [path for path in (search_dir / TRIALS).glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name))


class SearchResult(Sequence[Trial]):
    """All trials of a search in order, and what follows from them.

    Args:
        trials: in any order.
        metrics: the search's metrics.

    Raises:
        ConfigurationError: no metric is a goal of the search, or two have one name.

    Examples:
        >>> trials = [
        ...     Trial(number, {"layers": layers}).complete({"accuracy": accuracy, "latency": latency})
        ...     for number, (layers, accuracy, latency) in enumerate([(1, 0.7, 1.0), (2, 0.9, 2.0), (3, 0.89, 3.0)])
        ... ]
        >>> result = SearchResult(trials, [Metric("accuracy"), Metric("latency")])
        >>> [trial.number for trial in result.pareto_front]
        [0, 1]
        >>> SearchResult(trials, [Metric("accuracy")]).best.architecture
        {'layers': 2}
    """

    def __init__(self, trials: Sequence[Trial], metrics: Sequence[Metric]) -> None:
        problems = metric_problems(metrics)
        if problems:
            raise ConfigurationError(problems)
        self._trials = tuple(sorted(trials, key=lambda trial: trial.number))
        self.metrics = tuple(metrics)

    @classmethod
    def load(cls, search_dir: str | Path) -> SearchResult:
        """The result so far of the search in a directory, which may be running; nothing is written there.

        Raises:
            SearchDirectoryError: the directory holds no search, or its description cannot be read.
        """
        path = Path(search_dir) / SEARCH_FILE
        try:
            result = cls([], [Metric.of(spec) for spec in read_json(path)["metrics"]])
        except (FileNotFoundError, NotADirectoryError):
            raise SearchDirectoryError(
                f"a search directory holds a {SEARCH_FILE}, but {search_dir} has none."
            ) from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SearchDirectoryError(
                f"{path} must describe the search's metrics, but cannot be read: {error}"
            ) from error
        trials = []
        for directory in trial_directories(Path(search_dir)):
            try:
                trial = read_trial(directory)
            except ValueError as error:
                logger.warning("%s is damaged and left out: %s", directory / TRIAL_FILE, error)
                continue
            if trial is not None:
                trials.append(trial)
        return cls(trials, result.metrics)

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Trial, ...]: ...
    def __getitem__(self, index: int | slice) -> Trial | tuple[Trial, ...]:
        return self._trials[index]

    def __len__(self) -> int:
        return len(self._trials)

    def __repr__(self) -> str:
        return f"<SearchResult of {self.describe_counts()}>"

    def describe_counts(self) -> str:
        """How many trials there are, and what became of them.

        Examples:
            >>> SearchResult([Trial(0, {"layers": 2}).fail("")], [Metric("accuracy")]).describe_counts()
            '1 trials: 0 complete, 1 failed'
        """
        paused = f", {len(self.paused)} paused" if self.paused else ""
        return f"{len(self)} trials: {len(self.completed)} complete, {len(self.failed)} failed{paused}"

    @property
    def completed(self) -> list[Trial]:
        """The trials that were trained to the end, and have metrics."""
        return [trial for trial in self if trial.state is TrialState.COMPLETE]

    @property
    def failed(self) -> list[Trial]:
        """The trials that have an error."""
        return [trial for trial in self if trial.state is TrialState.FAILED]

    @property
    def paused(self) -> list[Trial]:
        """The trials that were evaluated after flash distillation, and not promoted."""
        return [trial for trial in self if trial.state is TrialState.PAUSED]

    @property
    def finished(self) -> list[Trial]:
        """The trials that are complete or have failed."""
        return [trial for trial in self if trial.state in (TrialState.COMPLETE, TrialState.FAILED)]

    @property
    def tried(self) -> list[Trial]:
        """The trials that count towards `max_trials`: all but those that run, and were not paused before."""
        return [trial for trial in self if trial.state is not TrialState.RUNNING or trial.after_flash]

    @property
    def feasible(self) -> list[Trial]:
        """The completed trials that keep every bound of every metric."""
        return [trial for trial in self.completed if all(v <= 0 for v in violations(self.metrics, trial.metrics))]

    @property
    def pareto_front(self) -> list[Trial]:
        """The feasible trials that no other feasible one beats; with one metric, those of the best value."""
        feasible = self.feasible
        if not feasible:
            return []
        kept = non_dominated([losses(self.metrics, trial.metrics) for trial in feasible])
        return [trial for trial, keep in zip(feasible, kept, strict=True) if keep]

    @property
    def unchanged_for(self) -> int:
        """How many trials came to an end or a pause since the Pareto front last changed; an equal of a member changes
        nothing."""
        ended = [trial for trial in self if trial.state is not TrialState.RUNNING]
        ended.sort(key=lambda trial: trial.finished_at or _UNKNOWN)  # promoted trials end after those of later numbers
        front = {trial.number for trial in self.pareto_front}
        entered: dict[tuple[float, ...], int] = {}
        for position, trial in enumerate(ended):
            if trial.number in front:
                entered.setdefault(losses(self.metrics, trial.metrics), position)
        return len(ended) - 1 - max(entered.values(), default=-1)

    @property
    def best(self) -> Trial | None:
        """The member of the Pareto front nearest to the ideal point, each metric scaled to the front's range.

        With one metric it is the best; of equals the first. None while no trial is feasible.
        """
        return self.choose()

    def choose(self, weights: Mapping[str, float] | None = None) -> Trial | None:
        """Like `best`, with a weight on some metrics' distance to the ideal; a metric not named weighs 1.

        Raises:
            ConfigurationError: a weight is negative or no number, or for a metric that is no goal of the search.
        """
        weights = weights or {}
        goals = [metric.name for metric in self.metrics if not metric.measured]
        for name, weight in weights.items():
            if name not in goals or not is_finite_number(weight) or weight < 0:
                raise ConfigurationError(
                    f"weights are non-negative numbers for {', '.join(goals)}, but got {weight!r} for {name!r}."
                )
        front = self.pareto_front
        if not front:
            return None
        points = [losses(self.metrics, trial.metrics) for trial in front]
        return front[nearest_to_ideal(points, [weights.get(name, 1.0) for name in goals])]

    def to_dataframe(self) -> pd.DataFrame:
        """One row a trial: number, state, `architecture_…` and `metrics_…` columns, times, attempts and error.

        With `promote` there are columns `after_flash_…` as well.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("a data frame needs pandas: pip install 'autodistill-nas[pandas]'") from error
        return pd.DataFrame([_row(trial) for trial in self])


def _row(trial: Trial) -> dict[str, Any]:
    return {
        "number": trial.number,
        "state": trial.state.value,
        **{f"architecture_{name}": value for name, value in trial.architecture.items()},
        **{f"metrics_{name}": value for name, value in trial.metrics.items()},
        **{f"after_flash_{name}": value for name, value in trial.after_flash.items()},
        "started_at": trial.started_at,
        "finished_at": trial.finished_at,
        "duration": trial.duration,
        "attempts": trial.attempts,
        "error": trial.error,
    }
