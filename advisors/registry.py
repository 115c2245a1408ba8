"""Advisors by name, and everything else that can be passed as an advisor."""

from __future__ import annotations

import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING, cast

from optuna.samplers import BaseSampler

from advisors.base import Advisor
from advisors.bayesian import BayesianAdvisor
from advisors.errors import AdvisorError
from advisors.evolution import EvolutionAdvisor
from advisors.function import FunctionAdvisor, SuggestFunction
from advisors.grid import GridAdvisor
from advisors.local_search import LocalSearchAdvisor
from advisors.random_search import RandomAdvisor
from advisors.sampler import SamplerAdvisor, SamplerFactory, TPEAdvisor
from search_spaces.checks import did_you_mean

if TYPE_CHECKING:
    from search_spaces import SearchSpace

AdvisorSpec = str | Advisor | type[Advisor] | SuggestFunction | SamplerFactory

ENTRY_POINT_GROUP = "autodistill.advisors"

_BUILT_IN: dict[str, type[Advisor]] = {
    "BO": BayesianAdvisor,
    "Random": RandomAdvisor,
    "Grid": GridAdvisor,
    "TPE": TPEAdvisor,
    "LocalSearch": LocalSearchAdvisor,
    "Evolution": EvolutionAdvisor,
}


def advisor_names() -> list[str]:
    """The names that `create_advisor` accepts: the built-in ones, then those of the entry-point group.

    >>> advisor_names()[:6]
    ['BO', 'Random', 'Grid', 'TPE', 'LocalSearch', 'Evolution']
    """
    return list(dict.fromkeys([*_BUILT_IN, *sorted(_plug_ins())]))


def create_advisor(name: str, space: SearchSpace) -> Advisor:
    """The advisor of that name (case-insensitive) for a space.

    Besides the built-in names it accepts those of the entry-point group `autodistill.advisors`; each refers to a
    subclass of `Advisor` or one of the functions that `as_advisor` accepts. Raises `AdvisorError` for an unknown name,
    or one whose package cannot be imported.

    >>> from search_spaces import SearchSpace
    >>> type(create_advisor("bo", SearchSpace({"layers": [2, 4]}))).__name__
    'BayesianAdvisor'
    """
    known = registered_name(name)
    if known in _BUILT_IN:
        return _BUILT_IN[known](space)
    entry = _plug_ins()[known]
    try:
        spec = entry.load()
    except (ImportError, AttributeError) as error:
        raise AdvisorError(
            f"an advisor must be importable, but {known!r}, which stands for {entry.value}, is not: {error}; fix or "
            "remove its package"
        ) from error
    return as_advisor(spec, space)


def registered_name(name: str) -> str:
    """A name as `advisor_names` spells it (case-insensitive); raises `AdvisorError` for an unknown one.

    >>> registered_name("bo")
    'BO'
    """
    folded = {known.lower(): known for known in reversed(advisor_names())}  # of two that differ only in case, the first
    if name.lower() in folded:
        return folded[name.lower()]
    hint = did_you_mean(name, advisor_names(), "", most=1)
    rule = f"an advisor must be one of {', '.join(advisor_names())}, but got {name!r}"
    raise AdvisorError(f"{rule}; {hint}" if hint else rule)


def as_advisor(spec: AdvisorSpec, space: SearchSpace) -> Advisor:
    """The advisor that `spec` describes.

    It may be a name, an instance, a subclass, a function `f(history, *, seed) -> architecture`, or one `f(seed)` that
    returns an Optuna sampler. Raises `AdvisorError` for an unknown name, an instance made for another space, or
    anything else.

    >>> from optuna.samplers import GPSampler
    >>> from search_spaces import SearchSpace
    >>> type(as_advisor(lambda seed: GPSampler(seed=seed), SearchSpace({"layers": [2, 4]}))).__name__
    'SamplerAdvisor'
    """
    if isinstance(spec, str):
        return create_advisor(spec, space)
    if isinstance(spec, Advisor):
        if spec.space != space:
            raise AdvisorError(
                f"an advisor must be made for the space that is searched, but {type(spec).__name__} was made for "
                f"{spec.space!r} and the search is over {space!r}; pass the class, or the same space"
            )
        return spec
    if isinstance(spec, type):
        if issubclass(spec, Advisor):
            return spec(space)
        if issubclass(spec, BaseSampler):
            raise AdvisorError(
                f"a sampler must be given as a function `seed -> sampler`, but got the class {spec.__name__}; write "
                f"`lambda seed: {spec.__name__}(seed=seed)`"
            )
    elif isinstance(spec, BaseSampler) or _can_be_called(spec, 0):
        return SamplerAdvisor(space, cast(SamplerFactory, spec))
    elif _can_be_called(spec, (), seed=0):
        return FunctionAdvisor(space, cast(SuggestFunction, spec))
    raise AdvisorError(
        "an advisor must be a name, an instance or subclass of Advisor, a function f(history, *, seed) that proposes, "
        f"or a function f(seed) that makes an Optuna sampler, but got {spec!r}"
    )


def _can_be_called(function: object, *arguments: object, **named: object) -> bool:
    if not callable(function):
        return False
    try:
        inspect.signature(function).bind(*arguments, **named)
    except (TypeError, ValueError):  # ValueError: a builtin without a signature
        return False
    return True


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
