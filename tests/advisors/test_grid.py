"""Grid search: every point, in order."""

from __future__ import annotations

import numpy as np
import pytest

from advisors import (
    AdvisorError,
    GridAdvisor,
    Observation,
    SpaceExhaustedError,
)
from search_spaces import FloatRange, SearchSpace


def test_the_grid_is_walked_in_the_order_of_the_dimensions() -> None:
    space = SearchSpace({"a": [3, 1], "b": FloatRange(0.01, 100, log=True), "c": ["x"]}, ["a > 1 or b < 10"])
    history: list[Observation] = []
    for _ in range(8):
        history.append(Observation(GridAdvisor(space).suggest(history, seed=0), "running"))
    walked = [(seen.architecture["a"], seen.architecture["b"]) for seen in history]
    points = [0.01, 0.1, 1, 10, 100]
    expected = [(3, point) for point in points] + [(1, point) for point in points[:3]]
    np.testing.assert_allclose(walked, expected, rtol=1e-12)
    with pytest.raises(SpaceExhaustedError, match=r"every point of the grid over a, b, c has been proposed \(8 in"):
        GridAdvisor(space).suggest(history, seed=0)


def test_the_number_of_points_of_a_float_range_can_be_chosen() -> None:
    space = SearchSpace({"b": FloatRange(0, 1)})
    history = [Observation({"b": 0.0}, "running")]
    assert GridAdvisor(space, float_points=2).suggest(history, seed=0) == {"b": 1.0}
    with pytest.raises(AdvisorError, match="`float_points >= 2` must hold, but got 1"):
        GridAdvisor(space, float_points=1)
