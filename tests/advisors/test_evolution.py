from __future__ import annotations

import numpy as np
import pytest

from advisors import Advisor, AdvisorError, EvolutionAdvisor, Observation, RandomAdvisor
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


def test_evolution_beats_random_search() -> None:
    ours = [best_of(EvolutionAdvisor(SPACE), 100, seed) for seed in range(8)]
    at_random = [best_of(RandomAdvisor(SPACE), 100, seed) for seed in range(8)]
    assert np.mean(ours) < 0.5 * np.mean(at_random)


def test_evolution_forgets_the_best_when_it_is_old() -> None:
    history = some_history(20)
    best = Observation({f"d{i}": 6 for i in range(4)}, "complete", (0.0,))
    advisor = EvolutionAdvisor(SPACE, population=20, tournament=20)
    young = advisor.suggest([*history[1:], best], seed=0)
    old = advisor.suggest([best, *history], seed=0)
    fittest = min(history, key=lambda observation: observation.objectives[0])
    assert differences(young, best.architecture) == 1
    assert differences(old, fittest.architecture) == 1


def test_a_tournament_of_one_draws_any_of_the_population() -> None:
    history = some_history(6)
    advisor = EvolutionAdvisor(SPACE, population=6, tournament=1)
    parents = set()
    for seed in range(60):
        proposal = advisor.suggest(history, seed=seed)
        parents |= {i for i, seen in enumerate(history) if differences(proposal, seen.architecture) == 1}
    assert parents == set(range(6))


@pytest.mark.parametrize(("population", "tournament"), [(3, 4), (3, 0), (0, 0)])
def test_a_tournament_that_does_not_fit_its_population_is_refused(population: int, tournament: int) -> None:
    with pytest.raises(AdvisorError, match=f"must hold, but got tournament={tournament}, population={population}"):
        EvolutionAdvisor(SPACE, population=population, tournament=tournament)
