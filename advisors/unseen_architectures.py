"""The architectures that have not been proposed yet."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from advisors.base import Observation
from advisors.errors import SpaceExhaustedError
from search_spaces import Architecture, SearchSpace, Value

Identity = tuple[Value, ...]
"""The values of an architecture in the order of the space, which identify it."""


Observed = frozenset[Identity]


_MAX_DRAWS = 200


_MAX_LISTED = 100_000


def identity(architecture: Architecture) -> Identity:
    """What identifies a validated architecture, as a hashable value."""
    return tuple(architecture.values())


def observed_in(space: SearchSpace, history: Sequence[Observation]) -> Observed:
    """The identities of all architectures in the history; raises `SearchSpaceError` for one outside the space."""
    return frozenset(identity(observation.architecture_in(space)) for observation in history)


def ensure_any_left(space: SearchSpace, observed: Observed) -> None:
    """Raises `SpaceExhaustedError` if all have been observed, and `SearchSpaceError` if the space is empty."""
    if space.size is not None and len(observed) >= space.size:
        space.ensure_feasible()
        raise exhausted(space, observed)


def exhausted(space: SearchSpace, observed: Observed) -> SpaceExhaustedError:
    """The error that reports that no architecture is left, and what to do."""
    extent = f"all {space.size:,}" if space.size is not None else "all"
    return SpaceExhaustedError(
        f"{extent} architectures that could be found in the space ({', '.join(space.names)}) have been proposed "
        f"({len(observed):,} in the history); ask for fewer trials, or widen the space"
    )


def unseen(space: SearchSpace, observed: Observed) -> Iterator[Architecture]:
    """The architectures of a finite space that have not been observed, in order, lazily."""
    return (architecture for architecture in space.enumerate() if identity(architecture) not in observed)


def unseen_neighbours(space: SearchSpace, centre: Architecture, observed: Observed) -> list[Architecture]:
    """The neighbours of an architecture that have not been observed; there may be none."""
    return [neighbour for neighbour in space.neighbours(centre) if identity(neighbour) not in observed]


def random_unseen(space: SearchSpace, observed: Observed, rng: np.random.Generator) -> Architecture:
    """A random unobserved architecture: drawn, or picked from a list if most have been observed already.

    Raises `SpaceExhaustedError` when none is left.
    """
    ensure_any_left(space, observed)
    for _ in range(_MAX_DRAWS):
        architecture = space.sample(rng)
        if identity(architecture) not in observed:
            return architecture
    rest = list(islice(unseen(space, observed), _MAX_LISTED)) if space.is_finite else []
    if not rest:
        raise exhausted(space, observed)
    return rest[int(rng.integers(len(rest)))]
