"""Components of a space: groups of dimensions that are connected by constraints.

Each group is counted and sampled on its own: the size of a space of billions of architectures is exact as long as its
constraints connect only a few dimensions, and a constraint that is rarely kept costs draws in its own group only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from search_spaces.constraints import Architecture, Constraint, enumerate_feasible
from search_spaces.domains import Domain, IntRange
from search_spaces.errors import SearchSpaceError

COUNT_LIMIT = 2_000_000
"""A constrained group with more combinations than this is not enumerated to count or to sample it."""

MAX_DRAWS = 10_000
"""Random combinations that are tried in a group that is too large to be enumerated."""

LIST_LIMIT = 10_000
"""A constrained group with at most this many combinations is sampled from the list of its feasible ones."""

_DRAWS_BEFORE_ENUMERATION = 200


class Component:
    """Dimensions connected by constraints; a dimension without constraints is a component of its own."""

    def __init__(self, dimensions: Mapping[str, Domain], constraints: Sequence[Constraint]) -> None:
        self.dimensions = dict(dimensions)
        self.constraints = tuple(constraints)

    @cached_property
    def grid_size(self) -> int | None:
        """Number of combinations, constraints ignored; `None` when infinite."""
        return product([domain.size for domain in self.dimensions.values()])

    @cached_property
    def is_countable(self) -> bool:
        """Whether the group is finite and small enough to enumerate."""
        return self.grid_size is not None and self.grid_size <= COUNT_LIMIT

    @cached_property
    def size(self) -> int | None:
        """Number of feasible combinations; `None` when infinite or too expensive to count."""
        if not self.constraints:
            return self.grid_size
        return self.count(self.constraints) if self.is_countable else None

    def count(self, constraints: Sequence[Constraint]) -> int:
        """Number of combinations that keep `constraints`, by enumeration."""
        return sum(1 for _ in enumerate_feasible(self.dimensions, constraints))

    @cached_property
    def _feasible(self) -> list[Architecture]:
        return list(enumerate_feasible(self.dimensions, self.constraints))

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random feasible combination: the first of many draws that keeps the constraints, else one from a list.

        Raises `SearchSpaceError` when there is none, or none was found and the group is too large to list.
        """
        if self._is_listed:
            return self._pick(rng)
        draws = _DRAWS_BEFORE_ENUMERATION if self.is_countable else MAX_DRAWS
        for _ in range(draws):
            drawn = {name: domain.sample(rng) for name, domain in self.dimensions.items()}
            if all(constraint.holds(drawn) for constraint in self.constraints):
                return drawn
        if not self.is_countable:
            raise SearchSpaceError(
                f"no feasible architecture was found in {draws:,} random draws of {', '.join(self.dimensions)}; "
                f"relax the constraints {', '.join(repr(rule.text) for rule in self.constraints)}"
            )
        return self._pick(rng)

    @cached_property
    def _is_listed(self) -> bool:
        # Then rare combinations cost no draws. A log range is not uniform over its values, so it is drawn.
        uniform = not any(isinstance(domain, IntRange) and domain.log for domain in self.dimensions.values())
        return bool(self.constraints) and uniform and self.grid_size is not None and self.grid_size <= LIST_LIMIT

    def _pick(self, rng: np.random.Generator) -> Architecture:
        if not self._feasible:
            raise SearchSpaceError(self.why_empty())
        return dict(self._feasible[int(rng.integers(len(self._feasible)))])

    def why_empty(self) -> str:
        """A sentence that names the constraints that exclude every combination; for a countable group without any."""
        guilty = [rule for rule in self.constraints if self.count([rule]) == 0]
        combinations = f"all {self.grid_size:,} combinations of {', '.join(self.dimensions)}"
        if guilty:
            return f"constraint {guilty[0].text!r} excludes {combinations}; relax it or widen the dimensions"
        together = ", ".join(repr(rule.text) for rule in self.constraints)
        return f"the constraints {together} together exclude {combinations}; relax one of them"


def split(dimensions: Mapping[str, Domain], constraints: Sequence[Constraint]) -> list[Component]:
    """The groups of a space, in the order of their first dimensions."""
    group = {name: {name} for name in dimensions}
    for constraint in constraints:
        merged = set().union(*(group[name] for name in constraint.names))
        for name in merged:
            group[name] = merged
    components = []
    for name in dimensions:
        members = [other for other in dimensions if other in group[name]]
        if members[0] == name:
            rules = [constraint for constraint in constraints if constraint.names[0] in group[name]]
            components.append(Component({member: dimensions[member] for member in members}, rules))
    return components


def product(sizes: Sequence[int | None]) -> int | None:
    """The product of the sizes; `None` if one of them is `None`, unless another is 0."""
    if 0 in sizes:
        return 0
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None
