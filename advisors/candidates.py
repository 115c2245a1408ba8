"""The unseen architectures among which an acquisition function chooses."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from advisors.objectives import FloatArray
from advisors.unseen_architectures import (
    Identity,
    Observed,
    ensure_any_left,
    identity,
    random_unseen,
    unseen_neighbours,
)
from search_spaces import Architecture, SearchSpace

SCORE_ALL_LIMIT = 50_000
"""A space with at most this many architectures is scored completely."""

SAMPLE_SIZE = 5_000
"""Number of random architectures that are scored in a larger space."""


@dataclass(frozen=True)
class Candidates:
    """Unseen architectures and their encoding, of shape (len(architectures), width)."""

    architectures: Sequence[Architecture]
    features: FloatArray


class CandidatePool:
    """Returns the candidates of a space: all unseen architectures, or a sample and its neighbourhood in a large space.

    Only the enumerated and encoded space is kept between calls; it depends on nothing else.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space

    @property
    def is_complete(self) -> bool:
        """Whether every unseen architecture is a candidate."""
        return self._space.size is not None and self._space.size <= SCORE_ALL_LIMIT

    def draw(self, observed: Observed, good: Sequence[Architecture], rng: np.random.Generator) -> Candidates:
        """The candidates: all, or a random sample and the neighbours of the `good` architectures.

        Raises `SpaceExhaustedError` when none is left.
        """
        ensure_any_left(self._space, observed)
        if self.is_complete:
            return self._unseen_of_all(observed)
        found: dict[Identity, Architecture] = {}
        for _ in range(SAMPLE_SIZE):
            architecture = self._space.sample(rng)
            found.setdefault(identity(architecture), architecture)
        for centre in good:
            for neighbour in self._space.neighbours(centre):
                found.setdefault(identity(neighbour), neighbour)
        new = [architecture for key, architecture in found.items() if key not in observed]
        return self._encoded(new or [random_unseen(self._space, observed, rng)])

    def around(self, centre: Architecture, observed: Observed) -> Candidates:
        """The unseen neighbours of an architecture; there may be none."""
        return self._encoded(unseen_neighbours(self._space, centre, observed))

    def _encoded(self, architectures: Sequence[Architecture]) -> Candidates:
        return Candidates(architectures, self._space.encode(architectures))

    def _unseen_of_all(self, observed: Observed) -> Candidates:
        rows = [i for i, architecture in enumerate(self._all.architectures) if identity(architecture) not in observed]
        return Candidates([self._all.architectures[i] for i in rows], self._all.features[rows])

    @cached_property
    def _all(self) -> Candidates:
        return self._encoded(list(self._space.enumerate()))
