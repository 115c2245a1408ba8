"""Bayesian optimisation with a Gaussian process over the whole space."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from advisors.acquisition import log_expected_improvement, log_probability_kept
from advisors.base import Advisor, Observation
from advisors.candidates import CandidatePool
from advisors.errors import AdvisorError
from advisors.objectives import Finished, FloatArray, best_first, read_history, scalarise
from advisors.surrogate import Surrogate
from advisors.unseen_architectures import Observed, observed_in, random_unseen
from search_spaces import Architecture, SearchSpace

_STARTS = 64  # random architectures from which a proposal is chosen before there is a model
_CENTRES = 5  # best trials whose neighbours are candidates where the space is too large to score all of it
_LEARNT = 300  # most trials that a model is fitted to; its cost grows with their cube
_CLIMBS = 20  # steps of local search from the best candidate


class BayesianAdvisor(Advisor):
    """Proposes the unseen architecture with the largest expected improvement under a Gaussian process.

    Processes (scikit-optimize's) are fitted from scratch at each call: architectures as the space encodes them (choices
    one-hot), a length scale for each dimension, the improvement averaged over eight settings of the hyper-parameters.
    Of more than 300 complete trials, the best 150 and 150 random others are used. In spaces of up to 50,000
    architectures all are scored; in larger ones 5,000 random candidates, the neighbours of the best trials, and those
    of a local search from the best of these.

    Several objectives are combined by random augmented Chebyshev weights, drawn again for each proposal. Scores are
    multiplied by the probability that the candidate keeps the bounds on outcomes. Running trials enter with the mean of
    the finished ones, which makes their neighbourhoods less attractive; failed trials are only excluded. Until
    `initial` trials are complete, the proposal is that of 64 random architectures which is farthest from the history.

    Snoek, Larochelle and Adams, 2012, "Practical Bayesian optimization of machine learning algorithms". Raises
    `AdvisorError` when `initial < 1`.

    >>> space = SearchSpace({"layers": [2, 4, 6, 8]})
    >>> history = [
    ...     Observation({"layers": layers}, "complete", objectives=(1 / layers,)) for layers in (2, 4, 6)
    ... ]
    >>> BayesianAdvisor(space, initial=3).suggest(history, seed=0)
    {'layers': 8}
    """

    def __init__(self, space: SearchSpace, *, initial: int = 5) -> None:
        super().__init__(space)
        if initial < 1:
            raise AdvisorError(f"`initial >= 1` must hold, but got {initial}")
        self.initial = initial
        self._pool = CandidatePool(space)

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        rng = np.random.default_rng(seed)
        observed = observed_in(self.space, history)
        finished = read_history(history)
        if len(finished.architectures) < self.initial:
            return self._start(history, observed, rng)
        losses = scalarise(finished.objectives, rng)
        model = _Model.fit(self.space, finished, losses, rng)
        good = [finished.architectures[i] for i in best_first(finished, losses)[:_CENTRES]]
        candidates = self._pool.draw(observed, good, rng)
        scores = model.score(candidates.features)
        top = _argmax(scores, rng)
        proposal, score = candidates.architectures[top], scores[top]
        return proposal if self._pool.is_complete else self._climb(model, proposal, score, observed, rng)

    def _start(self, history: Sequence[Observation], observed: Observed, rng: np.random.Generator) -> Architecture:
        # Among a few random ones only: the farthest point of a whole range would always be one of its ends.
        drawn = [random_unseen(self.space, observed, rng) for _ in range(_STARTS)]
        if not history:
            return drawn[0]
        taken = [observation.architecture_in(self.space) for observation in history]
        distances = cdist(self.space.encode(drawn), self.space.encode(taken), "sqeuclidean")
        return drawn[int(np.lexsort((distances.mean(axis=1), distances.min(axis=1)))[-1])]

    def _climb(
        self, model: _Model, start: Architecture, score: float, observed: Observed, rng: np.random.Generator
    ) -> Architecture:
        best = start
        for _ in range(_CLIMBS):
            around = self._pool.around(best, observed)
            if not around.architectures:
                break
            scores = model.score(around.features)
            top = _argmax(scores, rng)
            if not scores[top] > score:
                break
            best, score = around.architectures[top], scores[top]
        return best


@dataclass(frozen=True)
class _Model:
    """A fitted history: one surrogate of the loss, one for each bound, and the best loss that keeps all bounds."""

    loss: Surrogate
    bounds: list[Surrogate]
    best: float | None  # None: no trial has kept every bound yet

    @classmethod
    def fit(cls, space: SearchSpace, finished: Finished, losses: FloatArray, rng: np.random.Generator) -> _Model:
        rows = _worth_learning(finished, losses, rng)
        learnt = [finished.architectures[i] for i in rows]
        features, running = np.split(space.encode([*map(space.validate, learnt + finished.running)]), [len(learnt)])
        widths = [domain.width for domain in space.dimensions.values()]

        def surrogate(targets: FloatArray) -> Surrogate:
            return Surrogate(features, targets[rows], widths, rng, running)

        kept = losses[finished.feasible]
        return cls(
            loss=surrogate(losses),
            bounds=[surrogate(violations) for violations in finished.violations.T],
            best=float(kept.min()) if kept.size else None,
        )

    def score(self, features: FloatArray) -> FloatArray:
        """The logarithm of the expected improvement times the probability of keeping the bounds, of shape (n,).

        While no trial has kept the bounds there is nothing to improve on: then it is that of the probability alone.
        """
        score = np.zeros(len(features))
        for bound in self.bounds:
            score += _log_mean(log_probability_kept(*bound.predict(features)))
        if self.best is not None:
            score += _log_mean(log_expected_improvement(*self.loss.predict(features), self.best))
        return score


def _worth_learning(finished: Finished, losses: FloatArray, rng: np.random.Generator) -> npt.NDArray[np.intp]:
    """The positions of the trials to fit: all, or half of the limit for the best ones and half for random others."""
    if len(losses) <= _LEARNT:
        return np.arange(len(losses))
    order = best_first(finished, losses)
    rest = rng.choice(order[_LEARNT // 2 :], _LEARNT - _LEARNT // 2, replace=False)
    return np.sort(np.concatenate([order[: _LEARNT // 2], rest]))


def _log_mean(logarithms: FloatArray) -> FloatArray:
    """The logarithm of the mean over the processes, of shape (n,)."""
    return np.asarray(logsumexp(logarithms, axis=0) - math.log(len(logarithms)))


def _argmax(scores: FloatArray, rng: np.random.Generator) -> int:
    """The position of the largest score; ties are broken at random, not by the order of the space."""
    return int(rng.choice(np.flatnonzero(scores == scores.max())))
