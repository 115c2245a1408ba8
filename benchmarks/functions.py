"""Functions over spaces of architectures, computed at every point, so that the best and the median are known.

Each is a table of values (less is better) in the order of the enumeration of the space. The spaces have no constraints,
so that a table is an array with one axis per dimension.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from search_spaces import Architecture, IntRange, SearchSpace

Table = np.ndarray

MOBILEBERT = SearchSpace(
    {
        "hidden_size": [128, 246, 384, 512],
        "intra_bottleneck_size": [64, 96, 128, 160],
        "num_attention_heads": [1, 2, 4, 8],
        "intermediate_size": [384, 512, 640],
        "num_feedforward_networks": [2, 4, 6],
    }
)
"""576 architectures."""

ORDERED = SearchSpace({f"stage_{i}": IntRange(1, 10) for i in range(5)})
"""100,000 architectures: the widths of five stages."""

MIXED = SearchSpace(
    {
        "hidden_size": [128, 192, 256, 320, 384, 448, 512, 640],
        "num_layers": IntRange(1, 12),
        "num_attention_heads": [1, 2, 4, 8],
        "intermediate_ratio": [1, 2, 3, 4],
        "activation": ["gelu", "relu", "silu", "tanh"],
        "normalisation": ["layer", "rms", "batch", "none"],
        "shared_layers": [1, 2, 3, 4],
    }
)
"""98,304 architectures: numbers and names."""


def smooth(space: SearchSpace, rng: np.random.Generator) -> Table:
    """A tilted bowl and a few gentle waves over the order of the values; names have a random order.

    The bowl is a quadratic form of the distance to a random centre, with a random weight for each dimension and random
    interactions.
    """
    points = _positions(space, rng)
    count = points.shape[1]
    away = points - rng.random(count)
    bowl = (rng.uniform(0.2, 1.0, count) * away**2).sum(axis=1)
    tilted = ((away @ rng.standard_normal((count, count)) / np.sqrt(count)) ** 2).sum(axis=1)
    waves = sum(0.1 * np.cos(points @ rng.normal(0.0, 3.0, count) + rng.uniform(0.0, 2 * np.pi)) for _ in range(3))
    return bowl + 0.3 * tilted + waves


def hamming(space: SearchSpace, rng: np.random.Generator) -> Table:
    """The weighted number of dimensions that differ from the nearest of three hidden architectures.

    The order of the values has no effect. One of the three is the best; the others are local optima.
    """
    levels = _levels(space)
    count = levels.shape[1]
    valleys = []
    for depth in (0.0, *rng.uniform(0.2, 0.6, 2)):
        hidden = levels[rng.integers(len(levels))]
        valleys.append(depth + (levels != hidden) @ rng.uniform(0.2, 1.0, count))
    return np.min(valleys, axis=0)


def nk(space: SearchSpace, rng: np.random.Generator, k: int = 2) -> Table:
    """Kauffman's NK landscape: each dimension contributes a random number that depends on it and on `k` others.

    Kauffman and Weinberger, 1989, "The NK model of rugged fitness landscapes".
    """
    levels, sizes = _levels(space), _sizes(space)
    value = np.zeros(len(levels))
    for dimension in range(len(sizes)):
        others = rng.choice([other for other in range(len(sizes)) if other != dimension], k, replace=False)
        involved = [dimension, *others]
        numbers = rng.random([sizes[i] for i in involved])
        value += numbers[tuple(levels[:, i] for i in involved)]
    return value / len(sizes)


KINDS: Mapping[str, Callable[[SearchSpace, np.random.Generator], Table]] = {
    "smooth": smooth,
    "hamming": hamming,
    "nk": nk,
}


@dataclass(frozen=True)
class Problem:
    """A space and tables over it: one for each objective, and optionally one whose values must be at most 0.

    Observations may be noisy: `noise` is the standard deviation of a normal error, relative to that of the objective.
    """

    space: SearchSpace
    objectives: tuple[Table, ...]
    violation: Table | None = None
    noise: float = 0.0

    @cached_property
    def _columns(self) -> list[dict[object, int]]:
        return [{value: i for i, value in enumerate(domain.values())} for domain in self.space.dimensions.values()]

    def position(self, architecture: Architecture) -> int:
        """The position of the architecture in the tables."""
        levels = [column[value] for column, value in zip(self._columns, architecture.values(), strict=True)]
        return int(np.ravel_multi_index(levels, _sizes(self.space)))

    def observe(self, position: int, rng: np.random.Generator) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Measure at a position: return the objectives, and by how much the bound is violated."""
        errors = self.noise * rng.standard_normal(len(self.objectives))
        values = tuple(
            float(table[position] + table.std() * error) for table, error in zip(self.objectives, errors, strict=True)
        )
        return values, () if self.violation is None else (float(self.violation[position]),)

    def regret(self, positions: Sequence[int]) -> np.ndarray:
        """(best - min) / (median - min) after each trial, without noise; 1 is the median architecture of the space.

        Only architectures that satisfy the bound count, also for the minimum and the median; the others are as bad as
        the worst.
        """
        table = self.objectives[0]
        kept = np.ones(len(table), bool) if self.violation is None else self.violation <= 0
        low, median = table[kept].min(), np.median(table[kept])
        values = np.where(kept, table, table[kept].max())
        return (np.minimum.accumulate(values[np.asarray(positions)]) - low) / (median - low)

    def hypervolume(self, positions: Sequence[int]) -> float:
        """The area that the trials dominate relative to that of the whole space, for two objectives.

        Each objective is scaled so that its minimum is 0 and its median 1; the corner is (1, 1).
        """
        scaled = np.stack([(table - table.min()) / (np.median(table) - table.min()) for table in self.objectives], 1)
        return _area(scaled[np.asarray(positions)]) / _area(scaled)


def problem(kind: str, space: SearchSpace, seed: int, variant: str = "plain") -> Problem:
    """The instance of a kind of function over a space.

    `variant` is "plain"; "noisy", with an error of a fifth of the standard deviation; "constrained", where a second
    function of the kind must be in its lower third; or "two metrics", where the second is an objective.
    """
    rng = np.random.default_rng([seed, list(KINDS).index(kind)])
    table = KINDS[kind](space, rng)
    if variant == "plain":
        return Problem(space, (table,))
    if variant == "noisy":
        return Problem(space, (table,), noise=0.2)
    other = KINDS[kind](space, rng)
    if variant == "constrained":
        return Problem(space, (table,), violation=other - np.quantile(other, 1 / 3))
    if variant == "two metrics":
        return Problem(space, (table, other))
    raise ValueError(f"a variant must be plain, noisy, constrained or two metrics, but got {variant!r}")


def _area(points: np.ndarray) -> float:
    """The area of the unit square that points of shape (n, 2) dominate."""
    area, lowest = 0.0, 1.0
    for first, second in points[np.argsort(points[:, 0])]:
        if first < 1 and second < lowest:
            area += (1 - first) * (lowest - second)
            lowest = second
    return float(area)


def _sizes(space: SearchSpace) -> list[int]:
    return [len(domain.values()) for domain in space.dimensions.values()]


def _levels(space: SearchSpace) -> np.ndarray:
    """The positions of the values of every architecture in their dimensions, (size, dimensions)."""
    sizes = _sizes(space)
    return np.stack(np.unravel_index(np.arange(np.prod(sizes)), sizes), axis=1)


def _positions(space: SearchSpace, rng: np.random.Generator) -> np.ndarray:
    """The same positions scaled to [0, 1]; names have a random order."""
    columns = []
    for column, domain in zip(_levels(space).T, space.dimensions.values(), strict=True):
        order = np.arange(len(domain.values())) if domain.is_ordinal else rng.permutation(len(domain.values()))
        columns.append(order[column] / max(1, len(order) - 1))
    return np.stack(columns, axis=1)
