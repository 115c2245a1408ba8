"""The architectures that are still free to be proposed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from advisors.base import Observation
from advisors.errors import SpaceExhaustedError
from search_spaces import Architecture, SearchSpace, Value

Identity = tuple[Value, ...]
"""The values of an architecture in the order of the space: what makes it itself."""

Seen = frozenset[Identity]

_MAX_DRAWS = 200
_MAX_LISTED = 100_000


def identity(architecture: Architecture) -> Identity:
    """What makes a validated architecture itself, in a form that can be looked up."""
    return tuple(architecture.values())


def seen_in(space: SearchSpace, history: Sequence[Observation]) -> Seen:
    """The identities of all architectures in the history; raises `SearchSpaceError` for one outside the space."""
    return frozenset(identity(space.validate(observation.architecture)) for observation in history)


def ensure_any_left(space: SearchSpace, seen: Seen) -> None:
    """Raises `SpaceExhaustedError` when all are seen, and `SearchSpaceError` when there were none to begin with."""
    if space.size is not None and len(seen) >= space.size:
        space.ensure_feasible()
        raise exhausted(space, seen)


def exhausted(space: SearchSpace, seen: Seen) -> SpaceExhaustedError:
    """The error that says that nothing is left, and what to do."""
    extent = f"all {space.size:,}" if space.size is not None else "all"
    return SpaceExhaustedError(
        f"{extent} architectures that could be found in the space ({', '.join(space.names)}) have been proposed "
        f"({len(seen):,} in the history); ask for fewer trials, or widen the space"
    )


def unseen(space: SearchSpace, seen: Seen) -> Iterator[Architecture]:
    """The architectures of a finite space that are not seen, in order, lazily."""
    return (architecture for architecture in space.enumerate() if identity(architecture) not in seen)


def unseen_neighbours(space: SearchSpace, centre: Architecture, seen: Seen) -> list[Architecture]:
    """The neighbours of an architecture that are not seen; there may be none."""
    return [neighbour for neighbour in space.neighbours(centre) if identity(neighbour) not in seen]


def random_unseen(space: SearchSpace, seen: Seen, rng: np.random.Generator) -> Architecture:
    """A random architecture that is not seen: drawn, or picked from a list where most are seen already.

    Raises `SpaceExhaustedError` when none is left.
    """
    ensure_any_left(space, seen)
    for _ in range(_MAX_DRAWS):
        architecture = space.sample(rng)
        if identity(architecture) not in seen:
            return architecture
    rest = list(islice(unseen(space, seen), _MAX_LISTED)) if space.is_finite else []
    if not rest:
        raise exhausted(space, seen)
    return rest[int(rng.integers(len(rest)))]
