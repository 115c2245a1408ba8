"""Random search: uniform over what is left, to the last architecture."""

from __future__ import annotations

import pytest

from advisors import (
    Observation,
    RandomAdvisor,
)
from search_spaces import IntRange, SearchSpace


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
