"""What is tried next, and what the search expects of an architecture."""

from __future__ import annotations

import pytest
from width_search import search, widths_of

from autodistill import Advisor, AdvisorError, Observation, SearchResult, SearchSpaceError, SpaceExhaustedError
from autodistill.config import SearchConfig
from autodistill.search.proposals import Proposals
from autodistill.search.trial import Trial
from autodistill.seeds import derive_seed


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
    assert expected["score"][0] == pytest.approx(4, abs=0.5)  # it was trial 3
    assert expected["parameters"][0] == pytest.approx(5, abs=0.5)  # a weight for each input, and a bias
    assert all(std > 0 for _, std in expected.values())
    assert agent.predict({"width": 6})["score"][1] > expected["score"][1]


class Noting(Advisor):
    """Proposes the first architecture that is not in the history, and notes what it was called with."""

    def __init__(self, space):
        super().__init__(space)
        self.calls = []

    def suggest(self, history, *, seed):
        self.calls.append((list(history), seed))
        tried = [observation.architecture for observation in history]
        for architecture in self.space.enumerate():
            if architecture not in tried:
                return architecture
        raise SpaceExhaustedError("all have been proposed")


def proposals(advisor=Noting):
    config = SearchConfig(search_space={"width": [1, 2, 3]}, metrics=["score"], seed=5)
    return Proposals(config, advisor(config.search_space))


def result_of(*trials):
    return SearchResult(trials, proposals().search.metrics)


def test_advisor_receives_the_trials_and_a_seed_of_their_number():
    subject = proposals()
    done = Trial(0, {"width": 1}).complete({"score": 0.25})
    assert subject.next(result_of(done), lambda architecture: True) == {"width": 2}
    assert subject.advisor.calls == [
        ([Observation({"width": 1}, "complete", (-0.25,))], derive_seed(5, "advisor", 1)),
    ]


def test_architecture_that_is_not_worth_a_trial_is_a_failed_one_to_the_advisor():
    subject = proposals()
    assert subject.next(result_of(), lambda architecture: architecture["width"] > 2) == {"width": 3}
    history, _ = subject.advisor.calls[-1]
    assert history == [Observation({"width": width}, "failed") for width in (1, 2)]


def test_space_without_an_architecture_worth_a_trial_is_exhausted_because_of_bounds():
    with pytest.raises(
        SpaceExhaustedError, match=r"all have been proposed; 3 of them break a bound .*relax the bounds"
    ):
        proposals().next(result_of(), lambda architecture: False)
    tried = [Trial(number, {"width": number + 1}).fail("boom") for number in range(3)]
    with pytest.raises(SpaceExhaustedError, match=r"^all have been proposed$"):
        proposals().next(result_of(*tried), lambda architecture: True)


def test_enqueued_architecture_is_skipped_if_tried_and_exempt_from_bounds():
    subject = proposals()
    for width in (2, 3):
        subject.enqueue({"width": width})
    assert subject.next(result_of(Trial(0, {"width": 2})), lambda architecture: False) == {"width": 3}
    assert subject.advisor.calls == []


def test_advisor_that_leaves_the_space_is_an_error_with_its_name():
    class Outside(Advisor):
        def suggest(self, history, *, seed):
            return {"width": 4}

    with pytest.raises(AdvisorError, match="must propose from the space, but Outside did not: width: 4 is not one"):
        proposals(Outside).next(result_of(), lambda architecture: True)


def test_trials_that_have_not_changed_are_not_observed_again():
    subject = proposals()
    done, running = Trial(0, {"width": 1}).complete({"score": 0.25}), Trial(1, {"width": 2})

    def received(*trials):
        subject.next(result_of(*trials), lambda architecture: True)
        return subject.advisor.calls[-1][0]

    first, second = received(done, running)
    again, changed = received(done, running.complete({"score": 0.5}))
    assert again is first
    assert changed == Observation({"width": 2}, "complete", (-0.5,))
    metrics = [{"name": "score", "greater_is_better": False}]
    subject.search = subject.search.with_changes(metrics=metrics)
    assert received(done, running) == [Observation({"width": 1}, "complete", (0.25,)), second]
