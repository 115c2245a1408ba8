"""A bowl over four integer dimensions, for tests of advisors that step or mutate."""

from __future__ import annotations

import numpy as np

from advisors import Advisor, Observation
from search_spaces import Architecture, IntRange, SearchSpace

SPACE = SearchSpace({f"d{i}": IntRange(0, 9) for i in range(4)})


def bowl(architecture: Architecture) -> float:
    return sum((float(value or 0) - 6) ** 2 for value in architecture.values())


def differences(one: Architecture, other: Architecture) -> int:
    return sum(one[name] != other[name] for name in one)


def best_of(advisor: Advisor, trials: int, seed: int) -> float:
    history: list[Observation] = []
    for number in range(trials):
        proposal = advisor.suggest(history, seed=1000 * seed + number)
        history.append(Observation(proposal, "complete", (bowl(proposal),)))
    return min(observation.objectives[0] for observation in history)


def some_history(count: int = 12) -> list[Observation]:
    rng = np.random.default_rng(0)
    return [Observation(a, "complete", (bowl(a),)) for a in (SPACE.sample(rng) for _ in range(count))]
