"""An advisor as an Optuna sampler."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
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

_PROPOSAL = "autodistill:proposal"  # stored with a trial, for trials that ask before its objective has suggested it all

_PROPOSING = threading.RLock()
"""Held from reading the trials to storing the proposal; global, so that a sampler can be copied and pickled."""


class AdvisorSampler(BaseSampler):
    """Lets an advisor choose the parameters of an Optuna study.

    The objective function must suggest the dimensions of the advisor's space, each with its values there. The study's
    trials are the advisor's history: complete ones with their values and constraints, running and enqueued ones, and
    all others as failed. A complete trial also counts as failed if a value is not finite, or if it lacks a constraint
    that another trial has. Trials that lack a parameter of the space, or have values outside it, are left out. Threads
    of one process (`n_jobs`) propose in turns, so that each knows the proposals of the others. The same seed and trials
    give the same proposals.

    Raises `AdvisorError` for anything but an advisor and a seed of at least 0, and for a parameter outside the space;
    `SpaceExhaustedError` when every architecture has been tried.

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
        received: object = advisor
        if not isinstance(received, Advisor):
            raise AdvisorError(
                f"an advisor that was made for a space is needed, such as BayesianAdvisor(space), but got {received!r}"
            )
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            raise AdvisorError(f"seed must be a whole number from 0 on, but got {seed!r}")
        self._advisor = advisor
        self._seed = seed
        self._distributions = distributions(advisor.space)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """The whole space of the advisor."""
        return dict(self._distributions)

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The advisor's proposal, from all other trials of the study and a seed derived from this trial's number."""
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        with _PROPOSING:
            others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
            proposal = dict(self._advisor.suggest(self._history(study, others), seed=seed))
            study._storage.set_trial_system_attr(trial._trial_id, _PROPOSAL, proposal)
        return {name: proposal[name] for name in search_space}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Raises `AdvisorError`: no parameter is sampled on its own."""
        known = ", ".join(f"{name}: {distribution}" for name, distribution in self._distributions.items())
        raise AdvisorError(
            "an objective function may only suggest the dimensions of the advisor's space, as they are there, but it "
            f"asked for {param_name}: {param_distribution}; they are {known}"
        )

    def _history(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> list[Observation]:
        names = sorted({name for trial in trials if trial.state is TrialState.COMPLETE for name in trial.constraints})
        observed = (self._observation(study, trial, names) for trial in trials)
        return [observation for observation in observed if observation is not None]

    def _observation(self, study: optuna.Study, trial: FrozenTrial, constraints: Sequence[str]) -> Observation | None:
        architecture = self._architecture(trial)
        if architecture is None:
            return None
        if not trial.state.is_finished():
            return Observation(architecture, "running")
        if trial.state is not TrialState.COMPLETE:
            return Observation(architecture, "failed")
        signs = [-1.0 if direction is StudyDirection.MAXIMIZE else 1.0 for direction in study.directions]
        objectives = tuple(sign * value for sign, value in zip(signs, trial.values, strict=True))
        bounds = tuple(trial.constraints.get(name, math.nan) for name in constraints)
        if not all(map(math.isfinite, objectives + bounds)):
            return Observation(architecture, "failed")
        return Observation(architecture, "complete", objectives, bounds)

    def _architecture(self, trial: FrozenTrial) -> Architecture | None:
        """The architecture of a trial, or the one it will have once its objective has suggested every parameter."""
        parameters = trial.params
        if not trial.state.is_finished():
            attributes = trial.system_attrs
            parameters = attributes.get(_PROPOSAL, {}) | attributes.get("fixed_params", {}) | parameters
        known = {name: parameters[name] for name in self._distributions if name in parameters}
        return self._advisor.space.validate(known) if known in self._advisor.space else None
