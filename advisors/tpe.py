"""Optuna's tree-structured Parzen estimator, without repeats."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from advisors.base import Advisor, Observation
from advisors.objectives import read_history
from advisors.unseen import Seen, ensure_any_left, identity, random_unseen, seen_in
from search_spaces import Architecture, Choice, Domain, FloatRange, IntRange

_MAX_ASKS = 32


class TPEAdvisor(Advisor):
    """Proposes what Optuna's `TPESampler` does, in a study that is rebuilt from the history at each call.

    Complete and running trials enter the study (running ones are held down by its constant liar), failed ones do
    not. Bounds on outcomes enter as Optuna's constraints. A proposal that does not exist or has been made before is
    asked for again; each rejected one stays in the study as running, which pushes the next one away from it. After 32
    asks, an unseen neighbour of the last existing proposal is taken, else a random architecture.

    Bergstra et al., 2011, "Algorithms for hyper-parameter optimization"; Watanabe, 2023, "Tree-structured Parzen
    estimator: understanding its algorithm components".

    >>> from search_spaces import SearchSpace
    >>> advisor = TPEAdvisor(SearchSpace({"layers": [2, 4]}))
    >>> advisor.suggest([Observation({"layers": 4}, "complete", objectives=(0.5,))], seed=0)
    {'layers': 2}
    """

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        seen = seen_in(self.space, history)
        ensure_any_left(self.space, seen)
        rng = np.random.default_rng(seed)
        with _quiet_optuna():
            study = self._study(history, sampler_seed=int(rng.integers(2**32)))
            return self._ask(study, seen, rng)

    def _study(self, history: Sequence[Observation], *, sampler_seed: int) -> optuna.Study:
        finished = read_history(history)
        study = optuna.create_study(
            directions=["minimize"] * max(1, finished.objectives.shape[1]),
            sampler=optuna.samplers.TPESampler(seed=sampler_seed),
        )
        distributions = self._distributions()
        for observation in history:
            if observation.is_complete or observation.is_running:
                study.add_trial(self._trial(observation, distributions))
        return study

    def _trial(self, observation: Observation, distributions: dict[str, BaseDistribution]) -> optuna.trial.FrozenTrial:
        states = optuna.trial.TrialState
        return optuna.trial.create_trial(
            state=states.COMPLETE if observation.is_complete else states.RUNNING,
            values=observation.objectives or None,
            params=dict(self.space.validate(observation.architecture)),
            distributions=distributions,
            constraints={f"{i:03d}": value for i, value in enumerate(observation.violations)},
        )

    def _ask(self, study: optuna.Study, seen: Seen, rng: np.random.Generator) -> Architecture:
        last: Architecture | None = None
        distributions = self._distributions()
        for _ in range(_MAX_ASKS):
            proposal = study.ask(distributions).params
            if proposal not in self.space:
                continue
            last = self.space.validate(proposal)
            if identity(last) not in seen:
                return last
        neighbours = list(self.space.neighbours(last)) if last is not None else []
        free = [neighbour for neighbour in neighbours if identity(neighbour) not in seen]
        return free[int(rng.integers(len(free)))] if free else random_unseen(self.space, seen, rng)

    def _distributions(self) -> dict[str, BaseDistribution]:
        return {name: _distribution(domain) for name, domain in self.space.dimensions.items()}


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice():
            return CategoricalDistribution(tuple(domain.values()))
        case IntRange():
            return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
        case FloatRange():
            return FloatDistribution(domain.low, domain.high, log=domain.log)
    raise TypeError(f"TPE knows Choice, IntRange and FloatRange, but got {domain!r}")


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    # Optuna announces each study that is created; the user has not asked for one.
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)
