"""Random search without repeats."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisors.base import Advisor, Observation
from advisors.unseen_architectures import observed_in, random_unseen
from search_spaces import Architecture


class RandomAdvisor(Advisor):
    """Proposes a random architecture that is not in the history.

    The baseline that every other advisor has to beat (Bergstra and Bengio, 2012, "Random search for hyper-parameter
    optimization").

    >>> from search_spaces import SearchSpace
    >>> advisor = RandomAdvisor(SearchSpace({"layers": [2, 4]}))
    >>> advisor.suggest([Observation({"layers": 4}, "failed")], seed=0)
    {'layers': 2}
    """

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        return random_unseen(self.space, observed_in(self.space, history), np.random.default_rng(seed))
