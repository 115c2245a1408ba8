"""Advisors inside a plain Optuna study."""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Iterator, Sequence

import optuna
import pytest

from advisors import (
    Advisor,
    AdvisorError,
    AdvisorSampler,
    BayesianAdvisor,
    Observation,
    RandomAdvisor,
    SpaceExhaustedError,
)
from search_spaces import Architecture, Choice, FloatRange, IntRange, SearchSpace

SPACE = SearchSpace({"width": Choice([64, 96, 128]), "layers": IntRange(2, 6, step=2), "act": ["gelu", "relu"]})


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logger = logging.getLogger("optuna")
    level = logger.level
    logger.setLevel(logging.ERROR)
    yield
    logger.setLevel(level)


def objective(trial: optuna.Trial) -> float:
    width = trial.suggest_categorical("width", [64, 96, 128])
    layers = trial.suggest_int("layers", 2, 6, step=2)
    act = trial.suggest_categorical("act", ["gelu", "relu"])
    return (width - 96) ** 2 / 1000 + (layers - 4) ** 2 + (act == "relu")


def study_of(advisor: Advisor, trials: int, seed: int = 0) -> optuna.Study:
    study = optuna.create_study(sampler=AdvisorSampler(advisor, seed=seed))
    study.optimize(objective, n_trials=trials)
    return study


def proposed(study: optuna.Study) -> list[tuple[object, ...]]:
    return [tuple(trial.params.values()) for trial in study.trials]


class Recording(Advisor):
    """Stores the last history that it received; proposes at random."""

    last: Sequence[Observation] = ()

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        self.last = tuple(history)
        return RandomAdvisor(self.space).suggest(history, seed=seed)


def test_a_study_finds_the_best_and_never_repeats() -> None:
    study = study_of(BayesianAdvisor(SPACE, initial=4), 18)
    assert study.best_params == {"width": 96, "layers": 4, "act": "gelu"}
    assert len(set(proposed(study))) == 18  # the whole space


def test_the_same_seed_leads_to_the_same_trials_and_another_to_others() -> None:
    advisor = BayesianAdvisor(SPACE, initial=4)
    assert proposed(study_of(advisor, 8)) == proposed(study_of(advisor, 8))
    assert proposed(study_of(advisor, 8)) != proposed(study_of(advisor, 8, seed=1))


def test_the_history_is_that_of_the_study_with_less_being_better() -> None:
    advisor = Recording(SearchSpace({"x": [1, 2, 3, 4, 5]}))
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=AdvisorSampler(advisor))
    distributions = {"x": optuna.distributions.CategoricalDistribution((1, 2, 3, 4, 5))}
    failed, complete, running = (study.ask(distributions) for _ in range(3))
    study.tell(failed, state=optuna.trial.TrialState.FAIL)
    complete.set_constraint("b", 2.0)
    complete.set_constraint("a", -1.0)
    study.tell(complete, [0.7, 0.2])
    study.ask(distributions)
    assert advisor.last == (
        Observation(failed.params, "failed"),
        Observation(complete.params, "complete", (-0.7, 0.2), (-1.0, 2.0)),
        Observation(running.params, "running"),
    )


def test_trials_of_another_space_are_left_out() -> None:
    advisor = Recording(SearchSpace({"x": [1, 2], "y": FloatRange(0, 1)}))
    study = optuna.create_study(sampler=AdvisorSampler(advisor))
    floats = optuna.distributions.FloatDistribution(0, 9)
    for parameters in ({"y": 0.5}, {"x": 1, "y": 5.0}, {"x": 1, "y": 0.25, "z": 3.0}):
        names = {name: floats for name in parameters if name != "x"}
        choice = {"x": optuna.distributions.CategoricalDistribution((1, 2))} if "x" in parameters else {}
        study.add_trial(optuna.trial.create_trial(params=parameters, distributions={**choice, **names}, value=1.0))
    study.ask(AdvisorSampler(advisor).infer_relative_search_space(study, study.trials[0]))
    assert advisor.last == (Observation({"x": 1, "y": 0.25}, "complete", (1.0,)),)


def test_a_parameter_that_is_not_in_the_space_is_refused() -> None:
    study = optuna.create_study(sampler=AdvisorSampler(RandomAdvisor(SearchSpace({"layers": [2, 4]}))))
    with pytest.raises(
        AdvisorError,
        match=r"only suggest the dimensions of the advisor's space, as they are there, but it asked for depth: "
        r"IntDistribution.*; they are layers: CategoricalDistribution\(choices=\(2, 4\)\)",
    ):
        study.optimize(lambda trial: trial.suggest_int("depth", 1, 3), n_trials=1)


def test_enqueued_trials_are_known_before_their_objective_suggests_anything() -> None:
    advisor = Recording(SPACE)
    study = optuna.create_study(sampler=AdvisorSampler(advisor))
    enqueued: list[Architecture] = [{"width": width, "layers": 4, "act": "gelu"} for width in (64, 96)]
    study.enqueue_trial(enqueued[0])
    study.ask()
    trial = study.ask()
    study.enqueue_trial(enqueued[1])
    objective(trial)
    assert advisor.last == tuple(Observation(architecture, "running") for architecture in enqueued)


def test_threads_never_propose_the_same() -> None:
    everyone = threading.Barrier(3)

    def together(trial: optuna.Trial) -> float:
        everyone.wait(timeout=60)  # all ask at the same time
        width = trial.suggest_categorical("width", [64, 96, 128])
        everyone.wait(timeout=60)  # and suggest the rest only when all have asked
        return (
            float(width or 0)
            + trial.suggest_int("layers", 2, 6, step=2)
            + len(trial.suggest_categorical("act", ["gelu", "relu"]))
        )

    class First(Advisor):
        def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
            tried = [observation.architecture for observation in history]
            return next(architecture for architecture in self.space.enumerate() if architecture not in tried)

    study = optuna.create_study(sampler=AdvisorSampler(First(SPACE)))
    study.optimize(together, n_trials=18, n_jobs=3)
    assert len(set(proposed(study))) == 18


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_value_that_is_not_finite_counts_as_failed(value: float) -> None:
    advisor = Recording(SPACE)
    study = optuna.create_study(sampler=AdvisorSampler(advisor))
    study.optimize(lambda trial: value if trial.number == 0 and objective(trial) else objective(trial), n_trials=3)
    assert [observation.state for observation in advisor.last] == ["failed", "complete"]


def test_a_trial_without_a_constraint_that_others_have_counts_as_failed() -> None:
    def constrained(trial: optuna.Trial) -> float:
        loss = objective(trial)
        if trial.number != 1:
            trial.set_constraint("memory", math.inf if trial.number == 2 else loss - 3)
        return loss

    advisor = Recording(SPACE)
    study = optuna.create_study(sampler=AdvisorSampler(advisor))
    study.optimize(constrained, n_trials=5)
    assert [observation.state for observation in advisor.last] == ["complete", "failed", "failed", "complete"]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_it_can_be_wrapped_in_a_sampler_that_fixes_some_parameters() -> None:
    sampler = optuna.samplers.PartialFixedSampler({"act": "relu"}, AdvisorSampler(RandomAdvisor(SPACE)))
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=3)
    assert {trial.params["act"] for trial in study.trials} == {"relu"}


def test_anything_but_an_advisor_and_a_seed_is_refused() -> None:
    for value in (BayesianAdvisor, "BO", None):
        with pytest.raises(AdvisorError, match=r"such as BayesianAdvisor\(space\), but got"):
            AdvisorSampler(value)  # type: ignore[arg-type]
    for seed in (-1, None, 0.5, True):
        with pytest.raises(AdvisorError, match=f"seed must be a whole number from 0 on, but got {seed}"):
            AdvisorSampler(RandomAdvisor(SPACE), seed=seed)  # type: ignore[arg-type]


def test_a_dimension_that_is_not_suggested_is_reported_after_the_first_trial() -> None:
    study = optuna.create_study(sampler=AdvisorSampler(BayesianAdvisor(SPACE)))
    with pytest.raises(AdvisorError, match=r"must suggest every dimension.*, but trial 0 did not suggest layers, act;"):
        study.optimize(lambda trial: trial.suggest_categorical("width", [64, 96, 128]), n_trials=3)


@pytest.mark.parametrize(("low", "high", "step"), [(2, 60, 2), (2, 4, 2), (2, 6, 1), (6, 6, 1)])
def test_another_range_is_refused_with_both(low: int, high: int, step: int) -> None:
    study = optuna.create_study(sampler=AdvisorSampler(RandomAdvisor(SearchSpace({"layers": IntRange(2, 6, step=2)}))))
    with pytest.raises(AdvisorError, match=rf"high={high}.*they are layers: IntDistribution\(high=6, .*low=2, step=2"):
        study.optimize(lambda trial: trial.suggest_int("layers", low, high, step=step), n_trials=1)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("advisor", [RandomAdvisor(SPACE), BayesianAdvisor(SPACE, initial=3)])
def test_fixed_parameters_are_never_proposed_twice(advisor: Advisor) -> None:
    study = optuna.create_study(sampler=AdvisorSampler(advisor))
    study.optimize(objective, n_trials=2)
    before = sum(trial.params["act"] == "relu" for trial in study.trials)
    study.sampler = optuna.samplers.PartialFixedSampler({"act": "relu"}, study.sampler)
    study.optimize(objective, n_trials=9 - before)
    assert sum(trial.params["act"] == "relu" for trial in study.trials) == 9
    assert len(set(proposed(study))) == len(study.trials)
    with pytest.raises(SpaceExhaustedError, match="all 9 architectures"):
        study.optimize(objective, n_trials=1)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_a_fixed_parameter_outside_the_space_is_refused() -> None:
    for fixed, rule in ({"depth": 3}, "'depth' are not; they are width, layers, act"), ({"layers": 3}, "3 is not an"):
        sampler = optuna.samplers.PartialFixedSampler(fixed, AdvisorSampler(RandomAdvisor(SPACE)))
        with pytest.raises(AdvisorError, match=f"fixed parameters must be.*{rule}"):
            optuna.create_study(sampler=sampler).optimize(objective, n_trials=1)


def test_lists_are_suggested_as_text() -> None:
    space = SearchSpace({"depths": [[2, 2], [1, 1, 1]]})
    study = optuna.create_study(sampler=AdvisorSampler(BayesianAdvisor(space)))
    study.optimize(lambda trial: len(trial.suggest_categorical("depths", ["[2, 2]", "[1, 1, 1]"])), n_trials=2)
    assert {trial.params["depths"] for trial in study.trials} == {"[2, 2]", "[1, 1, 1]"}
