"""Advisors by name, and everything else that can stand for one."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

from advisors.base import Advisor
from advisors.bayesian import BayesianAdvisor
from advisors.errors import AdvisorError
from advisors.function import FunctionAdvisor, SuggestFunction
from advisors.grid import GridAdvisor
from advisors.random_search import RandomAdvisor
from advisors.tpe import TPEAdvisor

if TYPE_CHECKING:
    from search_spaces import SearchSpace

AdvisorSpec = str | Advisor | type[Advisor] | SuggestFunction

ENTRY_POINT_GROUP = "autodistill.advisors"

_BUILT_IN: dict[str, type[Advisor]] = {
    "BO": BayesianAdvisor,
    "Random": RandomAdvisor,
    "Grid": GridAdvisor,
    "TPE": TPEAdvisor,
}


def advisor_names() -> list[str]:
    """The names that `create_advisor` knows: the built-in ones, then those of the entry-point group.

    >>> advisor_names()[:4]
    ['BO', 'Random', 'Grid', 'TPE']
    """
    return list(dict.fromkeys([*_BUILT_IN, *sorted(_plug_ins())]))


def create_advisor(name: str, space: SearchSpace) -> Advisor:
    """The advisor of that name (upper or lower case alike) for a space.

    Besides the built-in ones it knows the names under the entry-point group `autodistill.advisors`; each stands for a
    subclass of `Advisor` or a function `f(history, *, seed)`. Raises `AdvisorError` for an unknown name.

    >>> from search_spaces import SearchSpace
    >>> type(create_advisor("bo", SearchSpace({"layers": [2, 4]}))).__name__
    'BayesianAdvisor'
    """
    for known, advisor in _BUILT_IN.items():
        if known.lower() == name.lower():
            return advisor(space)
    for known, entry in _plug_ins().items():
        if known.lower() == name.lower():
            return as_advisor(entry.load(), space)
    folded = {known.lower(): known for known in advisor_names()}
    near = [folded[match] for match in difflib.get_close_matches(name.lower(), folded, n=1)]
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise AdvisorError(f"an advisor must be one of {', '.join(folded.values())}, but got {name!r}{hint}")


def as_advisor(spec: AdvisorSpec, space: SearchSpace) -> Advisor:
    """The advisor that `spec` stands for: a name, an instance, a subclass, or a function `f(history, *, seed)`.

    Raises `AdvisorError` for an unknown name, an instance made for another space, or anything else.
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
    elif callable(spec):
        return FunctionAdvisor(space, spec)
    raise AdvisorError(
        "an advisor must be a name, an instance or subclass of Advisor, or a function f(history, *, seed), "
        f"but got {spec!r}"
    )


def _plug_ins() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
