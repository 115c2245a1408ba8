"""Trials as an advisor sees them: of this search, and of earlier ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from advisors import Observation
from autodistill.errors import ConfigurationError
from autodistill.metrics import Metric, losses, violations
from autodistill.trial import SearchResult, Trial, TrialState
from search_spaces import SearchSpace

logger = logging.getLogger(__name__)


def observation(trial: Trial, metrics: Sequence[Metric]) -> Observation:
    """The trial with the losses and the violated bounds of the metrics; what failed or runs is only taken."""
    if trial.state is not TrialState.COMPLETE:
        return Observation(trial.architecture, trial.state.value)
    return Observation(
        trial.architecture,
        trial.state.value,
        objectives=losses(metrics, trial.metrics),
        violations=violations(metrics, trial.metrics),
    )


def earlier_observations(
    directories: Iterable[str | Path], space: SearchSpace, metrics: Sequence[Metric]
) -> list[Observation]:
    """The complete trials of other search directories that belong to this search: in its space, with all its metrics.

    Of several trials with one architecture the last counts.

    Raises:
        SearchDirectoryError: a directory holds no search.
    """
    found: dict[str, Observation] = {}
    for directory in directories:
        trials = SearchResult.load(directory).completed
        fitting = [
            trial
            for trial in trials
            if trial.architecture in space and all(metric.name in trial.metrics for metric in metrics)
        ]
        logger.info("%d of %d complete trials in %s belong to this search", len(fitting), len(trials), directory)
        found |= {space.key(trial.architecture): observation(trial, metrics) for trial in fitting}
    return list(found.values())


def measured_elsewhere(values: Mapping[str, float], metrics: Sequence[Metric]) -> dict[str, float]:
    """The values as a trial records them.

    Raises:
        ConfigurationError: a metric is missing, or a value is not a finite number; all mistakes at once.

    Examples:
        >>> measured_elsewhere({"accuracy": 1}, [Metric("accuracy")])
        {'accuracy': 1.0}
    """
    problems = [
        f"a trial that is added needs every metric of the search, but {metric.name!r} is missing."
        for metric in metrics
        if metric.name not in values
    ]
    problems += [
        f"a metric must be a finite number, but got {value!r} for {name!r}."
        for name, value in values.items()
        if not isinstance(value, int | float) or not math.isfinite(value)
    ]
    if problems:
        raise ConfigurationError(problems)
    return {name: float(value) for name, value in values.items()}
