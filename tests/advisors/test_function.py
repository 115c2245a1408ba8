"""A function as an advisor: what it proposes is checked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from advisors import (
    AdvisorError,
    FunctionAdvisor,
    Observation,
    SpaceExhaustedError,
)
from search_spaces import Architecture, SearchSpace


def test_a_function_that_repeats_an_architecture_is_an_error() -> None:
    def stubborn(history: Sequence[Observation], /, *, seed: int) -> Architecture:
        return {"a": 1}

    advisor = FunctionAdvisor(SearchSpace({"a": [1, 2]}), stubborn)
    assert advisor.suggest([], seed=0) == {"a": 1}
    with pytest.raises(AdvisorError, match=r"function '.*stubborn' repeated \{'a': 1\}; skip the architectures of the"):
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
