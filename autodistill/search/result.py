"""The result of a search: all of its trials, and what is computed from them."""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.metrics.metric import Metric, is_finite_number, losses, metric_problems, violations
from autodistill.metrics.pareto import nearest_to_ideal, non_dominated
from autodistill.search.description import described_metrics, read_description
from autodistill.search.layout import TRIAL_FILE, ensure_no_links, trial_directories
from autodistill.search.trial import Trial, TrialState, has_lost_its_record, read_trial

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)


_number = attrgetter("number")
_UNKNOWN = datetime.min.replace(tzinfo=UTC)


class SearchResult(Sequence[Trial]):
    """All trials of a search in order, and what is computed from them.

    Args:
        trials: in any order.
        metrics: the search's metrics.

    Raises:
        ConfigurationError: no metric is a goal of the search, or two metrics have the same name.

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
        self._trials = tuple(sorted(trials, key=_number))
        self.metrics = tuple(metrics)
        self._front: list[Trial] | None = None  # once it has been requested

    @classmethod
    def load(cls, search_dir: str | Path) -> SearchResult:
        """The result so far of the search in a directory, which may still be running; nothing is written there.

        A trial whose record is missing, damaged or unreadable is left out with a warning.

        Raises:
            SearchDirectoryError: the directory holds no search, or its description cannot be read; or it holds links.
        """
        path = Path(search_dir)
        if path.is_dir():
            ensure_no_links(path)
        result = cls([], described_metrics(read_description(path), path))
        try:
            folders = trial_directories(path)
        except OSError as error:
            raise SearchDirectoryError(f"the trials in {search_dir} must be readable, but are not: {error}") from error
        names = [metric.name for metric in result.metrics]
        trials = [trial for folder in folders if (trial := _read(folder, names)) is not None]
        return cls(trials, result.metrics)

    def with_trial(self, trial: Trial) -> SearchResult:
        """This result with a further trial, or with another state of the one that has its number.

        A Pareto front that was requested is not computed from all trials again: it is that of its members and the
        trial. So a search takes the same time for each of its trials.

        Examples:
            >>> result = SearchResult([Trial(0, {"layers": 2}).complete({"accuracy": 0.9})], [Metric("accuracy")])
            >>> [trial.number for trial in result.with_trial(Trial(1, {"layers": 4}))]
            [0, 1]
        """
        start = bisect_left(self._trials, trial.number, key=_number)
        end = bisect_right(self._trials, trial.number, key=_number)
        changed = copy(self)
        changed._trials = (*self._trials[:start], trial, *self._trials[end:])
        if self._front is not None and trial.number in map(_number, self._front):
            changed._front = None  # without this member, trials that it dominated may be on the front
        elif self._front is not None and trial.state is TrialState.COMPLETE:
            changed._front = self._front_of(sorted([*self._front, trial], key=_number))
        return changed

    @overload
    def __getitem__(self, index: int) -> Trial: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Trial, ...]: ...
    def __getitem__(self, index: int | slice) -> Trial | tuple[Trial, ...]:
        return self._trials[index]

    def __iter__(self) -> Iterator[Trial]:
        return iter(self._trials)

    def __len__(self) -> int:
        return len(self._trials)

    def __repr__(self) -> str:
        return f"<SearchResult of {self.describe_counts()}>"

    def describe_counts(self) -> str:
        """The number of trials, in total and by state.

        Examples:
            >>> SearchResult([Trial(0, {"layers": 2}).fail("")], [Metric("accuracy")]).describe_counts()
            '1 trials: 0 complete, 1 failed'
        """
        others = {"paused": len(self.paused), "running": len(self) - len(self.finished) - len(self.paused)}
        shown = "".join(f", {count} {state}" for state, count in others.items() if count)
        return f"{len(self)} trials: {len(self.completed)} complete, {len(self.failed)} failed{shown}"

    @property
    def completed(self) -> list[Trial]:
        """The trials that were trained to the end, with their metrics."""
        return [trial for trial in self if trial.state is TrialState.COMPLETE]

    @property
    def failed(self) -> list[Trial]:
        """The trials that failed with an error."""
        return [trial for trial in self if trial.state is TrialState.FAILED]

    @property
    def paused(self) -> list[Trial]:
        """The trials that were evaluated after flash distillation and not promoted."""
        return [trial for trial in self if trial.state is TrialState.PAUSED]

    @property
    def finished(self) -> list[Trial]:
        """The trials that are complete or have failed."""
        return [trial for trial in self if trial.state in (TrialState.COMPLETE, TrialState.FAILED)]

    @property
    def tried(self) -> list[Trial]:
        """The trials that count towards `max_trials`: all except running ones that were never paused."""
        return [trial for trial in self if trial.state is not TrialState.RUNNING or trial.after_flash]

    @property
    def feasible(self) -> list[Trial]:
        """The completed trials that keep every bound of every metric."""
        return self._feasible(self)

    @property
    def pareto_front(self) -> list[Trial]:
        """The feasible trials that no other feasible trial dominates; with one metric, those with the best value."""
        if self._front is None:
            self._front = self._front_of(self)
        return list(self._front)

    def _front_of(self, trials: Iterable[Trial]) -> list[Trial]:
        feasible = self._feasible(trials)
        if not feasible:
            return []
        kept = non_dominated([losses(self.metrics, trial.metrics) for trial in feasible])
        return [trial for trial, keep in zip(feasible, kept, strict=True) if keep]

    def _feasible(self, trials: Iterable[Trial]) -> list[Trial]:
        completed = (trial for trial in trials if trial.state is TrialState.COMPLETE)
        return [trial for trial in completed if all(v <= 0 for v in violations(self.metrics, trial.metrics))]

    @property
    def unchanged_for(self) -> int:
        """How many trials ended or were paused since the Pareto front last changed; a trial that equals a member
        does not change it."""
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

        With one metric it is the trial with the best value, the first of equal ones. None while no trial is feasible.
        """
        return self.choose()

    def choose(self, weights: Mapping[str, float] | None = None) -> Trial | None:
        """Like `best`, with weights on the metrics' distances to the ideal; the default weight is 1.

        Raises:
            ConfigurationError: a weight is negative or not a number, or its metric is not a goal of the search.
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
        """One row per trial: number, state, `architecture_…` and `metrics_…` columns, times, attempts and error.

        With `promote` there are also columns `after_flash_…`.

        Raises:
            ImportError: pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError("a data frame needs pandas: pip install 'autodistill-nas[pandas]'") from error
        return pd.DataFrame([_row(trial) for trial in self])


def _read(folder: Path, metrics: list[str]) -> Trial | None:
    """The trial in a folder; None, with a warning unless it is only just beginning, if it cannot be read."""
    file = folder / TRIAL_FILE
    try:
        trial = read_trial(folder, metrics)
        if trial is None and has_lost_its_record(folder):
            logger.warning("%s is missing, and its trial is left out", file)
    except ValueError as error:
        logger.warning("%s is damaged and left out: %s", file, error)
        return None
    except OSError as error:
        logger.warning("%s cannot be read and is left out: %s", file, error)
        return None
    return trial


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
