"""The contestants in the comparison of advisors: those of this library, and other libraries used directly."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np
import optuna
import skopt
from functions import Problem
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler

from advisors import Advisor, BayesianAdvisor, EvolutionAdvisor, LocalSearchAdvisor, Observation, RandomAdvisor
from advisors.optuna_study import distributions
from search_spaces import Architecture, Choice, SearchSpace

Run = Callable[[Problem, int, int], list[int]]
"""`(problem, trials, seed) -> positions`: the position of each trial in the space, in order."""


def advisor(make: Callable[[SearchSpace], Advisor]) -> Run:
    """An advisor of this library."""

    def run(problem: Problem, trials: int, seed: int) -> list[int]:
        asked, noise = make(problem.space), np.random.default_rng(seed)
        history: list[Observation] = []
        positions = []
        for number in range(trials):
            architecture = asked.suggest(history, seed=1_000_000 * seed + number)
            positions.append(problem.position(architecture))
            values, bounds = problem.observe(positions[-1], noise)
            history.append(Observation(architecture, "complete", values, bounds))
        return positions

    return run


def sampler(make: Callable[[int], BaseSampler]) -> Run:
    """A sampler of Optuna in a plain study; choices are categorical."""

    def run(problem: Problem, trials: int, seed: int) -> list[int]:
        noise = np.random.default_rng(seed)
        study = optuna.create_study(directions=["minimize"] * len(problem.objectives), sampler=make(seed))
        space = distributions(problem.space)
        positions = []
        for _ in range(trials):
            trial = study.ask(space)
            positions.append(problem.position({name: trial.params[name] for name in problem.space.names}))
            values, bounds = problem.observe(positions[-1], noise)
            for index, bound in enumerate(bounds):
                trial.set_constraint(str(index), bound)
            study.tell(trial, values)
        return positions

    return run


def scikit_optimize(acquisition: str) -> Run:
    """The optimizer of scikit-optimize with its Gaussian process; choices are categorical, one-hot."""

    def run(problem: Problem, trials: int, seed: int) -> list[int]:
        noise = np.random.default_rng(seed)
        optimizer = skopt_optimizer(problem.space, acquisition, seed)
        positions = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of every repeat
            for _ in range(trials):
                proposal = optimizer.ask()
                positions.append(problem.position(plain(problem.space, proposal)))
                values, _ = problem.observe(positions[-1], noise)
                optimizer.tell(proposal, values[0])
        return positions

    return run


def skopt_optimizer(space: SearchSpace, acquisition: str, seed: int, initial: int = 10) -> skopt.Optimizer:
    """An optimizer with its defaults, except for the seed and storing only one model."""
    dimensions = [
        skopt.space.Categorical(domain.values())
        if isinstance(domain, Choice)
        else skopt.space.Integer(domain.values()[0], domain.values()[-1])
        for domain in space.dimensions.values()
    ]
    return skopt.Optimizer(
        dimensions, "GP", acq_func=acquisition, n_initial_points=initial, random_state=seed, model_queue_size=1
    )


def plain(space: SearchSpace, proposal: Sequence[object]) -> Architecture:
    """Convert a point of scikit-optimize to an architecture."""
    return space.validate(dict(zip(space.names, proposal, strict=True)))


CONTESTANTS: dict[str, Run] = {
    "BO": advisor(BayesianAdvisor),
    "Optuna TPE": sampler(lambda seed: TPESampler(seed=seed)),
    "Optuna GP": sampler(lambda seed: GPSampler(seed=seed)),
    "Optuna NSGA-II": sampler(lambda seed: NSGAIISampler(seed=seed)),
    "skopt gp_hedge": scikit_optimize("gp_hedge"),
    "skopt EI": scikit_optimize("EI"),
    "local search": advisor(LocalSearchAdvisor),
    "regularised evolution": advisor(EvolutionAdvisor),
    "random": advisor(RandomAdvisor),
}
"""Random search and regularised evolution are those of this library, which propose no architecture twice."""
