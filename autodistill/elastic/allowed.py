"""The largest architectures that a space allows, if some of their values are fixed."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np

from search_spaces import Architecture, SearchSpace, Value

_MOST = 20_000
"""The largest number of architectures of which all are looked at; of more, some are drawn."""

_DRAWS = 5_000


class AllowedArchitectures:
    """The architectures of a space: constraints may tie dimensions, such as the number of heads to the width.

    Args:
        space: the space.
        largest: the largest value of each dimension; the space need not allow their combination.

    Examples:
        >>> space = SearchSpace({"width": [64, 128], "heads": [1, 2], "layers": [1, 2]}, ["width == 64 * heads"])
        >>> allowed = AllowedArchitectures(space, {"width": 128, "heads": 2, "layers": 2})
        >>> allowed.largest_with({"width": 64}), allowed.largest_with({"layers": 1})
        ({'width': 64, 'heads': 1, 'layers': 2}, {'width': 128, 'heads': 2, 'layers': 1})
        >>> allowed.largest_with({"width": 64, "heads": 2}) is None
        True
    """

    def __init__(self, space: SearchSpace, largest: Architecture) -> None:
        self._space = space
        self._largest = largest

    def largest_with(self, values: Mapping[str, Value]) -> Architecture | None:
        """The largest architecture with these values; None if the space has none, or none was drawn.

        If the space allows the values with the largest ones elsewhere, these; else in each dimension the largest value
        of an architecture that it allows, whose combination it need not allow.
        """
        direct = {**self._largest, **values}
        if direct in self._space:
            return direct
        found = [one for one in self._some if all(one[name] == value for name, value in values.items())]
        if not found:
            return None
        return {name: _largest([one[name] for one in found], self._largest[name]) for name in self._largest}

    @cached_property
    def _some(self) -> list[Architecture]:
        """All architectures that the space allows, or many of them."""
        size = self._space.grid_size
        if size is not None and size <= _MOST:
            return list(self._space.enumerate())
        rng = np.random.default_rng(0)
        return [self._space.sample(rng) for _ in range(_DRAWS)]


def _largest(values: list[Value], preferred: Value) -> Value:
    """The largest number; of other values the preferred one if it is there, else the first."""
    if preferred in values:
        return preferred
    numbers = [value for value in values if isinstance(value, int | float)]
    return max(numbers) if numbers else values[0]
