from __future__ import annotations

import numpy as np
import pytest
from bowl import SPACE, best_of, differences, some_history

from advisors import AdvisorError, LocalSearchAdvisor, Observation, RandomAdvisor
from search_spaces import IntRange, SearchSpace


def test_local_search_beats_random_search() -> None:
    by_steps = [best_of(LocalSearchAdvisor(SPACE), 60, seed) for seed in range(8)]
    at_random = [best_of(RandomAdvisor(SPACE), 60, seed) for seed in range(8)]
    assert np.mean(by_steps) < 0.5 * np.mean(at_random)


def test_local_search_takes_a_step_from_the_best_trial() -> None:
    history = some_history()
    best = min(history, key=lambda observation: observation.objectives[0])
    proposals = [LocalSearchAdvisor(SPACE).suggest(history, seed=seed) for seed in range(30)]
    assert {differences(proposal, best.architecture) for proposal in proposals} == {1}
    assert len({tuple(proposal.values()) for proposal in proposals}) > 15  # of 36


def test_local_search_uses_the_next_best_trial_once_all_neighbours_are_observed() -> None:
    space = SearchSpace({"a": [0, 1], "b": [0, 1, 2]})
    values = {(0, 0): 1.0, (1, 0): 2.0, (0, 1): 4.0, (0, 2): 5.0}
    history = [Observation({"a": a, "b": b}, "complete", (value,)) for (a, b), value in values.items()]
    proposals = {tuple(LocalSearchAdvisor(space, initial=2).suggest(history, seed=s).values()) for s in range(20)}
    assert proposals == {(1, 1), (1, 2)}


def test_local_search_starts_from_the_best_that_keeps_the_bounds() -> None:
    space = SearchSpace({"a": IntRange(0, 40), "b": IntRange(0, 40)})
    kept, broken = {"a": 0, "b": 0}, {"a": 20, "b": 20}
    history = [Observation(broken, "complete", (0.0,), (1.0,)), Observation(kept, "complete", (9.0,), (-1.0,))]
    for seed in range(10):
        assert differences(LocalSearchAdvisor(space, initial=2).suggest(history, seed=seed), kept) == 1


def test_a_number_of_initial_trials_below_one_is_refused() -> None:
    with pytest.raises(AdvisorError, match="`initial >= 1` must hold, but got 0"):
        LocalSearchAdvisor(SPACE, initial=0)
