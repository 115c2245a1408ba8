"""Observations: what they must be, and how their state is read."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import numpy as np
import pytest

from advisors import Advisor, AdvisorError, Observation
from advisors.base import ObservationState
from search_spaces import SearchSpace, SearchSpaceError


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("done",), "`state` must be one of 'complete', 'failed', 'running', but got 'done'"),
        (("complete",), "a complete observation needs at least one objective, but got none"),
        (("complete", (float("nan"),)), r"objectives must be finite, but got \(nan,\); report such a trial as failed"),
        (("complete", (1.0,), (float("inf"),)), r"violations must be finite, but got \(inf,\)"),
        (("running", (1.0,)), "only a complete observation has objectives, but this one is running"),
    ],
)
def test_an_observation_that_contradicts_itself_is_refused(arguments: tuple[object, ...], message: str) -> None:
    with pytest.raises(AdvisorError, match=message):
        Observation({"a": 1}, *arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("state", "complete", "running"), [("complete", True, False), ("failed", False, False), ("running", False, True)]
)
def test_state_may_be_a_word_and_is_read_by_properties(state: str, complete: bool, running: bool) -> None:
    observation = Observation({"a": 1}, state, (1.0,) if complete else ())
    assert observation == Observation({"a": 1}, ObservationState(state), observation.objectives)
    assert (observation.is_complete, observation.is_running) == (complete, running)


def test_numbers_of_other_types_become_floats() -> None:
    objectives: Any = [np.float32(0.5), 2]
    observation = Observation({"a": 1}, "complete", objectives, violations=(np.int64(-1),))  # type: ignore[arg-type]
    assert (observation.objectives, observation.violations) == ((0.5, 2.0), (-1.0,))
    assert {type(number) for number in observation.objectives + observation.violations} == {float}


def test_advisor_that_cannot_suggest_is_not_made() -> None:
    class Silent(Advisor):
        pass

    with pytest.raises(TypeError, match="suggest"):
        Silent(SearchSpace({"a": [1]}))  # type: ignore[abstract]


def test_an_architecture_is_validated_once_for_each_space(monkeypatch: pytest.MonkeyPatch) -> None:
    validated = []
    validate = SearchSpace.validate

    def watched(space: SearchSpace, architecture: Any) -> Any:
        validated.append(space)
        return validate(space, architecture)

    monkeypatch.setattr(SearchSpace, "validate", watched)
    narrow, wide = SearchSpace({"a": [1], "b": [2]}), SearchSpace({"b": [2, 3], "a": [1]})
    observation = Observation({"b": 2.0, "a": 1}, "running")
    assert [list(observation.architecture_in(narrow).items()) for _ in range(3)] == [[("a", 1), ("b", 2)]] * 3
    assert list(observation.architecture_in(wide).items()) == [("b", 2), ("a", 1)]
    assert [space is narrow for space in validated] == [True, False]
    with pytest.raises(SearchSpaceError, match="dimension 'c' is missing"):
        observation.architecture_in(SearchSpace({"a": [1], "b": [2], "c": [3]}))


def test_an_observation_is_pickled_and_copied_without_the_space_it_was_validated_in() -> None:
    observation = Observation({"a": 1}, "complete", (0.5,), (-1.0,))
    observation.architecture_in(SearchSpace({"a": [1]}, [lambda architecture: True]))  # it cannot be pickled
    for other in (pickle.loads(pickle.dumps(observation)), copy.deepcopy(observation)):
        assert other == observation
        assert vars(other).keys() == {"architecture", "state", "objectives", "violations"}
