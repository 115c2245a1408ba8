"""The contract of an advisor: a pure function of what has been observed."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from advisors.errors import AdvisorError
from search_spaces import Architecture, SearchSpace

_VALIDATED = "_validated"  # the attribute that keeps a space and the architecture in its form


class ObservationState(StrEnum):
    """The state of an observed trial."""

    COMPLETE = "complete"
    FAILED = "failed"
    RUNNING = "running"


@dataclass(frozen=True)
class Observation:
    """One trial as an advisor sees it.

    `objectives` are the metrics, with signs such that less is better. `violations` has one number for each bound on an
    outcome; a bound is kept where it is at most 0. Both must be finite, and empty unless the trial is complete;
    otherwise `AdvisorError` is raised.

    >>> Observation({"layers": 2}, "complete", objectives=(0.25,)).state
    <ObservationState.COMPLETE: 'complete'>
    """

    architecture: Architecture
    state: ObservationState | str
    objectives: tuple[float, ...] = ()
    violations: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "state", ObservationState(self.state))
        except ValueError:
            states = ", ".join(repr(str(state)) for state in ObservationState)
            raise AdvisorError(f"`state` must be one of {states}, but got {self.state!r}") from None
        for name in ("objectives", "violations"):
            numbers = tuple(float(number) for number in getattr(self, name))
            if not all(map(math.isfinite, numbers)):
                raise AdvisorError(f"{name} must be finite, but got {numbers}; report such a trial as failed")
            object.__setattr__(self, name, numbers)
        if self.is_complete and not self.objectives:
            raise AdvisorError("a complete observation needs at least one objective, but got none")
        if not self.is_complete and (self.objectives or self.violations):
            raise AdvisorError(f"only a complete observation has objectives, but this one is {self.state!s}")

    @property
    def is_complete(self) -> bool:
        """Whether the architecture was tried and measured."""
        return self.state is ObservationState.COMPLETE

    @property
    def is_running(self) -> bool:
        """Whether the architecture is being tried now."""
        return self.state is ObservationState.RUNNING

    def architecture_in(self, space: SearchSpace) -> Architecture:
        """What `space.validate` returns for the architecture; not to be changed.

        It is kept for the next call: an advisor reads its whole history for every proposal, and validating takes much
        longer than looking up. Raises `SearchSpaceError` like `validate`.

        >>> Observation({"layers": 2.0}, "running").architecture_in(SearchSpace({"layers": [2, 4]}))
        {'layers': 2}
        """
        known: tuple[SearchSpace, Architecture] | None = self.__dict__.get(_VALIDATED)
        if known is None or known[0] is not space:
            known = self.__dict__[_VALIDATED] = (space, space.validate(self.architecture))
        return known[1]

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != _VALIDATED}


class Advisor(ABC):
    """Proposes the next architecture of a space.

    A pure function of the space, the history and the seed: it keeps no state between calls, reads no clock, and neither
    reads nor writes global random state. So resumed, replayed and parallel searches need no extra code. Subclasses
    implement `suggest`:

    >>> from search_spaces import SearchSpace
    >>> class First(Advisor):
    ...     def suggest(self, history, *, seed):
    ...         tried = [observation.architecture for observation in history]
    ...         return next(arch for arch in self.space.enumerate() if arch not in tried)
    >>> First(SearchSpace({"layers": [2, 4]})).suggest([Observation({"layers": 2}, "running")], seed=0)
    {'layers': 4}
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space

    @abstractmethod
    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        """An architecture of the space that is not in `history`, whatever the states there.

        `history` is in the order of the trials; `seed` is any integer of at least 0, different for each trial. Raises
        `SpaceExhaustedError` when no architecture is left.
        """
