"""What a search learns from besides its own trials, and what it reports about them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from width_search import Recording, search, widths_of

from autodistill import (
    ConfigurationError,
    Observation,
    SearchDirectoryError,
)


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


def test_an_added_trial_with_missing_or_wrong_metrics_is_not_recorded(tmp_path):
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


def test_nothing_is_added_or_proposed_if_the_set_up_is_incomplete(tmp_path):
    agent = search(tmp_path, train_func=None)
    for ask in (agent.model_arch_proposition, lambda: agent.add_trial({"width": 4}, {"score": 1.0})):
        with pytest.raises(ConfigurationError, match="needs teacher_model, but there is none"):
            ask()
    assert not (tmp_path / "search.json").exists()


def test_an_earlier_search_is_learnt_from_and_not_repeated(tmp_path):
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
