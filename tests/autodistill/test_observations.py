"""What a search learns from besides its own trials, and what it can tell about them."""

from __future__ import annotations

import pytest
from torch import nn

from autodistill import (
    Advisor,
    AdvisorError,
    AutoDistillation,
    ConfigurationError,
    Observation,
    SearchDirectoryError,
    SearchResult,
    SearchSpaceError,
)

WIDTHS = [1, 2, 3, 4, 5, 6]


class Recording(Advisor):
    """Remembers the last history that it was given; proposes the narrowest that is new."""

    last: tuple[Observation, ...] = ()

    def suggest(self, history, *, seed):
        type(self).last = tuple(history)
        tried = [observation.architecture for observation in history]
        return next(architecture for architecture in self.space.enumerate() if architecture not in tried)


def search(directory, *, widths=WIDTHS, metrics=("score",), max_trials=6, score=lambda width: width, **arguments):
    return AutoDistillation(
        lambda architecture: nn.Linear(architecture["width"], 1),
        {"search": {"search_space": {"width": widths}, "metrics": list(metrics), "max_trials": max_trials}},
        **{
            "train_func": lambda student: student,
            "eval_func": lambda student: {"score": score(student.in_features), "other": 1.0},
            "search_dir": directory,
            "device": "cpu",
            "show_progress_bar": False,
            "advisor": Recording,
        }
        | arguments,
    )


def widths_of(directory):
    return [trial.architecture["width"] for trial in SearchResult.load(directory)]


def test_enqueued_architectures_are_tried_first_and_a_resumed_program_may_enqueue_them_again(tmp_path):
    for total in (2, 4):
        agent = search(tmp_path, max_trials=total)
        for width in (5, 3, 6):
            agent.enqueue_trial({"width": width})
        agent.search_loop()
    assert widths_of(tmp_path) == [5, 3, 6, 1]
    with pytest.raises(SearchSpaceError, match="7 is not one of the options"):
        agent.enqueue_trial({"width": 7})


def test_an_added_trial_is_learnt_from_counts_and_may_be_the_best(tmp_path):
    agent = search(tmp_path, max_trials=3)
    assert agent.add_trial({"width": 4}, {"score": 99}).number == 0
    assert agent.search_loop() == {"width": 4}
    assert widths_of(tmp_path) == [4, 1, 2]
    assert Recording.last[0] == Observation({"width": 4}, "complete", (-99.0,))
    with pytest.raises(ConfigurationError, match=r"must have been kept to be loaded, but that of trial 0 was not"):
        agent.best_model()
    with pytest.raises(SearchDirectoryError, match="no two trials share an architecture, but trial 0 has"):
        agent.add_trial({"width": 4}, {"score": 1.0})


def test_an_added_trial_without_a_metric_or_with_a_bad_one_is_refused_and_not_recorded(tmp_path):
    agent = search(tmp_path)
    with pytest.raises(ConfigurationError) as error:
        agent.add_trial({"width": 4}, {"loss": float("nan")})
    assert "needs every metric of the search, but 'score' is missing" in str(error.value)
    assert "must be a finite number, but got nan for 'loss'" in str(error.value)
    assert len(agent.search_result) == 0


def test_an_earlier_search_is_learnt_from_and_its_architectures_are_not_proposed_again(tmp_path):
    search(tmp_path / "first", widths=[1, 2, 9], max_trials=3).search_loop()
    agent = search(tmp_path / "second", max_trials=2, history_from=[tmp_path / "first"])
    best = agent.search_loop()
    assert widths_of(tmp_path / "second") == [3, 4]
    assert best == {"width": 4}
    # The width of 9 is not in the space of the second.
    assert Recording.last == (
        Observation({"width": 1}, "complete", (-1.0,)),
        Observation({"width": 2}, "complete", (-2.0,)),
        Observation({"width": 3}, "complete", (-3.0,)),
    )


def test_trials_of_an_earlier_search_without_a_metric_of_this_one_are_left_out(tmp_path):
    search(tmp_path / "first", max_trials=2).search_loop()
    search(
        tmp_path / "second",
        max_trials=2,
        metrics=["score", "parameters"],
        history_from=[tmp_path / "first"],
    ).search_loop()
    assert widths_of(tmp_path / "second") == [1, 2]


def test_a_place_without_a_search_is_refused_as_history(tmp_path):
    agent = search(tmp_path / "second", history_from=[tmp_path / "nothing"])
    with pytest.raises(SearchDirectoryError, match=r"a search directory holds a search.json, but .* has none"):
        agent.search_loop()


def test_patience_ends_a_search_whose_best_has_not_changed(tmp_path):
    scores = {1: 1.0, 2: 5.0, 3: 5.0, 4: 2.0, 5: 9.0, 6: 0.0}
    agent = search(tmp_path, score=scores.get)
    agent.search_loop(patience=2)
    assert widths_of(tmp_path) == [1, 2, 3, 4]  # 3 equals 2, which changes nothing
    agent.search_loop(patience=3)
    assert widths_of(tmp_path) == [1, 2, 3, 4, 5, 6]
    with pytest.raises(ConfigurationError, match="patience must be at least 1 trial, but got 0"):
        agent.search_loop(patience=0)


def test_what_matters_and_what_is_expected_are_told_for_each_goal(tmp_path):
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
