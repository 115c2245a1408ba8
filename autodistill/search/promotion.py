"""Promotion of trials that are trained to the end: asynchronous successive halving with two rungs.

Flash distillation is the cheap rung. Li et al., 2020, "A System for Massively Parallel Hyperparameter Tuning".
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from advisors.objectives import Finished, best_first
from autodistill.metrics.metric import losses, violations
from autodistill.metrics.pareto import dominance_order
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState

_ROUNDING = 1e-9  # 0.29 of 100 trials are 29, though 0.29 * 100 < 29


def promotable(result: SearchResult, share: float | None) -> Trial | None:
    """The paused trial to finish next: the best of those among the best `share` of the rung.

    Args:
        result: the search. All trials with metrics after flash distillation are in the rung, whatever their state.
        share: between 0 and 1; of n trials, `share * n` rounded down. None for all.

    Examples:
        >>> from autodistill.metrics.metric import Metric
        >>> paused = [Trial(n, {"layers": n}).pause({"accuracy": value}) for n, value in enumerate([0.7, 0.9, 0.8])]
        >>> promotable(SearchResult(paused[:2], [Metric("accuracy")]), share=1 / 3)
        >>> promotable(SearchResult(paused, [Metric("accuracy")]), share=1 / 3).number
        1
    """
    order = rung_order(result)
    count = len(order) if share is None else math.floor(share * len(order) + _ROUNDING)
    return _first_paused(order[:count])


def best_paused(result: SearchResult) -> Trial | None:
    """The best paused trial, whether or not its promotion is due."""
    return _first_paused(rung_order(result))


def rung_result(result: SearchResult) -> SearchResult:
    """The result with the metrics of the first rung as if they were the final ones; other trials as they are."""
    rung = [
        replace(trial, state=TrialState.COMPLETE, metrics=trial.after_flash) if trial.after_flash else trial
        for trial in result
    ]
    return SearchResult(rung, result.metrics)


def best_slice(result: SearchResult) -> Trial | None:
    """The best feasible trial by the metrics of its first rung, or by its final ones if it has only these."""
    rung = [trial if trial.after_flash else replace(trial, after_flash=trial.metrics) for trial in result]
    measured = [trial for trial in rung if trial.after_flash]
    feasible = [one for one in measured if max(violations(result.metrics, one.after_flash), default=0.0) <= 0]
    return next(iter(rung_order(SearchResult(feasible, result.metrics))), None)


def rung_order(result: SearchResult) -> list[Trial]:
    """The trials with metrics after flash distillation, ordered by these, the best first.

    Those that keep every bound come first, by non-dominated sorting; then the others, from the smallest to the largest
    violation.
    """
    rung = [trial for trial in result if trial.after_flash]
    if not rung:
        return []
    found = Finished(
        architectures=[trial.architecture for trial in rung],
        objectives=np.array([losses(result.metrics, trial.after_flash) for trial in rung]),
        violations=np.array([violations(result.metrics, trial.after_flash) for trial in rung]),
        running=[],
    )
    ranks = np.zeros(len(rung))
    for group in (np.flatnonzero(found.feasible), np.flatnonzero(~found.feasible)):
        ranks[group[dominance_order(found.objectives[group])]] = np.arange(len(group))
    return [rung[position] for position in best_first(found, ranks)]


def _first_paused(trials: list[Trial]) -> Trial | None:
    return next((trial for trial in trials if trial.state is TrialState.PAUSED), None)
