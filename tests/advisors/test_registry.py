from __future__ import annotations

import sys
import types
from collections.abc import Sequence
from importlib.metadata import EntryPoint, EntryPoints

import optuna
import pytest

import advisors.registry
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
    TPEAdvisor,
    advisor_names,
    as_advisor,
    create_advisor,
)
from search_spaces import Architecture, SearchSpace

SPACE = SearchSpace({"a": [1, 2]})


def last(history: Sequence[Observation], /, *, seed: int) -> Architecture:
    return {"a": 2}


def sampler(seed: int) -> optuna.samplers.BaseSampler:
    return optuna.samplers.RandomSampler(seed=seed)


class Last(Advisor):
    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        return {"a": 2}


@pytest.fixture
def _plug_ins(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("third_party")
    module.last, module.Last, module.sampler = last, Last, sampler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "third_party", module)
    group = advisors.registry.ENTRY_POINT_GROUP
    targets = {"a-function": "last", "AClass": "Last", "a-sampler": "sampler"}
    found = EntryPoints([EntryPoint(name, f"third_party:{target}", group) for name, target in targets.items()])
    monkeypatch.setattr(advisors.registry, "entry_points", lambda group: found.select(group=group))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("BO", BayesianAdvisor),
        ("bo", BayesianAdvisor),
        ("Random", RandomAdvisor),
        ("GRID", GridAdvisor),
        ("tpe", TPEAdvisor),
        ("localsearch", LocalSearchAdvisor),
        ("Evolution", EvolutionAdvisor),
    ],
)
def test_a_built_in_advisor_is_made_by_its_name_in_any_case(name: str, kind: type[Advisor]) -> None:
    advisor = create_advisor(name, SPACE)
    assert type(advisor) is kind
    assert advisor.space is SPACE


def test_an_unknown_name_is_an_error_that_names_the_known_and_the_nearest() -> None:
    with pytest.raises(AdvisorError) as error:
        create_advisor("randon", SPACE)
    assert str(error.value) == (
        "an advisor must be one of BO, Random, Grid, TPE, LocalSearch, Evolution, but got 'randon'; "
        "did you mean 'Random'?"
    )


@pytest.mark.usefixtures("_plug_ins")
def test_entry_points_of_third_parties_are_known_by_name() -> None:
    assert advisor_names() == [
        *("BO", "Random", "Grid", "TPE", "LocalSearch", "Evolution"),
        *("AClass", "a-function", "a-sampler"),
    ]
    assert isinstance(create_advisor("aclass", SPACE), Last)
    advisor = create_advisor("A-Function", SPACE)
    assert isinstance(advisor, FunctionAdvisor)
    assert advisor.suggest([], seed=0) == {"a": 2}
    assert isinstance(create_advisor("a-sampler", SPACE), SamplerAdvisor)


@pytest.mark.usefixtures("_plug_ins")
def test_a_plug_in_that_cannot_be_imported_is_named_with_its_target(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("third_party.Last")
    with pytest.raises(AdvisorError, match=r"'AClass', which stands for third_party:Last, is not: .*'Last'"):
        create_advisor("aclass", SPACE)


def test_names_classes_instances_and_functions_are_accepted_as_advisors() -> None:
    instance = RandomAdvisor(SearchSpace({"a": [1, 2]}))
    assert as_advisor(instance, SPACE) is instance
    assert isinstance(as_advisor("Grid", SPACE), GridAdvisor)
    assert isinstance(as_advisor(Last, SPACE), Last)
    assert as_advisor(last, SPACE).suggest([], seed=0) == {"a": 2}
    assert isinstance(as_advisor(sampler, SPACE), SamplerAdvisor)


def test_an_instance_made_for_another_space_is_refused() -> None:
    with pytest.raises(
        AdvisorError, match="must be made for the space that is searched, but RandomAdvisor was made for"
    ):
        as_advisor(RandomAdvisor(SearchSpace({"a": [1, 2, 3]})), SPACE)


@pytest.mark.parametrize("spec", [3, None, dict, lambda: None, lambda history, *, seed, more: None])
def test_anything_else_is_refused(spec: object) -> None:
    with pytest.raises(AdvisorError, match=r"an advisor must be a name, an instance or subclass of Advisor, a fun"):
        as_advisor(spec, SPACE)  # type: ignore[arg-type]


def test_the_class_of_a_sampler_is_refused_with_the_remedy() -> None:
    with pytest.raises(AdvisorError, match=r"write `lambda seed: TPESampler\(seed=seed\)`"):
        as_advisor(optuna.samplers.TPESampler, SPACE)  # type: ignore[arg-type]


def test_an_instance_of_a_sampler_is_refused_with_the_reason() -> None:
    with pytest.raises(
        AdvisorError,
        match=r"as a function `seed -> sampler`, since an instance carries random state from one proposal to the next, "
        r"but got a TPESampler; write `lambda seed: TPESampler\(seed=seed\)`",
    ):
        as_advisor(optuna.samplers.TPESampler(seed=0), SPACE)  # type: ignore[arg-type]


def test_a_function_of_a_seed_that_makes_no_sampler_is_refused() -> None:
    with pytest.raises(AdvisorError, match="a function `seed -> sampler` must return an Optuna sampler, but got 'TPE'"):
        as_advisor(lambda seed: "TPE", SPACE).suggest([], seed=0)  # type: ignore[arg-type,return-value]
