"""An advisor as a sampler of Optuna."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError
from advisors.optuna_study import distributions
from search_spaces import Architecture


class AdvisorSampler(BaseSampler):
    """Lets an advisor choose the parameters of an Optuna study.

    The objective function suggests the dimensions of the advisor's space, each with the values it has there. The
    study's trials are the advisor's history: complete ones with their values and constraints, running ones, and all
    others as failed; trials without a parameter of the space, or with values outside it, are left out. The same seed
    and trials give the same proposals. Raises `AdvisorError` for a parameter that is none of the space, and
    `SpaceExhaustedError` when every architecture has had its trial.

    >>> from advisors.bayesian import BayesianAdvisor
    >>> from search_spaces import SearchSpace
    >>> optuna.logging.set_verbosity(optuna.logging.ERROR)
    >>> space = SearchSpace({"layers": [2, 4, 6]})
    >>> study = optuna.create_study(sampler=AdvisorSampler(BayesianAdvisor(space), seed=0))
    >>> study.optimize(lambda trial: abs(trial.suggest_categorical("layers", [2, 4, 6]) - 4), n_trials=3)
    >>> sorted(trial.params["layers"] for trial in study.trials)
    [2, 4, 6]
    """

    def __init__(self, advisor: Advisor, *, seed: int = 0) -> None:
        self._advisor = advisor
        self._seed = seed
        self._distributions = distributions(advisor.space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The advisor's space, whole."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The advisor's proposal, from all other trials of the study and a seed that belongs to this trial's number."""
        others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
        observed = (self._observation(study, other) for other in others)
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        return dict(self._advisor.suggest([seen for seen in observed if seen is not None], seed=seed))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """No parameter is sampled alone: raises `AdvisorError`."""
        known = ", ".join(f"{name}: {distribution}" for name, distribution in self._distributions.items())
        raise AdvisorError(
            "an objective function may only suggest the dimensions of the advisor's space, as they are there, but it "
            f"asked for {param_name}: {param_distribution}; they are {known}"
        )

    def _observation(self, study: optuna.Study, trial: FrozenTrial) -> Observation | None:
        architecture = self._architecture(trial.params)
        if architecture is None:
            return None
        if trial.state in (TrialState.RUNNING, TrialState.WAITING):
            return Observation(architecture, "running")
        if trial.state is not TrialState.COMPLETE:
            return Observation(architecture, "failed")
        signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
        objectives = tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        bounds = tuple(value for _, value in sorted(trial.constraints.items()))
        return Observation(architecture, "complete", objectives, bounds)

    def _architecture(self, parameters: Mapping[str, Any]) -> Architecture | None:
        known = {name: parameters[name] for name in self._distributions if name in parameters}
        return self._advisor.space.validate(known) if known in self._advisor.space else None
