"""The architectures that are still free: listed, drawn, and an error when there are none."""

from __future__ import annotations

import numpy as np
import pytest

from advisors import Observation, SpaceExhaustedError
from advisors.unseen_architectures import (
    ensure_any_left,
    identity,
    observed_in,
    random_unseen,
    unseen,
    unseen_neighbours,
)
from search_spaces import Architecture, FloatRange, IntRange, SearchSpace, SearchSpaceError

SPACE = SearchSpace({"a": [1, 2], "b": ["x", "y"]})


def test_history_in_any_form_and_state_is_seen() -> None:
    history = [Observation({"b": "x", "a": 2.0}, "failed"), Observation({"a": 1, "b": "y"}, "running")]
    assert observed_in(SPACE, history) == {(2, "x"), (1, "y")}
    with pytest.raises(SearchSpaceError, match="dimension 'b' is missing"):
        observed_in(SPACE, [Observation({"a": 1}, "failed")])


def test_unseen_architectures_are_listed_in_the_order_of_the_space() -> None:
    assert list(unseen(SPACE, frozenset({(1, "y")}))) == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"}]


def test_neighbours_that_are_seen_are_left_out() -> None:
    centre: Architecture = {"a": 1, "b": "x"}
    assert unseen_neighbours(SPACE, centre, frozenset({(2, "x")})) == [{"a": 1, "b": "y"}]
    assert unseen_neighbours(SPACE, centre, frozenset({(2, "x"), (1, "y")})) == []


def test_random_architecture_is_the_only_one_left_where_draws_rarely_find_it() -> None:
    space = SearchSpace({"a": IntRange(1, 20_000)})
    seen = frozenset((value,) for value in range(1, 20_001) if value != 17_000)
    assert random_unseen(space, seen, np.random.default_rng(0)) == {"a": 17_000}


def test_random_architecture_depends_on_the_generator_alone() -> None:
    space = SearchSpace({"rate": FloatRange(0, 1)})
    drawn = [identity(random_unseen(space, frozenset(), np.random.default_rng(seed))) for seed in (3, 3, 4)]
    assert drawn[0] == drawn[1] != drawn[2]


def test_exhausted_space_is_an_error_with_the_remedy_and_an_empty_one_is_another() -> None:
    everything = frozenset(map(identity, SPACE.enumerate()))
    ensure_any_left(SPACE, everything - {(1, "x")})
    with pytest.raises(SpaceExhaustedError, match=r"all 4 architectures .* \(a, b\) .*ask for fewer trials, or widen"):
        ensure_any_left(SPACE, everything)
    with pytest.raises(SearchSpaceError, match="constraint 'a > 2' excludes all 2 combinations"):
        ensure_any_left(SearchSpace({"a": [1, 2]}, ["a > 2"]), frozenset())
