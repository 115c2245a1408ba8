"""What a history shows: which dimensions matter, and which objectives an architecture is expected to have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.samplers import RandomSampler
from optuna.trial import FrozenTrial

from advisors.base import Observation
from advisors.errors import AdvisorError
from advisors.objectives import read_history
from advisors.optuna_study import quiet_optuna, rebuilt_study
from advisors.surrogate import Surrogate
from search_spaces import SearchSpace


def importance(space: SearchSpace, history: Sequence[Observation]) -> list[dict[str, float]]:
    """For each objective, the share of its variance that each dimension explains, largest first.

    The shares add up to 1; if an objective is the same for all trials, there is no variance to explain, and all are 0.

    Computed by Optuna's functional analysis of variance on a random forest: Hutter, Hoos and Leyton-Brown, 2014, "An
    efficient approach for assessing hyperparameter importance". Raises `AdvisorError` when fewer than two trials are
    complete.

    >>> space = SearchSpace({"layers": [2, 4, 6], "heads": [1, 2]})
    >>> history = [Observation(a, "complete", objectives=(1 / a["layers"],)) for a in space.enumerate()]
    >>> list(importance(space, history)[0])
    ['layers', 'heads']
    """
    complete = _complete(history)
    names = [name for name, domain in space.dimensions.items() if domain.size != 1]
    parts = []
    with quiet_optuna():
        study = rebuilt_study(space, complete, RandomSampler())
        for i, values in enumerate(read_history(complete).objectives.T):
            if values.min() == values.max():
                parts.append(dict.fromkeys(names, 0.0))
                continue
            evaluator = FanovaImportanceEvaluator(seed=0)
            found = get_param_importances(study, evaluator=evaluator, params=names, target=partial(_objective, i))
            parts.append({name: float(part) for name, part in found.items()})
    return parts


def predict(
    space: SearchSpace, history: Sequence[Observation], architecture: Mapping[str, object]
) -> list[tuple[float, float]]:
    """Mean and standard deviation that the Bayesian advisor's surrogate expects of each objective.

    Raises `AdvisorError` when fewer than two trials are complete, and `SearchSpaceError` for an architecture outside
    the space.

    >>> space = SearchSpace({"layers": [2, 4, 6]})
    >>> history = [Observation(a, "complete", objectives=(float(a["layers"]),)) for a in space.enumerate()]
    >>> (mean, std), = predict(space, history, {"layers": 4})
    >>> round(mean, 1), std < 0.5
    (4.0, True)
    """
    finished = read_history(_complete(history))
    features = space.encode([*map(space.validate, finished.architectures)])
    requested = space.encode([space.validate(architecture)])
    widths = [domain.width for domain in space.dimensions.values()]
    expected = []
    for targets in finished.objectives.T:
        means, stds = Surrogate(features, targets, widths, np.random.default_rng(0)).predict(requested)
        expected.append((float(means.mean()), float(np.sqrt((stds**2).mean() + means.var()))))
    return expected


def _objective(index: int, trial: FrozenTrial) -> float:
    return float(trial.values[index])


def _complete(history: Sequence[Observation]) -> list[Observation]:
    complete = [observation for observation in history if observation.is_complete]
    if len(complete) < 2:
        raise AdvisorError(f"at least two complete trials are needed to learn from, but got {len(complete)}")
    return complete
