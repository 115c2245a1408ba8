"""The Pareto front and the choice from it, compared with brute force and with the formulas written out."""

from typing import Any

import numpy as np
import pytest

from autodistill.metrics.pareto import dominance_order, nearest_to_ideal, non_dominated


def dominates(a: np.ndarray, b: np.ndarray) -> bool:
    return all(x <= y for x, y in zip(a, b, strict=True)) and any(x < y for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("goals", [1, 2, 3, 5])
@pytest.mark.parametrize("levels", [3, 1000])
def test_front_equals_brute_force_on_random_points(goals: int, levels: int) -> None:
    for seed in range(10):
        points = np.random.default_rng(seed).integers(0, levels, size=(40, goals)).astype(float)
        expected = [not any(dominates(other, point) for other in points) for point in points]
        assert non_dominated(points).tolist() == expected


def test_equal_points_are_both_on_the_front_and_no_points_have_none() -> None:
    assert non_dominated([[1, 1], [1, 1], [2, 1]]).tolist() == [True, True, False]
    assert non_dominated(np.empty((0, 2))).tolist() == []
    assert dominance_order(np.empty((0, 2))) == []


@pytest.mark.parametrize("bad", [[[1.0, float("nan")]], [[float("inf"), 0.0]], [1.0, 2.0]])
def test_losses_that_are_not_finite_or_not_a_table_are_refused(bad: Any) -> None:
    with pytest.raises(ValueError, match="losses must be"):
        non_dominated(bad)


def test_nearest_to_ideal_equals_the_formula_written_out() -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        points, weights = rng.normal(size=(15, 3)) * [1, 1e6, 1e-6], rng.uniform(0.1, 2, size=3)
        distances = []
        for point in points:
            terms = [
                weights[j] * (point[j] - min(points[:, j])) / (max(points[:, j]) - min(points[:, j])) for j in range(3)
            ]
            distances.append(sum(term**2 for term in terms) ** 0.5)
        assert nearest_to_ideal(points, weights.tolist()) == distances.index(min(distances))


def test_choice_does_not_depend_on_the_units() -> None:
    points = np.random.default_rng(0).normal(size=(12, 2))
    assert nearest_to_ideal(points) == nearest_to_ideal(points * [1000, 0.001] + [5, -3])


def test_metric_that_is_equal_everywhere_has_no_influence() -> None:
    assert nearest_to_ideal([[1, 7, 0.5], [0, 7, 0.5]]) == 1


def test_the_first_of_equally_near_points_is_chosen() -> None:
    assert nearest_to_ideal([[1, 0], [0, 1]]) == 0
    assert nearest_to_ideal([[0.1 + 0.2, 0.0], [0.0, 0.3]]) == 0  # equal but for rounding


@pytest.mark.parametrize("weights", [[1], [1, -1], [1, float("nan")]])
def test_weights_that_do_not_fit_are_refused(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="weights must be 2 non-negative numbers"):
        nearest_to_ideal([[1, 2]], weights)


def test_order_of_one_loss_is_that_of_its_values_and_equal_ones_keep_theirs() -> None:
    points = np.random.default_rng(0).integers(0, 9, size=(40, 1)).astype(float)
    expected = sorted(range(40), key=lambda position: points[position, 0])
    assert dominance_order(points) == expected
    assert dominance_order(np.hstack([points, points])) == expected  # by its fronts
