from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import optuna
import pytest
from optuna.samplers import BaseSampler, NSGAIISampler, QMCSampler, TPESampler

from advisors import Observation, SamplerAdvisor, TPEAdvisor
from advisors.optuna_study import distributions, quiet_optuna, rebuilt_study
from search_spaces import Architecture, IntRange, SearchSpace


def bowl(architecture: Architecture) -> float:
    return sum((float(value or 0) - 2) ** 2 for value in architecture.values())


def test_tpe_proposes_near_the_good_trials() -> None:
    space = SearchSpace({f"d{i}": IntRange(0, 20) for i in range(3)})
    rng = np.random.default_rng(0)
    history = [Observation(a, "complete", (bowl(a),)) for a in (space.sample(rng) for _ in range(60))]
    proposed = [bowl(TPEAdvisor(space).suggest(history, seed=seed)) for seed in range(15)]
    assert np.mean(proposed) < 0.4 * np.mean([observation.objectives[0] for observation in history])


def test_tpe_avoids_architectures_that_violate_a_bound() -> None:
    space = SearchSpace({f"d{i}": IntRange(0, 20) for i in range(2)})
    rng = np.random.default_rng(0)
    architectures = [space.sample(rng) for _ in range(60)]
    free = [Observation(a, "complete", (bowl(a),)) for a in architectures]
    bounded = [Observation(a, "complete", (bowl(a),), (10.0 - float(a["d0"] or 0),)) for a in architectures]
    first = [
        np.mean([float(TPEAdvisor(space).suggest(h, seed=s)["d0"] or 0) for s in range(15)]) for h in (free, bounded)
    ]
    assert first[0] < 6
    assert first[1] > 9


def test_tpe_leaves_the_verbosity_of_optuna_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        optuna.logging.enable_propagation()
        TPEAdvisor(SearchSpace({"a": [1, 2]})).suggest([], seed=0)
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
        assert caplog.records == []
    finally:
        optuna.logging.disable_propagation()
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert logging.getLogger("optuna").level == logging.INFO


def native(space: SearchSpace, sampler: BaseSampler, trials: int) -> optuna.Study:
    """A study that the sampler itself ran, without an advisor."""
    with quiet_optuna():
        study = optuna.create_study(sampler=sampler)
        for _ in range(trials):
            trial = study.ask(distributions(space))
            study.tell(trial, bowl(trial.params))
    return study


def history_of(study: optuna.Study) -> list[Observation]:
    return [Observation(trial.params, "complete", tuple(trial.values)) for trial in study.trials]


def test_the_generations_of_nsga_are_restored() -> None:
    space = SearchSpace({f"d{i}": IntRange(0, 20) for i in range(3)})
    study = native(space, NSGAIISampler(population_size=5, seed=0), 18)
    with quiet_optuna():
        rebuilt = rebuilt_study(space, history_of(study), NSGAIISampler(population_size=5, seed=1))
    key = "NSGAIISampler:generation"
    expected = [number // 5 for number in range(18)]
    assert [trial.system_attrs[key] for trial in study.trials] == expected
    assert [trial.system_attrs[key] for trial in rebuilt.trials] == expected


def test_nsga_breeds_from_the_best_of_the_history() -> None:
    space = SearchSpace({f"d{i}": IntRange(0, 20) for i in range(3)})
    rng = np.random.default_rng(0)
    history = [Observation(a, "complete", (bowl(a),)) for a in (space.sample(rng) for _ in range(60))]
    advisor = SamplerAdvisor(space, lambda seed: NSGAIISampler(population_size=10, seed=seed))
    proposed = [bowl(advisor.suggest(history, seed=seed)) for seed in range(15)]
    assert np.mean(proposed) < 0.5 * np.mean([observation.objectives[0] for observation in history])


@pytest.mark.filterwarnings("ignore:QMCSampler is experimental")
def test_a_sequence_continues_from_its_last_position() -> None:
    space = SearchSpace({f"d{i}": IntRange(0, 1000) for i in range(2)})

    def make(seed: int) -> BaseSampler:
        return QMCSampler(seed=7, warn_independent_sampling=False)

    study = native(space, make(0), 9)
    *before, last = history_of(study)
    assert SamplerAdvisor(space, make).suggest(before, seed=3) == last.architecture


@pytest.mark.parametrize("make", [lambda seed: TPESampler(seed=seed), lambda seed: NSGAIISampler(seed=seed)])
def test_the_largest_numbers_are_accepted(make: Callable[[int], BaseSampler]) -> None:
    space = SearchSpace({"x": IntRange(0, 20)})
    history = [Observation({"x": x}, "complete", (1.7e308 if x == 3 else float(x),)) for x in range(12)]
    assert SamplerAdvisor(space, make).suggest(history, seed=0) in space
