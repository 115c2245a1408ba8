"""An advisor as an Optuna sampler."""

from __future__ import annotations

import math
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, PartialFixedSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError, SpaceExhaustedError
from advisors.optuna_study import as_architecture, as_parameters, distributions
from advisors.unseen_architectures import identity, observed_in, random_unseen
from search_spaces import Architecture, Choice, Domain, SearchSpace, SearchSpaceError

_PROPOSAL = "autodistill:proposal"  # stored with a trial, for trials that ask before its objective has suggested it all

_ATTEMPTS = 10  # proposals that are changed to the fixed values, before one is drawn among those that have them

_PROPOSING = threading.RLock()
"""Held from reading the trials to storing the proposal; global, so that a sampler can be copied and pickled."""


class AdvisorSampler(BaseSampler):
    """Lets an advisor choose the parameters of an Optuna study.

    The objective function must suggest every dimension of the advisor's space, with its values there; a list is
    suggested as JSON text, such as `"[2, 2]"`. Inside a `PartialFixedSampler`, and for enqueued trials that fix some
    parameters, only architectures with the fixed values are proposed, none of them twice. The study's
    trials are the advisor's history: complete ones with their values and constraints, running and enqueued ones, and
    all others as failed. A complete trial also counts as failed if a value is not finite, or if it lacks a constraint
    that another trial has. Trials that lack a parameter of the space, or have values outside it, are left out. Threads
    of one process (`n_jobs`) propose in turns, so that each knows the proposals of the others. The same seed and trials
    give the same proposals.

    Raises `AdvisorError` for anything but an advisor and a seed of at least 0, for a parameter that is not in the space
    or has other values there, and after a complete trial that lacks a dimension; `SpaceExhaustedError` when every
    architecture (with the fixed values) has been tried.

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
        """Stores the advisor's proposal, from all other trials and a seed derived from this trial's number.

        Nothing is returned, so that Optuna asks `sample_independent` for each parameter, with its distribution.
        """
        fixed = self._fixed(study, trial)
        seed = int(np.random.SeedSequence([self._seed, trial.number]).generate_state(1)[0])
        with _PROPOSING:
            others = [other for other in study.get_trials(deepcopy=False) if other.number != trial.number]
            proposal = as_parameters(self._propose(self._history(study, others), fixed, seed))
            study._storage.set_trial_system_attr(trial._trial_id, _PROPOSAL, proposal)
        return {}

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The parameter's value in the proposal; raises `AdvisorError` for one that is not in the space like this."""
        self._ensure_in_space({param_name: param_distribution})
        return study._storage.get_trial_system_attrs(trial._trial_id)[_PROPOSAL][param_name]

    def after_trial(
        self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None
    ) -> None:
        """Raises `AdvisorError` for a complete trial that the advisor could not learn from."""
        if state is not TrialState.COMPLETE:
            return
        self._ensure_in_space(trial.distributions)
        missing = [name for name in self._distributions if name not in trial.params]
        if missing:
            raise AdvisorError(
                "an objective function must suggest every dimension of the advisor's space, but trial "
                f"{trial.number} did not suggest {', '.join(missing)}; suggest it, or leave it out of the space"
            )

    def _ensure_in_space(self, suggested: Mapping[str, BaseDistribution]) -> None:
        for name, distribution in suggested.items():
            if self._distributions.get(name) != distribution:
                known = ", ".join(f"{name}: {distribution}" for name, distribution in self._distributions.items())
                raise AdvisorError(
                    "an objective function may only suggest the dimensions of the advisor's space, as they are there, "
                    f"but it asked for {name}: {distribution}; they are {known}"
                )

    def _fixed(self, study: optuna.Study, trial: FrozenTrial) -> Architecture:
        """The values that the trial will have whatever is proposed: of an enqueued trial, or a fixing sampler."""
        fixed: dict[str, Any] = {}
        sampler = study.sampler
        while isinstance(sampler, PartialFixedSampler):
            fixed = {**sampler._fixed_params, **fixed}
            sampler = sampler._base_sampler
        unknown = [name for name in fixed if name not in self._distributions]
        if unknown:
            raise AdvisorError(
                f"fixed parameters must be dimensions of the advisor's space, but {', '.join(map(repr, unknown))} are "
                f"not; they are {', '.join(self._distributions)}"
            )
        enqueued = trial.system_attrs.get("fixed_params", {})
        fixed |= {name: value for name, value in enqueued.items() if name in self._distributions}
        dimensions = self._advisor.space.dimensions
        try:
            values = as_architecture(self._advisor.space, fixed)
            return {name: dimensions[name].canonical(value) for name, value in values.items()}
        except SearchSpaceError as error:
            raise AdvisorError(f"fixed parameters must be in the advisor's space, but got {fixed}: {error}") from error

    def _propose(self, history: Sequence[Observation], fixed: Architecture, seed: int) -> Architecture:
        """The advisor's proposal; with fixed values, the first that is new once it has them, or a random one."""
        if not fixed:
            return dict(self._advisor.suggest(history, seed=seed))
        if len(fixed) == len(self._distributions):
            return fixed
        whole = self._advisor.space
        dimensions: dict[str, Domain] = {**whole.dimensions, **{name: Choice([value]) for name, value in fixed.items()}}
        space = SearchSpace(dimensions, whole.constraints)
        observed = observed_in(space, [observation for observation in history if observation.architecture in space])
        considered = list(history)
        for _ in range(_ATTEMPTS):
            try:
                proposal = self._advisor.suggest(considered, seed=seed)
            except SpaceExhaustedError:
                break
            changed = {**proposal, **fixed}
            if changed in space and identity(space.validate(changed)) not in observed:
                return space.validate(changed)
            considered.append(Observation(proposal, "failed"))
        return random_unseen(space, observed, np.random.default_rng(seed))

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
        if trial.state is not TrialState.COMPLETE:
            attributes = trial.system_attrs
            parameters = attributes.get(_PROPOSAL, {}) | attributes.get("fixed_params", {}) | parameters
        known = as_architecture(
            self._advisor.space, {name: parameters[name] for name in self._distributions if name in parameters}
        )
        return self._advisor.space.validate(known) if known in self._advisor.space else None
