from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from advisors import Advisor, AdvisorError, BayesianAdvisor, Observation, RandomAdvisor
from advisors.bayesian import _worth_learning
from advisors.objectives import Finished
from search_spaces import Architecture, FloatRange, IntRange, SearchSpace


def choices() -> SearchSpace:
    return SearchSpace({f"d{i}": [1, 2, 3, 4] for i in range(4)})


def bowl(architecture: Architecture) -> float:
    """Smooth, with its minimum of 0 at (1, 2, 3, 4)."""
    return sum((i + 1) * (float(architecture[f"d{i}"] or 0) - (i + 1)) ** 2 for i in range(4))


def run(
    advisor: Advisor, objective: Callable[[Architecture], Observation], trials: int, seed: int
) -> list[Observation]:
    history: list[Observation] = []
    for number in range(trials):
        history.append(objective(advisor.suggest(history, seed=1000 * seed + number)))
    return history


def best_of(history: list[Observation]) -> float:
    return min(observation.objectives[0] for observation in history if max(observation.violations, default=0) <= 0)


def test_it_beats_random_search_on_a_smooth_function() -> None:
    def measure(architecture: Architecture) -> Observation:
        return Observation(architecture, "complete", (bowl(architecture),))

    space = choices()
    bayesian = [best_of(run(BayesianAdvisor(space), measure, 25, seed)) for seed in range(5)]
    at_random = [best_of(run(RandomAdvisor(space), measure, 25, seed)) for seed in range(5)]
    assert np.mean(bayesian) < 0.25 * np.mean(at_random)


def test_it_beats_random_search_in_a_space_too_large_to_score_all_of_it() -> None:
    space = SearchSpace({f"d{i}": FloatRange(0, 5) for i in range(2)} | {f"d{i}": IntRange(0, 500) for i in (2, 3)})

    def measure(architecture: Architecture) -> Observation:
        shrunk = {**architecture, "d2": float(architecture["d2"] or 0) / 100, "d3": 4}
        return Observation(architecture, "complete", (bowl(shrunk),))

    bayesian = [best_of(run(BayesianAdvisor(space), measure, 22, seed)) for seed in range(2)]
    at_random = [best_of(run(RandomAdvisor(space), measure, 22, seed)) for seed in range(2)]
    assert np.mean(bayesian) < 0.25 * np.mean(at_random)


def test_it_finds_architectures_that_keep_a_bound() -> None:
    def measure(architecture: Architecture) -> Observation:
        return Observation(architecture, "complete", (-total(architecture),), (total(architecture) - 7,))

    history = run(BayesianAdvisor(choices()), measure, 24, seed=0)
    assert best_of(history) == -7
    kept = [observation.violations[0] <= 0 for observation in history]
    # 31 of the 256 architectures keep the bound.
    assert np.mean(kept[10:]) > 0.5


def total(architecture: Architecture) -> float:
    return sum(float(value or 0) for value in architecture.values())


def test_it_looks_for_feasible_architectures_while_there_are_none() -> None:
    def measure(architecture: Architecture) -> Observation:
        return Observation(architecture, "complete", (0.0,), (total(architecture) - 5,))

    space = choices()
    history = [measure(architecture) for architecture in space.enumerate() if total(architecture) > 13]
    for seed in range(4):
        history.append(measure(BayesianAdvisor(space).suggest(history, seed=seed)))
    # 5 of the 256 architectures keep the bound, and none of the 15 observed before did.
    assert min(observation.violations[0] for observation in history) <= 0


def test_running_trials_push_the_proposal_away_from_them() -> None:
    space = SearchSpace({"x": IntRange(0, 200)})
    history = [Observation({"x": x}, "complete", ((x - 100) ** 2 / 1e4,)) for x in range(0, 201, 20) if x != 100]
    advisor = BayesianAdvisor(space, initial=2)
    alone = advisor.suggest(history, seed=0)["x"]
    running = [Observation({"x": x}, "running") for x in range(90, 111)]
    with_running = advisor.suggest([*history, *running], seed=0)["x"]
    assert alone in range(90, 111)
    assert with_running not in range(90, 111)


def test_several_objectives_spread_the_proposals_over_the_front() -> None:
    space = SearchSpace({"x": IntRange(0, 30), "y": [0, 1, 2]})

    def measure(architecture: Architecture) -> Observation:
        x, y = float(architecture["x"] or 0), float(architecture["y"] or 0)
        return Observation(architecture, "complete", (x + 20 * y, 1000 * (30 - x + 20 * y)))

    history = run(BayesianAdvisor(space), measure, 26, seed=0)
    later = history[10:]
    on_front = [int(observation.architecture["x"] or 0) for observation in later if observation.architecture["y"] == 0]
    assert len(on_front) >= 12
    assert min(on_front) < 10
    assert max(on_front) > 20


def test_the_first_proposals_are_spread_over_the_space() -> None:
    space = choices()
    for seed in range(5):
        history: list[Observation] = []
        for number in range(4):
            proposal = BayesianAdvisor(space).suggest(history, seed=100 * seed + number)
            for observation in history:
                assert sum(proposal[name] != observation.architecture[name] for name in space.names) >= 3
            # Failed trials count too: they are no information on the space, but proposals should keep away from them.
            history.append(Observation(proposal, "failed" if number % 2 else "running"))


def test_only_complete_trials_count_towards_the_initial_ones() -> None:
    space = SearchSpace({"x": IntRange(0, 1000)})
    complete = [Observation({"x": x}, "complete", ((x - 300) ** 2 / 1e6,)) for x in (0, 200, 400, 1000)]
    others = [Observation({"x": x}, "failed") for x in range(900, 903)]
    by_distance = BayesianAdvisor(space, initial=5).suggest([*complete, *others], seed=3)
    by_model = BayesianAdvisor(space, initial=4).suggest([*complete, *others], seed=3)
    assert 600 < int(by_distance["x"] or 0) < 700
    assert 200 < int(by_model["x"] or 0) < 400


def test_of_a_long_history_the_best_and_some_of_the_others_are_fitted() -> None:
    losses = np.random.default_rng(1).permutation(1000).astype(float)
    architectures = [{"x": x} for x in range(1000)]
    finished = Finished(architectures, losses[:, None], np.zeros((1000, 0)), [])
    rows = _worth_learning(finished, losses, np.random.default_rng(0))
    assert len(set(rows)) == 300
    assert set(range(150)) <= set(losses[rows])
    assert np.median(losses[rows][losses[rows] >= 150]) == pytest.approx(575, abs=75)
    short = Finished(architectures[:300], losses[:300, None], np.zeros((300, 0)), [])
    np.testing.assert_array_equal(_worth_learning(short, losses[:300], np.random.default_rng(0)), range(300))


def test_a_long_history_leads_to_the_best_of_what_is_left() -> None:
    space = SearchSpace({"x": IntRange(0, 999)})
    taken = [x for x in range(1000) if x % 2 and x != 601]
    history = [Observation({"x": x}, "complete", (abs(x - 600) / 1000,)) for x in taken]
    assert abs(int(BayesianAdvisor(space).suggest(history, seed=0)["x"] or 0) - 600) <= 2


def test_a_number_of_initial_trials_below_one_is_refused() -> None:
    with pytest.raises(AdvisorError, match="`initial >= 1` must hold, but got 0"):
        BayesianAdvisor(choices(), initial=0)
