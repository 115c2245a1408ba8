"""What a search learns from besides its own trials, and what it can tell about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
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
    with pytest.raises(ConfigurationError, match="but trial 0 was run elsewhere and added; take that of another trial"):
        agent.best_model()
    with pytest.raises(SearchDirectoryError, match="no two trials share an architecture, but trial 0 has"):
        agent.add_trial({"width": 4}, {"score": 1.0})


def test_an_added_trial_without_a_metric_or_with_a_bad_one_is_refused_and_not_recorded(tmp_path):
    agent = search(tmp_path)
    with pytest.raises(ConfigurationError) as error:
        agent.add_trial({"width": 4}, {"loss": float("nan")})
    assert "needs every metric of the search, but 'score' is missing" in str(error.value)
    assert "must be a finite number, but got nan for 'loss'" in str(error.value)
    with pytest.raises(ConfigurationError, match=r"a mapping of names to numbers, but got 0\.9"):
        agent.add_trial({"width": 4}, 0.9)
    assert len(agent.search_result) == 0


def test_an_added_metric_may_be_whatever_eval_func_may_return(tmp_path):
    agent = search(tmp_path)
    added = agent.add_trial({"width": 4}, {"score": torch.tensor(0.5), 3: np.float32(2)})
    assert agent.search_result[0].metrics == added.metrics == {"score": 0.5, "3": 2.0}


def test_nothing_is_added_or_proposed_where_the_set_up_lacks_something(tmp_path):
    agent = search(tmp_path, train_func=None)
    for ask in (agent.model_arch_proposition, lambda: agent.add_trial({"width": 4}, {"score": 1.0})):
        with pytest.raises(ConfigurationError, match="needs teacher_model, but there is none"):
            ask()
    assert not (tmp_path / "search.json").exists()


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
    agent.enqueue_trial({"width": 3})
    with pytest.raises(ConfigurationError, match=r"directories of earlier searches, but .*nothing holds none"):
        agent.search_loop()  # before anything runs
    assert len(agent.search_result) == 0
    for history in (str(tmp_path), tmp_path, [3]):
        with pytest.raises(ConfigurationError, match="history_from must be a list of search directories, but got"):
            search(tmp_path / "second", history_from=history)


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


def test_patience_ends_a_search_whose_best_has_not_changed(tmp_path):
    scores = {1: 1.0, 2: 5.0, 3: 5.0, 4: 2.0, 5: 9.0, 6: 0.0}
    agent = search(tmp_path, score=scores.get)
    agent.search_loop(patience=2)
    assert widths_of(tmp_path) == [1, 2, 3, 4]  # 3 equals 2, which changes nothing
    agent.search_loop(patience=3)
    assert widths_of(tmp_path) == [1, 2, 3, 4, 5, 6]


def test_limits_that_are_none_are_told_all_at_once(tmp_path):
    agent = search(tmp_path)
    for wrong in ({"n_trials": -1, "timeout": -1, "patience": 0}, {"n_trials": 1.5, "timeout": "3", "patience": "3"}):
        with pytest.raises(ConfigurationError) as error:
            agent.search_loop(**wrong)
        assert f"n_trials must be a whole number of at least 0, but got {wrong['n_trials']!r}." in str(error.value)
        assert f"timeout must be a number of seconds, zero or more, but got {wrong['timeout']!r}." in str(error.value)
        assert f"patience must be a whole number of at least 1, but got {wrong['patience']!r}." in str(error.value)
    with pytest.raises(ConfigurationError, match="timeout must be a number of seconds, zero or more, but got nan"):
        agent.search_loop(timeout=float("nan"))
    assert len(agent.search_result) == 0


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
