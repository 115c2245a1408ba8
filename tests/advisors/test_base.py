"""Observations: what they must be, and how their state reads."""

from __future__ import annotations

import pytest

from advisors import (
    AdvisorError,
    Observation,
)


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
