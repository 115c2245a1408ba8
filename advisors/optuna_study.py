"""A space and a history as an Optuna study."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, BruteForceSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState, create_trial

from advisors.base import Observation
from advisors.objectives import read_history
from search_spaces import Choice, Domain, FloatRange, IntRange, SearchSpace, Value
from search_spaces.domains import as_json

_READERS = (TPESampler, GPSampler, RandomSampler, BruteForceSampler)
"""The samplers that read only the trials' parameters and values."""

_LARGEST = 1e100  # samplers square objectives


def distributions(space: SearchSpace) -> dict[str, BaseDistribution]:
    """Optuna's distribution of each dimension.

    >>> from search_spaces import SearchSpace
    >>> distributions(SearchSpace({"layers": [2, 4]}))
    {'layers': CategoricalDistribution(choices=(2, 4))}
    """
    return {name: _distribution(domain) for name, domain in space.dimensions.items()}


def as_parameters(architecture: Mapping[str, Value]) -> dict[str, Any]:
    """An architecture as Optuna stores it: lists, which Optuna does not have, as JSON text.

    >>> as_parameters({"depths": (2, 2), "act": "gelu"})
    {'depths': '[2, 2]', 'act': 'gelu'}
    """
    return {name: _parameter(value) for name, value in architecture.items()}


def as_architecture(space: SearchSpace, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Optuna's parameters as an architecture; names and values that are not in the space stay as they are.

    >>> as_architecture(SearchSpace({"depths": [[2, 2], [1, 1]]}), {"depths": "[2, 2]"})
    {'depths': (2, 2)}
    """
    lists: dict[str, dict[Any, Value]] = {
        name: {_parameter(option): option for option in domain.options if isinstance(option, tuple)}
        for name, domain in space.dimensions.items()
        if isinstance(domain, Choice)
    }
    return {name: lists.get(name, {}).get(value, value) for name, value in parameters.items()}


def _parameter(value: Value) -> Any:
    return json.dumps(as_json(value)) if isinstance(value, tuple) else value


def rebuilt_study(space: SearchSpace, history: Sequence[Observation], sampler: BaseSampler) -> optuna.Study:
    """A study in memory that holds the complete and the running trials of a history, as `sampler` needs them.

    Failed trials are left out: no Optuna sampler reads them. Bounds on outcomes become constraints. For a sampler that
    stores its own state with the trials (a generation, a position in a sequence) they are replayed one by one, so that
    it stores that state again.
    """
    objectives = read_history(history).objectives.shape[1]
    study = optuna.create_study(directions=["minimize"] * max(1, objectives), sampler=sampler)
    add = _add if type(sampler) in _READERS else _replay
    kinds = distributions(space)
    for observation in history:
        if observation.is_complete or observation.is_running:
            add(study, kinds, as_parameters(observation.architecture_in(space)), observation)
    return study


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Suppresses Optuna's log line for each new study, since the user has not created one."""
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _add(
    study: optuna.Study, kinds: dict[str, BaseDistribution], parameters: dict[str, Any], observation: Observation
) -> None:
    study.add_trial(
        create_trial(
            state=TrialState.COMPLETE if observation.is_complete else TrialState.RUNNING,
            values=_values(observation) or None,
            params=parameters,
            distributions=kinds,
            constraints={_constraint(i): value for i, value in enumerate(observation.violations)},
        )
    )


def _replay(
    study: optuna.Study, kinds: dict[str, BaseDistribution], parameters: dict[str, Any], observation: Observation
) -> None:
    study.enqueue_trial(parameters)
    trial = study.ask()
    _ = trial.relative_params  # the sampler is called and stores its state; its proposal is not used
    for name, distribution in kinds.items():
        _suggest(trial, name, distribution)
    for i, value in enumerate(observation.violations):
        trial.set_constraint(_constraint(i), value)
    if observation.is_complete:
        study.tell(trial, _values(observation))


def _suggest(trial: optuna.Trial, name: str, distribution: BaseDistribution) -> None:
    """Uses the enqueued value."""
    match distribution:
        case CategoricalDistribution():
            trial.suggest_categorical(name, distribution.choices)
        case IntDistribution(low=low, high=high, log=log, step=step):
            trial.suggest_int(name, low, high, log=log, step=step)
        case FloatDistribution(low=low, high=high, log=log):
            trial.suggest_float(name, low, high, log=log)


def _values(observation: Observation) -> list[float]:
    return [min(max(value, -_LARGEST), _LARGEST) for value in observation.objectives]


def _constraint(index: int) -> str:
    return f"{index:03d}"  # in the order of their names


def _distribution(domain: Domain) -> BaseDistribution:
    match domain:
        case Choice():
            return CategoricalDistribution(tuple(map(_parameter, domain.values())))
        case IntRange():
            return IntDistribution(domain.low, domain.high, log=domain.log, step=domain.step)
        case FloatRange():
            return FloatDistribution(domain.low, domain.high, log=domain.log)
    raise TypeError(f"Optuna has an equivalent of Choice, IntRange and FloatRange, but got {domain!r}")
