"""The contract of all advisors, on every kind of space."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from optuna.samplers import GPSampler, NSGAIISampler, TPESampler

from advisors import (
    Advisor,
    AdvisorError,
    BayesianAdvisor,
    EvolutionAdvisor,
    FunctionAdvisor,
    GridAdvisor,
    LocalSearchAdvisor,
    Observation,
    RandomAdvisor,
    SamplerAdvisor,
    SamplerFactory,
    SpaceExhaustedError,
    TPEAdvisor,
)
from search_spaces import Architecture, FloatRange, IntRange, SearchSpace, SearchSpaceError


def choices_with_a_constraint() -> SearchSpace:
    return SearchSpace(
        {"width": [96, 128, 192, 256], "heads": [2, 3, 4, 8], "layers": [2, 4, 6], "act": ["gelu", "relu", None]},
        ["width % heads == 0", "act != 'relu' or layers > 2"],
    )


def mixed() -> SearchSpace:
    return SearchSpace(
        {
            "width": [64, 128, 256],
            "act": ["gelu", "relu"],
            "tied": [False, True],
            "layers": IntRange(2, 12, step=2),
            "steps": IntRange(1, 1000, log=True),
            "dropout": FloatRange(0, 0.3),
            "rate": FloatRange(1e-5, 1e-2, log=True),
        },
        ["layers * width <= 2048", "not tied or dropout < 0.2"],
    )


def tiny() -> SearchSpace:
    return SearchSpace({"a": [1, 2, 3], "b": ["x", "y"], "c": IntRange(0, 4, step=2)}, ["a + c <= 5"])


def function_advisor(space: SearchSpace) -> Advisor:
    def propose(history: Sequence[Observation], /, *, seed: int) -> Architecture:
        rng = np.random.default_rng(seed)
        taken = {space.key(observation.architecture) for observation in history}
        while True:
            architecture = space.sample(rng)
            if space.key(architecture) not in taken:
                return architecture

    return FunctionAdvisor(space, propose)


def sampler_advisor(make: SamplerFactory) -> Callable[[SearchSpace], Advisor]:
    return lambda space: SamplerAdvisor(space, make)


SPACES: dict[str, Callable[[], SearchSpace]] = {"choices": choices_with_a_constraint, "mixed": mixed, "tiny": tiny}
ADVISORS: dict[str, Callable[[SearchSpace], Advisor]] = {
    "random": RandomAdvisor,
    "grid": GridAdvisor,
    "bayesian": lambda space: BayesianAdvisor(space, initial=4),
    "tpe": TPEAdvisor,
    "function": function_advisor,
    "local search": lambda space: LocalSearchAdvisor(space, initial=4),
    "evolution": lambda space: EvolutionAdvisor(space, population=4, tournament=2),
    "Optuna's TPE": sampler_advisor(lambda seed: TPESampler(seed=seed, n_startup_trials=4, constant_liar=True)),
    "Optuna's GP": sampler_advisor(lambda seed: GPSampler(seed=seed, n_startup_trials=6)),
    "Optuna's NSGA-II": sampler_advisor(lambda seed: NSGAIISampler(seed=seed, population_size=4)),
}


@pytest.fixture(params=list(ADVISORS))
def make(request: pytest.FixtureRequest) -> Callable[[SearchSpace], Advisor]:
    return ADVISORS[request.param]


@pytest.fixture(params=list(SPACES))
def space(request: pytest.FixtureRequest) -> SearchSpace:
    return SPACES[request.param]()


def loss(space: SearchSpace, architecture: Architecture) -> float:
    """Smooth in the encoded space, with its minimum in the middle."""
    return float(((space.encode([architecture])[0] - 0.4) ** 2).sum())


def observe(space: SearchSpace, architectures: Sequence[Architecture], kind: str) -> list[Observation]:
    """A history of the architectures, of a kind that occurs in searches."""
    history = []
    for i, architecture in enumerate(architectures):
        value = loss(space, architecture)
        outcomes: dict[str, tuple[float, ...]] = {
            "one objective": (value,),
            "three objectives": (value, -value, 7.0),
            "constant": (0.5,),
            "outlier": (value if i else 1e300,),
        }
        state = {"failed": "failed", "running": "running"}.get(kind, "complete")
        if kind == "mixed states":
            state = ("complete", "complete", "failed", "running")[i % 4]
        objectives = outcomes.get(kind, (value,)) if state == "complete" else ()
        bounds = {"bounds": (value - 0.8, -1.0), "all violated": (value + 1.0,)}.get(kind, ())
        history.append(Observation(architecture, state, objectives, bounds))
    return history


KINDS = [
    "one objective",
    "three objectives",
    "constant",
    "outlier",
    "failed",
    "running",
    "mixed states",
    "bounds",
    "all violated",
]


def some_history(space: SearchSpace, kind: str = "mixed states", count: int = 12, seed: int = 5) -> list[Observation]:
    rng = np.random.default_rng(seed)
    distinct: dict[str, Architecture] = {}
    while len(distinct) < count:
        architecture = space.sample(rng)
        distinct.setdefault(space.key(architecture), architecture)
    return observe(space, list(distinct.values()), kind)


def search(advisor: Advisor, trials: int, kind: str = "mixed states") -> list[Observation]:
    proposed: list[Architecture] = []
    for number in range(trials):
        history = observe(advisor.space, proposed, kind)
        proposed.append(advisor.suggest(history, seed=1000 + number))
    return observe(advisor.space, proposed, kind)


def test_proposals_are_in_the_space_in_its_own_form_and_never_repeat(
    make: Callable[[SearchSpace], Advisor], space: SearchSpace
) -> None:
    proposed = [observation.architecture for observation in search(make(space), 14)]
    for architecture in proposed:
        validated = space.validate(architecture)
        assert json.dumps(architecture) == json.dumps(validated)  # key order and types, also bool for int
    assert len({space.key(architecture) for architecture in proposed}) == 14


@pytest.mark.parametrize("kind", ["three objectives", "bounds"])
def test_a_search_with_several_goals_or_bounds_is_resumed_as_it_was(
    make: Callable[[SearchSpace], Advisor], kind: str
) -> None:
    space = choices_with_a_constraint()
    history = search(make(space), 8, kind)
    proposed = [observation.architecture for observation in history]
    assert all(architecture in space for architecture in proposed)
    assert len({space.key(architecture) for architecture in proposed}) == 8
    # Resumed in the middle: another advisor, which receives the first six.
    resumed = proposed[:6]
    advisor = make(space)
    for number in range(6, 8):
        resumed.append(advisor.suggest(observe(space, resumed, kind), seed=1000 + number))
    assert resumed == proposed


def test_a_whole_space_is_proposed_once_and_then_exhausted(make: Callable[[SearchSpace], Advisor]) -> None:
    space = tiny()
    advisor = make(space)
    everything = sorted(map(space.key, space.enumerate()))
    history = search(advisor, len(everything), "one objective")
    assert sorted(space.key(observation.architecture) for observation in history) == everything
    with pytest.raises(SpaceExhaustedError, match=rf"been proposed \({len(everything)} in the history\)"):
        advisor.suggest(history, seed=0)


@pytest.mark.parametrize("state", ["failed", "running"])
def test_architectures_that_failed_or_are_running_are_not_proposed_again(
    make: Callable[[SearchSpace], Advisor], state: str
) -> None:
    space = tiny()
    *taken, free = space.enumerate()
    history = [Observation(architecture, state) for architecture in taken]
    assert make(space).suggest(history, seed=3) == free
    with pytest.raises(SpaceExhaustedError):
        make(space).suggest([*history, Observation(free, state)], seed=3)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_history_leads_to_a_new_proposal(make: Callable[[SearchSpace], Advisor], kind: str) -> None:
    for space in (choices_with_a_constraint(), mixed()):
        history = some_history(space, kind)
        proposal = make(space).suggest(history, seed=11)
        assert proposal in space
        assert space.key(proposal) not in {space.key(observation.architecture) for observation in history}


def test_the_same_seed_and_history_lead_to_the_same_proposal_whatever_came_before(
    make: Callable[[SearchSpace], Advisor], space: SearchSpace
) -> None:
    history = some_history(space)
    advisor = make(space)
    first = advisor.suggest(history, seed=2)
    advisor.suggest(history[:3], seed=9)
    assert advisor.suggest(history, seed=2) == first
    assert make(space).suggest(history, seed=2) == first


def test_different_seeds_lead_to_different_first_proposals(make: Callable[[SearchSpace], Advisor]) -> None:
    advisor = make(choices_with_a_constraint())
    proposals = {tuple(advisor.suggest([], seed=seed).values()) for seed in range(8)}
    assert len(proposals) == 1 if isinstance(advisor, GridAdvisor) else len(proposals) > 2


def test_a_history_replayed_from_json_leads_to_the_same_next_proposal(
    make: Callable[[SearchSpace], Advisor], space: SearchSpace
) -> None:
    history = search(make(space), 9)
    replayed = [Observation(**fields) for fields in json.loads(json.dumps([asdict(trial) for trial in history]))]
    assert replayed == history
    assert make(space).suggest(replayed, seed=4) == make(space).suggest(history, seed=4)


def test_the_order_of_keys_in_an_architecture_does_not_matter(
    make: Callable[[SearchSpace], Advisor], space: SearchSpace
) -> None:
    history = some_history(space, "one objective")
    turned = [Observation(dict(reversed(o.architecture.items())), o.state, o.objectives) for o in history]
    assert make(space).suggest(turned, seed=6) == make(space).suggest(history, seed=6)


def test_an_advisor_neither_reads_nor_disturbs_global_random_state(
    make: Callable[[SearchSpace], Advisor], space: SearchSpace
) -> None:
    history = some_history(space)
    proposals = []
    for global_seed in (1, 2):
        random.seed(global_seed)
        np.random.seed(global_seed)
        before = random.getstate(), json.dumps(np.random.get_state()[1].tolist())  # type: ignore[index]
        proposals.append(make(space).suggest(history, seed=8))
        assert (random.getstate(), json.dumps(np.random.get_state()[1].tolist())) == before  # type: ignore[index]
    assert proposals[0] == proposals[1]


def test_an_advisor_does_not_change_the_history(make: Callable[[SearchSpace], Advisor]) -> None:
    history = some_history(mixed())
    copy = json.dumps([asdict(observation) for observation in history])
    make(mixed()).suggest(history, seed=0)
    assert json.dumps([asdict(observation) for observation in history]) == copy


def test_a_seed_may_be_any_integer_of_63_bits(make: Callable[[SearchSpace], Advisor]) -> None:
    space = choices_with_a_constraint()
    history = some_history(space)
    assert make(space).suggest(history, seed=2**63 - 1) in space


def test_a_space_without_architectures_is_an_error_that_names_the_constraint(
    make: Callable[[SearchSpace], Advisor],
) -> None:
    with pytest.raises((SearchSpaceError, AdvisorError), match="constraint 'a > 2' excludes all 2 combinations"):
        make(SearchSpace({"a": [1, 2]}, ["a > 2"])).suggest([], seed=0)


def test_an_architecture_outside_the_space_is_refused_in_a_history(make: Callable[[SearchSpace], Advisor]) -> None:
    with pytest.raises(SearchSpaceError, match="dimension 'b' is missing"):
        make(tiny()).suggest([Observation({"a": 1, "c": 0}, "failed")], seed=0)


def proposals_of_all() -> list[Architecture]:
    """One proposal of each advisor on each space, from a history that is long enough for its model."""
    return [
        make(make_space()).suggest(some_history(make_space(), "bounds"), seed=13)
        for make in ADVISORS.values()
        for make_space in SPACES.values()
    ]


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_another_process_makes_the_same_proposals(hash_seed: str) -> None:
    script = "import json, runpy, sys; print(json.dumps(runpy.run_path(sys.argv[1])['proposals_of_all']()))"
    output = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, __file__],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )
    assert output.stderr == ""
    assert json.loads(output.stdout) == proposals_of_all()
