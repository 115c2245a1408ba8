"""A space and a history as Optuna has them."""

from __future__ import annotations

import logging

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import NSGAIISampler, RandomSampler
from optuna.trial import TrialState

from advisors import Observation
from advisors.optuna_study import distributions, quiet_optuna, rebuilt_study
from search_spaces import FloatRange, IntRange, SearchSpace

SPACE = SearchSpace(
    {
        "act": ["gelu", None],
        "layers": IntRange(2, 8, step=2),
        "steps": IntRange(1, 64, log=True),
        "rate": FloatRange(1e-4, 1.0, log=True),
    }
)
HISTORY = [
    Observation({"act": "gelu", "layers": 2, "steps": 8, "rate": 0.5}, "complete", (0.25, 3.0), (-1.0, 2.0)),
    Observation({"act": None, "layers": 4, "steps": 9, "rate": 0.1}, "failed"),
    Observation({"act": None, "layers": 8, "steps": 1, "rate": 1.0}, "running"),
]


def test_every_domain_has_the_distribution_with_its_limits() -> None:
    assert distributions(SPACE) == {
        "act": CategoricalDistribution(("gelu", None)),
        "layers": IntDistribution(2, 8, step=2),
        "steps": IntDistribution(1, 64, log=True),
        "rate": FloatDistribution(1e-4, 1.0, log=True),
    }


@pytest.mark.parametrize("sampler", [RandomSampler(seed=0), NSGAIISampler(seed=0)], ids=["added", "replayed"])
def test_complete_and_running_trials_are_in_the_study_and_failed_ones_are_not(
    sampler: optuna.samplers.BaseSampler,
) -> None:
    with quiet_optuna():
        complete, running = rebuilt_study(SPACE, HISTORY, sampler).trials
    assert (complete.state, running.state) == (TrialState.COMPLETE, TrialState.RUNNING)
    assert (complete.params, running.params) == (HISTORY[0].architecture, HISTORY[2].architecture)
    assert complete.values == [0.25, 3.0]
    assert [complete.constraints[name] for name in sorted(complete.constraints)] == [-1.0, 2.0]


def test_sampler_with_generations_notes_them_again() -> None:
    with quiet_optuna():
        study = rebuilt_study(SPACE, HISTORY, NSGAIISampler(seed=0))
    assert [any("generation" in name for name in trial.system_attrs) for trial in study.trials] == [True, True]


def test_numbers_that_samplers_cannot_square_are_limited() -> None:
    history = [Observation(HISTORY[0].architecture, "complete", (1e300, -1e300))]
    with quiet_optuna():
        (trial,) = rebuilt_study(SPACE, history, RandomSampler(seed=0)).trials
    assert trial.values == [1e100, -1e100]


def test_empty_history_gives_a_study_of_one_objective_without_trials() -> None:
    with quiet_optuna():
        study = rebuilt_study(SPACE, [], RandomSampler(seed=0))
    assert (study.trials, len(study.directions)) == ([], 1)


def test_level_of_optunas_log_is_restored_after_an_error() -> None:
    logger = logging.getLogger("optuna")
    before = logger.level

    def fail() -> None:
        with quiet_optuna():
            assert logger.level == logging.ERROR
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert logger.level == before != logging.ERROR
