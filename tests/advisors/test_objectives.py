from __future__ import annotations

import numpy as np
import pytest

from advisors import AdvisorError, Observation
from advisors.objectives import read_history, scalarise, scale_to_range


def test_a_history_is_split_by_state_and_failed_trials_are_left_out() -> None:
    history = [
        Observation({"a": 1}, "complete", (1.0, 2.0), (0.0, -1.0)),
        Observation({"a": 2}, "failed"),
        Observation({"a": 3}, "running"),
        Observation({"a": 4}, "complete", (3.0, 4.0), (0.1, -1.0)),
    ]
    finished = read_history(history)
    assert finished.architectures == [{"a": 1}, {"a": 4}]
    assert finished.running == [{"a": 3}]
    np.testing.assert_array_equal(finished.objectives, [[1, 2], [3, 4]])
    np.testing.assert_array_equal(finished.violations, [[0, -1], [0.1, -1]])
    assert finished.feasible.tolist() == [True, False]


def test_without_bounds_every_complete_observation_is_feasible() -> None:
    assert read_history([Observation({"a": 1}, "complete", (1.0,))]).feasible.tolist() == [True]
    assert read_history([]).feasible.tolist() == []


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (((1.0, 2.0), ()), r"same number of objectives, but got \[1, 2\]"),
        (((1.0,), (0.0,)), r"same number of violations, but got \[0, 1\]"),
    ],
)
def test_a_history_of_two_searches_is_refused(second: tuple[tuple[float, ...], ...], message: str) -> None:
    history = [Observation({"a": 1}, "complete", (1.0,)), Observation({"a": 2}, "complete", *second)]
    with pytest.raises(AdvisorError, match=message):
        read_history(history)


def test_several_objectives_are_combined_by_the_augmented_chebyshev_function() -> None:
    objectives = np.array([[1.0, 50.0, 3.0], [2.0, 10.0, 3.0], [5.0, 30.0, 3.0]])
    weights = np.random.default_rng(3).dirichlet([1.0, 1.0, 1.0])
    expected = []
    for row in objectives:
        scaled = [(row[0] - 1) / 4, (row[1] - 10) / 40, 0.0]  # the third is constant
        terms = [weight * value for weight, value in zip(weights, scaled, strict=True)]
        expected.append(max(terms) + 0.05 * sum(terms))
    np.testing.assert_allclose(scalarise(objectives, np.random.default_rng(3)), expected, rtol=1e-12)


def test_over_many_weights_every_member_of_a_pareto_front_is_the_best_and_nothing_else() -> None:
    concave = np.array([[0.0, 1.0], [0.6, 0.9], [0.9, 0.6], [1.0, 0.0], [0.95, 0.95]])  # a weighted sum misses two
    rng = np.random.default_rng(0)
    winners = {int(np.argmin(scalarise(concave, rng))) for _ in range(300)}
    assert winners == {0, 1, 2, 3}


def test_scaling_survives_numbers_whose_difference_overflows() -> None:
    scaled = scale_to_range(np.array([[-1.7e308], [1.7e308], [0.0]]))
    np.testing.assert_allclose(scaled, [[0], [1], [0.5]])
