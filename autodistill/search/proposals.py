"""Proposals for the next trial: an enqueued architecture, or what the advisor proposes from the history."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError, SpaceExhaustedError
from advisors.insight import importance, predict
from autodistill.search.observations import earlier_observations, observation
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial
from autodistill.seeds import derive_seed
from search_spaces import Architecture, SearchSpaceError, Value

if TYPE_CHECKING:
    from autodistill.config.search import SearchConfig

Check = Callable[[Architecture], bool]
"""`architecture -> whether it is worth a trial`."""


class _Observed(NamedTuple):
    """An observation, and from what it was made."""

    trial: Trial
    search: SearchConfig
    observation: Observation


@dataclass
class Proposals:
    """Proposes architectures, each once.

    Args:
        search: the space, the metrics and the seed.
        advisor: proposes when nothing is enqueued.
        history_from: directories of earlier searches.
    """

    search: SearchConfig
    advisor: Advisor
    history_from: Sequence[str | Path] = ()
    _queue: list[Architecture] = field(default_factory=list)
    _earlier: list[Observation] | None = field(init=False, default=None)  # of `history_from`, once it has been read
    _observed: dict[int, _Observed] = field(init=False, default_factory=dict)  # by the trial's number

    def enqueue(self, architecture: Mapping[str, Any]) -> None:
        """Enqueue an architecture to be tried before any that the advisor proposes.

        Raises:
            SearchSpaceError: it does not belong to the space.
        """
        self._queue.append(self.search.search_space.validate(architecture))

    def next(self, result: SearchResult, worth_a_trial: Check) -> Architecture:
        """The architecture of the next trial.

        Args:
            result: the trials so far.
            worth_a_trial: checks proposals of the advisor; a rejected one enters the advisor's history as failed.

        Raises:
            SpaceExhaustedError: every architecture of the space has been tried, or is not worth a trial.
            AdvisorError: the advisor repeated an architecture of its history, or proposed one outside the space.
        """
        tried = [trial.architecture for trial in result] if self._queue else []
        self._queue = [queued for queued in self._queue if queued not in tried]
        if self._queue:
            return self._queue[0]
        assert self.search.seed is not None  # a search chooses one before it proposes
        seed = derive_seed(self.search.seed, "advisor", len(result))
        history = self._history(result)
        known = len(history)
        try:
            while not worth_a_trial(proposed := self._advised(history, seed)):
                history.append(Observation(proposed, "failed"))
        except SpaceExhaustedError as exhausted:
            if len(history) == known:
                raise
            raise SpaceExhaustedError(
                f"{exhausted}; {len(history) - known:,} of them break a bound before they are trained: relax the bounds"
            ) from exhausted
        return proposed

    def _advised(self, history: Sequence[Observation], seed: int) -> Architecture:
        suggested = self.advisor.suggest(history, seed=seed)
        space, name = self.search.search_space, type(self.advisor).__name__
        try:
            proposed = space.validate(suggested)
        except SearchSpaceError as error:
            raise AdvisorError(f"an advisor must propose from the space, but {name} did not: {error}") from error
        if proposed in (observed.architecture for observed in history):
            raise AdvisorError(
                f"an advisor must propose an architecture that is not in its history, but {name} repeated {proposed}; "
                "skip the architectures of the history, whatever their state."
            )
        return proposed

    def _history(self, result: SearchResult) -> list[Observation]:
        """Earlier searches, then this one; with `promote`, all with their metrics after flash distillation."""
        own = [self._observation(trial) for trial in result]
        if self._earlier is None:
            self._earlier = earlier_observations(
                self.history_from,
                self.search.search_space,
                self.search.metrics,
                after_flash=self.search.promote is not None,
            )
        if not self._earlier:
            return own
        tried = set(map(_items, own))
        return [*(observed for observed in self._earlier if _items(observed) not in tried), *own]

    def _observation(self, trial: Trial) -> Observation:
        """The trial as an observation; the one of the last call if neither the trial nor the settings have changed."""
        known = self._observed.get(trial.number)
        if known is None or known.trial is not trial or known.search is not self.search:
            observed = observation(trial, self.search.metrics, after_flash=self.search.promote is not None)
            known = self._observed[trial.number] = _Observed(trial, self.search, observed)
        return known.observation

    def importance(self, result: SearchResult) -> dict[str, dict[str, float]]:
        """For each goal of the search, the share of its variance that each dimension explains."""
        goals = [metric.name for metric in self.search.metrics if not metric.measured]
        return dict(zip(goals, importance(self.search.search_space, self._history(result)), strict=True))

    def predict(self, result: SearchResult, architecture: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation that a Gaussian process predicts for each goal of the search."""
        goals = [metric for metric in self.search.metrics if not metric.measured]
        expected = predict(self.search.search_space, self._history(result), architecture)
        return {goal.name: (goal.loss(mean), std) for goal, (mean, std) in zip(goals, expected, strict=True)}


def _items(observed: Observation) -> frozenset[tuple[str, Value]]:
    """What equal architectures have in common, as a hashable value."""
    return frozenset(observed.architecture.items())
