"""A plain function as an advisor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError
from advisors.unseen_architectures import ensure_any_left, identity, observed_in
from search_spaces import Architecture, SearchSpace, SearchSpaceError, Value


class SuggestFunction(Protocol):
    """`f(history, *, seed) -> architecture`: the contract of `Advisor.suggest` without the class."""

    def __call__(self, history: Sequence[Observation], /, *, seed: int) -> Mapping[str, Value]: ...


class FunctionAdvisor(Advisor):
    """Proposes what a function returns, after checking it.

    The function receives the whole history and must be pure, as every advisor must. `suggest` raises `AdvisorError`
    when the proposal is not an architecture of the space or repeats one of the history, and `SpaceExhaustedError`,
    without calling the function, when no architecture is left.

    >>> from search_spaces import SearchSpace
    >>> def deeper(history, *, seed):
    ...     return {"layers": 2 + 2 * len(history)}
    >>> advisor = FunctionAdvisor(SearchSpace({"layers": [2, 4]}), deeper)
    >>> advisor.suggest([Observation({"layers": 2}, "running")], seed=0)
    {'layers': 4}
    """

    def __init__(self, space: SearchSpace, function: SuggestFunction) -> None:
        super().__init__(space)
        self.function = function

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        observed = observed_in(self.space, history)
        ensure_any_left(self.space, observed)
        name = getattr(self.function, "__qualname__", type(self.function).__qualname__)
        try:
            proposal = self.space.validate(self.function(tuple(history), seed=seed))
        except SearchSpaceError as error:
            raise AdvisorError(f"the advisor function {name!r} left the space: {error}") from error
        if identity(proposal) in observed:
            raise AdvisorError(
                f"an advisor must propose an architecture that is not in the history, but the function {name!r} "
                f"repeated {proposal}; skip the architectures of the history"
            )
        return proposal
