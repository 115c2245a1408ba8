"""Grid search: every combination, in order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError, SpaceExhaustedError
from advisors.unseen_architectures import observed_in, unseen
from search_spaces import Architecture, Choice, Domain, FloatRange, SearchSpace


class GridAdvisor(Advisor):
    """Proposes the first architecture, in the order of the dimensions, that is not in the history.

    A `FloatRange` is walked in `float_points` evenly spaced points, both ends included (evenly in the logarithm for a
    `log` range). The seed has no influence. Raises `AdvisorError` when `float_points < 2`.

    >>> from search_spaces import SearchSpace
    >>> advisor = GridAdvisor(SearchSpace({"layers": [2, 4], "dropout": FloatRange(0, 0.4)}))
    >>> advisor.suggest([Observation({"layers": 2, "dropout": 0.0}, "running")], seed=0)
    {'layers': 2, 'dropout': 0.1}
    """

    def __init__(self, space: SearchSpace, *, float_points: int = 5) -> None:
        super().__init__(space)
        if float_points < 2:
            raise AdvisorError(f"`float_points >= 2` must hold, but got {float_points}")
        self._grid = SearchSpace(
            {name: _points(domain, float_points) for name, domain in space.dimensions.items()}, space.constraints
        )

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        observed = observed_in(self.space, history)
        for architecture in unseen(self._grid, observed):
            return architecture
        self._grid.ensure_feasible()
        raise SpaceExhaustedError(
            f"every point of the grid over {', '.join(self.space.names)} has been proposed "
            f"({len(observed):,} in the history); ask for fewer trials, or widen the space"
        )


def _points(domain: Domain, count: int) -> Domain:
    if isinstance(domain, FloatRange):
        return Choice([domain.decode([unit]) for unit in np.linspace(0.0, 1.0, count)])
    return domain
