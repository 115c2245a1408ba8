"""Optuna's samplers as advisors, without repeats."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError
from advisors.optuna_study import as_architecture, distributions, quiet_optuna, rebuilt_study
from advisors.unseen_architectures import (
    Observed,
    ensure_any_left,
    identity,
    observed_in,
    random_unseen,
    unseen_neighbours,
)
from search_spaces import Architecture, SearchSpace

_MAX_ASKS = 10

SamplerFactory = Callable[[int], BaseSampler]
"""`seed -> sampler`."""


class SamplerAdvisor(Advisor):
    """Proposes what an Optuna sampler proposes, in a study that is rebuilt from the history at each call.

    `make_sampler` is a function `seed -> sampler`, called for each proposal: an instance would carry random state from
    one call to the next. For a sampler with a state of its own, such as the generations of NSGA-II, the history is
    replayed, which restores that state.

    Complete and running trials enter the study, failed ones do not. Bounds on outcomes become Optuna's constraints. If
    a proposal breaks a constraint of the space or has been made before, the sampler is asked again; each rejected one
    stays in the study as running. After 10 attempts the proposal is an unseen neighbour of the last one that was in the
    space, or a random architecture. Raises `AdvisorError` when `make_sampler` is a sampler, or does not return one.

    Akiba et al., 2019, "Optuna: a next-generation hyperparameter optimization framework".

    >>> advisor = SamplerAdvisor(
    ...     SearchSpace({"layers": [2, 4]}), lambda seed: optuna.samplers.NSGAIISampler(seed=seed)
    ... )
    >>> advisor.suggest([Observation({"layers": 4}, "complete", objectives=(0.5, 2.0))], seed=0)
    {'layers': 2}
    """

    def __init__(self, space: SearchSpace, make_sampler: SamplerFactory) -> None:
        super().__init__(space)
        received: object = make_sampler
        if isinstance(received, BaseSampler):
            name = type(received).__name__
            raise AdvisorError(
                "a sampler must be given as a function `seed -> sampler`, since an instance carries random state from "
                f"one proposal to the next, but got a {name}; write `lambda seed: {name}(seed=seed)`"
            )
        self._make_sampler = make_sampler

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        observed = observed_in(self.space, history)
        ensure_any_left(self.space, observed)
        rng = np.random.default_rng(seed)
        sampler = self._make_sampler(int(rng.integers(2**32)))
        if not isinstance(sampler, BaseSampler):
            raise AdvisorError(f"a function `seed -> sampler` must return an Optuna sampler, but got {sampler!r}")
        with quiet_optuna():
            return self._ask(rebuilt_study(self.space, history, sampler), observed, rng)

    def _ask(self, study: optuna.Study, observed: Observed, rng: np.random.Generator) -> Architecture:
        last: Architecture | None = None
        for _ in range(_MAX_ASKS):
            proposal = as_architecture(self.space, study.ask(distributions(self.space)).params)
            if proposal not in self.space:
                continue
            last = self.space.validate(proposal)
            if identity(last) not in observed:
                return last
        free = unseen_neighbours(self.space, last, observed) if last is not None else []
        return free[int(rng.integers(len(free)))] if free else random_unseen(self.space, observed, rng)


class TPEAdvisor(SamplerAdvisor):
    """Proposes what Optuna's tree-structured Parzen estimator proposes, but never an architecture twice.

    `SamplerAdvisor` with `TPESampler`, whose constant-liar strategy discourages proposals near running trials.

    Bergstra et al., 2011, "Algorithms for hyper-parameter optimization"; Watanabe, 2023, "Tree-structured Parzen
    estimator: understanding its algorithm components".

    >>> advisor = TPEAdvisor(SearchSpace({"layers": [2, 4]}))
    >>> advisor.suggest([Observation({"layers": 4}, "complete", objectives=(0.5,))], seed=0)
    {'layers': 2}
    """

    def __init__(self, space: SearchSpace) -> None:
        super().__init__(space, lambda seed: TPESampler(seed=seed))
