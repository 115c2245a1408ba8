"""What is tried next, and what the search expects of an architecture."""

from __future__ import annotations

import pytest
from width_search import search, widths_of

from autodistill import (
    Advisor,
    AdvisorError,
    SearchSpaceError,
)


def test_enqueued_architectures_are_tried_first_and_may_be_enqueued_again(tmp_path):
    for total in (2, 4):
        agent = search(tmp_path, max_trials=total)
        for width in (5, 3, 6):
            agent.enqueue_trial({"width": width})
        agent.search_loop()
    assert widths_of(tmp_path) == [5, 3, 6, 1]
    with pytest.raises(SearchSpaceError, match="7 is not one of the options"):
        agent.enqueue_trial({"width": 7})


def test_an_advisor_that_repeats_an_earlier_search_is_refused(tmp_path):
    search(tmp_path / "first", max_trials=1).search_loop()
    agent = search(
        tmp_path / "second", history_from=[tmp_path / "first"], advisor=lambda history, *, seed: {"width": 1}
    )
    with pytest.raises(AdvisorError, match=r"repeated \{'width': 1\}"):
        agent.search_loop()

    class Stubborn(Advisor):
        def suggest(self, history, *, seed):
            return {"width": 1}

    with pytest.raises(AdvisorError, match=r"Stubborn repeated \{'width': 1\}; skip the architectures of the history"):
        search(tmp_path / "second", history_from=[tmp_path / "first"], advisor=Stubborn).search_loop()


def test_importance_and_prediction_are_returned_for_each_goal(tmp_path):
    agent = search(tmp_path, metrics=["score", "parameters"], max_trials=5)
    with pytest.raises(AdvisorError, match="at least two complete trials are needed to learn from, but got 0"):
        agent.importance()
    agent.search_loop()
    assert agent.importance() == {"score": {"width": 1.0}, "parameters": {"width": 1.0}}
    expected = agent.predict({"width": 4})
    assert expected["score"][0] == pytest.approx(4, abs=0.5)  # seen: it was trial 3
    assert expected["parameters"][0] == pytest.approx(5, abs=0.5)  # a weight for each input, and a bias
    assert all(std > 0 for _, std in expected.values())
    assert agent.predict({"width": 6})["score"][1] > expected["score"][1]
