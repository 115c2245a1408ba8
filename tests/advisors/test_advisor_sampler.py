"""Our advisors inside a plain Optuna study."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import optuna
import pytest

from advisors import Advisor, AdvisorError, AdvisorSampler, BayesianAdvisor, Observation, RandomAdvisor
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
    """Remembers the last history that it was given; proposes at random."""

    last: Sequence[Observation] = ()

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        self.last = tuple(history)
        return RandomAdvisor(self.space).suggest(history, seed=seed)


def test_a_study_finds_the_best_and_never_repeats() -> None:
    study = study_of(BayesianAdvisor(SPACE, initial=4), 18)
    assert study.best_params == {"width": 96, "layers": 4, "act": "gelu"}
    assert len(set(proposed(study))) == 18  # the whole space


def test_the_same_seed_gives_the_same_trials_and_another_gives_others() -> None:
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
