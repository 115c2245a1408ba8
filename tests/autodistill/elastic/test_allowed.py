"""The largest architectures that a space allows."""

from __future__ import annotations

import pytest

from autodistill.elastic.allowed import AllowedArchitectures
from search_spaces import IntRange, SearchSpace

DIMENSIONS = {"width": [2, 4, 8], "heads": [1, 2, 4], "layers": [1, 2, 3]}
LARGEST = {"width": 8, "heads": 4, "layers": 3}


def test_without_constraints_other_values_are_the_largest():
    allowed = AllowedArchitectures(SearchSpace(DIMENSIONS), LARGEST)
    assert allowed.largest_with({}) == LARGEST
    assert allowed.largest_with({"width": 2, "layers": 1}) == {"width": 2, "heads": 4, "layers": 1}


def test_value_that_no_architecture_has_has_none():
    allowed = AllowedArchitectures(SearchSpace(DIMENSIONS, ["width != 2"]), LARGEST)
    assert allowed.largest_with({"width": 2}) is None


@pytest.mark.parametrize("width", DIMENSIONS["width"])
def test_with_constraints_each_value_is_the_largest_that_occurs(width):
    space = SearchSpace(DIMENSIONS, ["width == 2 * heads", "width * layers <= 8"])
    found = [one for one in space.enumerate() if one["width"] == width]
    assert AllowedArchitectures(space, LARGEST).largest_with({"width": width}) == {
        name: max(one[name] for one in found) for name in DIMENSIONS
    }


def test_of_a_space_that_is_too_large_to_enumerate_some_architectures_are_drawn():
    space = SearchSpace({"width": [64, 128], "heads": [1, 2], "size": IntRange(1, 100_000)}, ["width == 64 * heads"])
    largest = {"width": 128, "heads": 2, "size": 100_000}
    found = AllowedArchitectures(space, largest).largest_with({"width": 64})
    assert (found["width"], found["heads"]) == (64, 1)
    assert found["size"] > 90_000


def test_value_that_is_no_number_is_kept_where_it_is_allowed():
    space = SearchSpace({"width": [1, 2], "kind": ["wide", "narrow"]}, ["kind == 'wide' or width == 1"])
    allowed = AllowedArchitectures(space, {"width": 2, "kind": "wide"})
    assert allowed.largest_with({"kind": "narrow"}) == {"width": 1, "kind": "narrow"}
    assert allowed.largest_with({"width": 1}) == {"width": 1, "kind": "wide"}
