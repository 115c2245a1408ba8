"""The candidates of an acquisition function: a small space whole, of a large one a sample."""

from __future__ import annotations

import numpy as np
import pytest

from advisors import SpaceExhaustedError
from advisors.candidates import SAMPLE_SIZE, SCORE_ALL_LIMIT, CandidatePool
from advisors.unseen_architectures import identity
from search_spaces import Architecture, FloatRange, IntRange, SearchSpace

SMALL = SearchSpace({"a": IntRange(0, 4), "b": ["x", "y"]})
LARGE = SearchSpace({"a": IntRange(0, 999), "b": IntRange(0, 999)})


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def test_all_that_is_unseen_in_a_small_space_is_a_candidate() -> None:
    candidates = CandidatePool(SMALL).draw(frozenset({(0, "x"), (4, "y")}), [], rng())
    assert [identity(architecture) for architecture in candidates.architectures] == [
        *((0, "y"), (1, "x"), (1, "y"), (2, "x")),
        *((2, "y"), (3, "x"), (3, "y"), (4, "x")),
    ]
    # One column for the range, scaled to [0, 1], and two for the choice.
    assert candidates.features.shape == (8, 3)
    np.testing.assert_array_equal(candidates.features[1], [0.25, 1, 0])


def test_large_space_gives_a_sample_and_the_neighbours_of_good_architectures() -> None:
    good: Architecture = {"a": 500, "b": 500}
    candidates = CandidatePool(LARGE).draw(frozenset({(501, 500)}), [good], rng())
    found = {identity(architecture) for architecture in candidates.architectures}
    neighbours = {identity(neighbour) for neighbour in LARGE.neighbours(good)}
    assert neighbours - found == {(501, 500)}  # which is seen
    assert len(found) == len(candidates.architectures) <= SAMPLE_SIZE + len(neighbours)
    assert len(found) > 0.9 * SAMPLE_SIZE
    np.testing.assert_array_equal(candidates.features, LARGE.encode(candidates.architectures))


def test_candidates_of_a_large_space_depend_on_the_generator_alone() -> None:
    pool = CandidatePool(LARGE)
    first = pool.draw(frozenset(), [], rng()).architectures
    assert pool.draw(frozenset(), [], rng()).architectures == first
    assert pool.draw(frozenset(), [], np.random.default_rng(1)).architectures != first


@pytest.mark.parametrize(
    ("space", "complete"),
    [
        (SearchSpace({"a": IntRange(1, SCORE_ALL_LIMIT)}), True),
        (SearchSpace({"a": IntRange(0, SCORE_ALL_LIMIT)}), False),
        (SearchSpace({"rate": FloatRange(0, 1)}), False),
    ],
)
def test_space_is_scored_whole_up_to_the_limit(space: SearchSpace, complete: bool) -> None:
    assert CandidatePool(space).is_complete is complete


def test_unseen_neighbours_may_be_none_and_an_exhausted_space_is_an_error() -> None:
    space = SearchSpace({"a": [1, 2]})
    pool = CandidatePool(space)
    assert pool.around({"a": 1}, frozenset()).architectures == [{"a": 2}]
    assert pool.around({"a": 1}, frozenset({(2,)})).features.shape == (0, 2)
    with pytest.raises(SpaceExhaustedError):
        pool.draw(frozenset({(1,), (2,)}), [], rng())
