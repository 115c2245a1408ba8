"""Trials as observations for an advisor: those of this search, and of earlier ones."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from advisors.base import Observation, ObservationState
from autodistill.errors import ConfigurationError
from autodistill.metrics.metric import Metric, losses, metric_values, violations
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState
from search_spaces import SearchSpace

logger = logging.getLogger(__name__)


def observation(trial: Trial, metrics: Sequence[Metric], *, after_flash: bool = False) -> Observation:
    """The trial with its losses and violations; failed and running trials are only marked as such.

    Args:
        trial: of the search.
        metrics: of the search.
        after_flash: use the metrics after flash distillation, whether the trial is paused or was continued. A trial
            without such metrics is not comparable; it counts as failed.
    """
    values = trial.after_flash if after_flash else trial.metrics
    if values and trial.state is not TrialState.FAILED:
        return Observation(
            trial.architecture,
            ObservationState.COMPLETE,
            objectives=losses(metrics, values),
            violations=violations(metrics, values),
        )
    running = trial.state is TrialState.RUNNING
    return Observation(trial.architecture, ObservationState.RUNNING if running else ObservationState.FAILED)


def earlier_observations(
    directories: Iterable[str | Path], space: SearchSpace, metrics: Sequence[Metric], *, after_flash: bool = False
) -> list[Observation]:
    """The trials of other search directories that fit this search: in its space, with all its metrics.

    Of several trials with one architecture the last counts.

    Args:
        directories: of the searches.
        space: of this search.
        metrics: of this search.
        after_flash: use the metrics after flash distillation; otherwise those of complete trials.

    Raises:
        SearchDirectoryError: a directory holds no search.
    """
    found: dict[str, Observation] = {}
    for directory in directories:
        trials = SearchResult.load(directory)
        fitting = [
            trial
            for trial in trials
            if trial.state is not TrialState.FAILED
            and trial.architecture in space
            and all(metric.name in (trial.after_flash if after_flash else trial.metrics) for metric in metrics)
        ]
        logger.info("%d of %d trials in %s belong to this search", len(fitting), len(trials), directory)
        found |= {
            space.key(trial.architecture): observation(trial, metrics, after_flash=after_flash) for trial in fitting
        }
    return list(found.values())


def measured_elsewhere(values: Mapping[str, float], metrics: Sequence[Metric]) -> dict[str, float]:
    """The values as a trial records them.

    Raises:
        ConfigurationError: a metric is missing, or a value is not a finite number; all mistakes in one error.

    Examples:
        >>> measured_elsewhere({"accuracy": 1}, [Metric("accuracy")])
        {'accuracy': 1.0}
    """
    if not isinstance(values, Mapping):
        raise ConfigurationError(f"metrics must be a mapping of names to numbers, but got {values!r}.")
    found, errors = metric_values(values, "got")
    problems = [
        f"a trial that is added needs every metric of the search, but {metric.name!r} is missing."
        for metric in metrics
        if metric.name not in values
    ]
    problems += map(str, errors)
    if problems:
        raise ConfigurationError(problems)
    return found
