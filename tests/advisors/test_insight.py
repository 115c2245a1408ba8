from __future__ import annotations

import numpy as np
import pytest

from advisors import AdvisorError, Observation
from advisors.insight import importance, predict
from search_spaces import Architecture, SearchSpace

SPACE = SearchSpace({"a": [0, 1, 2, 3], "b": [0, 1, 2, 3], "c": [0, 1, 2], "d": [7]})


def values(architecture: Architecture) -> tuple[float, float]:
    a, b, c = (float(architecture[name] or 0) for name in "abc")
    return 10 * a + b, 5 * c - 100


HISTORY = [Observation(architecture, "complete", values(architecture)) for architecture in SPACE.enumerate()]


def test_the_dimension_with_the_largest_part_of_the_variance_matters_most() -> None:
    first, second = importance(SPACE, HISTORY)
    # The variance of 10a is 100 times that of b, and c has none of it.
    assert list(first)[:2] == ["a", "b"]
    assert first["a"] == pytest.approx(100 / 101, abs=0.02)
    assert second["c"] == pytest.approx(1, abs=0.02)
    assert sum(first.values()) == pytest.approx(1)
    assert importance(SPACE, HISTORY) == [first, second]


def test_an_objective_that_never_differs_is_explained_by_no_dimension() -> None:
    history = [Observation(seen.architecture, "complete", (1.0, seen.objectives[0])) for seen in HISTORY]
    constant, other = importance(SPACE, history)
    assert constant == {"a": 0.0, "b": 0.0, "c": 0.0}
    assert next(iter(other)) == "a"
    assert {type(part) for part in other.values()} == {float}


def test_a_prediction_is_near_the_truth_and_surer_where_it_was_observed() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(HISTORY))
    observed, rest = [HISTORY[i] for i in order[:36]], [HISTORY[i] for i in order[36:]]
    for observation in rest:
        for (mean, std), truth in zip(
            predict(SPACE, observed, observation.architecture), observation.objectives, strict=True
        ):
            assert abs(mean - truth) < max(1.5, 4 * std)
    spread_observed = np.mean(
        [predict(SPACE, observed, observation.architecture)[0][1] for observation in observed[:4]]
    )
    spread_rest = np.mean([predict(SPACE, observed, trial.architecture)[0][1] for trial in rest[:4]])
    assert spread_observed < spread_rest


def test_too_few_trials_are_refused() -> None:
    history = [HISTORY[0], Observation(HISTORY[1].architecture, "failed")]
    for learn in (lambda: importance(SPACE, history), lambda: predict(SPACE, history, HISTORY[2].architecture)):
        with pytest.raises(AdvisorError, match="at least two complete trials are needed to learn from, but got 1"):
            learn()
