"""Local search: a step from the best architecture to one of its neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError
from advisors.objectives import best_first, read_history, scalarise
from advisors.unseen_architectures import observed_in, random_unseen, unseen_neighbours
from search_spaces import Architecture, SearchSpace


class LocalSearchAdvisor(Advisor):
    """Proposes a random unseen neighbour of the best trial that has one.

    A neighbour differs in one dimension. Until `initial` trials are complete, proposals are random. Several objectives
    are combined by weights drawn again for each proposal; trials that keep all bounds come before those that do not. A
    proposal costs almost nothing, even in the largest spaces.

    White, Nolen and Savani, 2021, "Exploring the loss landscape in neural architecture search". Raises `AdvisorError`
    when `initial < 1`.

    >>> space = SearchSpace({"layers": [2, 4], "heads": [1, 2]})
    >>> history = [
    ...     Observation({"layers": 2, "heads": 1}, "complete", objectives=(0.1,)),
    ...     Observation({"layers": 4, "heads": 1}, "complete", objectives=(0.9,)),
    ... ]
    >>> LocalSearchAdvisor(space, initial=2).suggest(history, seed=0)
    {'layers': 2, 'heads': 2}
    """

    def __init__(self, space: SearchSpace, *, initial: int = 10) -> None:
        super().__init__(space)
        if initial < 1:
            raise AdvisorError(f"`initial >= 1` must hold, but got {initial}")
        self.initial = initial

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        rng = np.random.default_rng(seed)
        observed = observed_in(self.space, history)
        finished = read_history(history)
        if len(finished.architectures) >= self.initial:
            for i in best_first(finished, scalarise(finished.objectives, rng)):
                free = unseen_neighbours(self.space, finished.architectures[i], observed)
                if free:
                    return free[int(rng.integers(len(free)))]
        return random_unseen(self.space, observed, rng)
