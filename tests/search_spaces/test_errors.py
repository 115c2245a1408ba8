"""The errors of search spaces: one by one, and all together in one message."""

from __future__ import annotations

import pickle

import pytest

from search_spaces import AutoDistillationError, SearchSpaceError


def test_one_problem_is_the_message_and_several_are_a_list() -> None:
    assert str(SearchSpaceError("`low` is missing")) == "`low` is missing"
    error = SearchSpaceError("`low` is missing", "`step` is 0")
    assert str(error) == "2 mistakes:\n  - `low` is missing\n  - `step` is 0"
    assert error.problems == ["`low` is missing", "`step` is 0"]


def test_error_is_caught_as_a_wrong_value_and_as_one_of_the_project() -> None:
    for kind in (ValueError, AutoDistillationError):
        with pytest.raises(kind, match="`step` is 0"):
            raise SearchSpaceError("`step` is 0")


def test_problems_are_kept_when_the_error_comes_from_another_process() -> None:
    error = pickle.loads(pickle.dumps(SearchSpaceError("one", "two")))
    assert error.problems == ["one", "two"]
