from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from advisors import (
    AdvisorError,
    FunctionAdvisor,
    GridAdvisor,
    Observation,
    RandomAdvisor,
    SpaceExhaustedError,
)
from search_spaces import Architecture, FloatRange, IntRange, SearchSpace


def test_random_proposals_are_uniform_over_what_is_left() -> None:
    space = SearchSpace({"a": [1, 2, 3, 4, 5]})
    history = [Observation({"a": 2}, "failed")]
    proposals = [RandomAdvisor(space).suggest(history, seed=seed)["a"] for seed in range(2000)]
    # Four are left, each with a mean of 500 and a standard deviation of 19.
    assert {value: proposals.count(value) for value in (1, 3, 4, 5)} == pytest.approx(
        dict.fromkeys((1, 3, 4, 5), 500), abs=95
    )


def test_random_search_finds_the_last_architecture_of_a_large_space() -> None:
    space = SearchSpace({"a": IntRange(1, 1000), "b": [0, 1]})
    *taken, free = space.enumerate()
    history = [Observation(architecture, "failed") for architecture in taken]
    assert RandomAdvisor(space).suggest(history, seed=0) == free


def test_the_grid_is_walked_in_the_order_of_the_dimensions() -> None:
    space = SearchSpace({"a": [3, 1], "b": FloatRange(0.01, 100, log=True), "c": ["x"]}, ["a > 1 or b < 10"])
    history: list[Observation] = []
    for _ in range(8):
        history.append(Observation(GridAdvisor(space).suggest(history, seed=0), "running"))
    walked = [(trial.architecture["a"], trial.architecture["b"]) for trial in history]
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


def test_a_function_that_repeats_an_architecture_is_an_error() -> None:
    def repeating(history: Sequence[Observation], /, *, seed: int) -> Architecture:
        return {"a": 1}

    advisor = FunctionAdvisor(SearchSpace({"a": [1, 2]}), repeating)
    assert advisor.suggest([], seed=0) == {"a": 1}
    with pytest.raises(AdvisorError, match=r"function '.*repeating' repeated \{'a': 1\}; skip the architectures of"):
        advisor.suggest([Observation({"a": 1}, "failed")], seed=0)


def test_a_function_that_leaves_the_space_is_an_error_and_its_form_is_corrected() -> None:
    space = SearchSpace({"a": [1, 2], "b": [0.5]})
    with pytest.raises(AdvisorError, match="left the space: a: 3 is not one of the options; nearest: 2, 1"):
        FunctionAdvisor(space, lambda history, *, seed: {"a": 3, "b": 0.5}).suggest([], seed=0)
    proposal = FunctionAdvisor(space, lambda history, *, seed: {"b": 0.5, "a": np.int64(2)}).suggest([], seed=0)  # type: ignore[dict-item]
    assert list(proposal.items()) == [("a", 2), ("b", 0.5)]
    assert type(proposal["a"]) is int


def test_a_function_is_not_called_when_the_space_is_exhausted() -> None:
    def never(history: Sequence[Observation], /, *, seed: int) -> Architecture:
        raise AssertionError("called")

    with pytest.raises(SpaceExhaustedError):
        FunctionAdvisor(SearchSpace({"a": [1]}), never).suggest([Observation({"a": 1}, "running")], seed=0)


def test_what_a_function_raises_itself_is_passed_on() -> None:
    def broken(history: Sequence[Observation], /, *, seed: int) -> Architecture:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        FunctionAdvisor(SearchSpace({"a": [1]}), broken).suggest([], seed=0)
