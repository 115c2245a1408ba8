from __future__ import annotations

import numpy as np
import pytest
from bowl import SPACE, best_of, differences, some_history

from advisors import AdvisorError, EvolutionAdvisor, Observation, RandomAdvisor


def test_evolution_beats_random_search() -> None:
    evolved = [best_of(EvolutionAdvisor(SPACE), 100, seed) for seed in range(8)]
    at_random = [best_of(RandomAdvisor(SPACE), 100, seed) for seed in range(8)]
    assert np.mean(evolved) < 0.5 * np.mean(at_random)


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
        parents |= {i for i, parent in enumerate(history) if differences(proposal, parent.architecture) == 1}
    assert parents == set(range(6))


@pytest.mark.parametrize(("population", "tournament"), [(3, 4), (3, 0), (0, 0)])
def test_a_tournament_that_does_not_fit_its_population_is_refused(population: int, tournament: int) -> None:
    with pytest.raises(AdvisorError, match=f"must hold, but got tournament={tournament}, population={population}"):
        EvolutionAdvisor(SPACE, population=population, tournament=tournament)
