"""An advisor as a separate package: `pip install examples/advisor_plugin`, then `search_algorithm: Crossover`."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from autodistill import Advisor, Architecture, Observation, create_advisor


class CrossoverAdvisor(Advisor):
    """Proposes a child of two of the best trials: each dimension from one parent or the other.

    If no child is new, or fewer than ten trials are complete, it uses the random advisor.

    >>> from autodistill import SearchSpace
    >>> space = SearchSpace({"layers": [2, 4], "heads": [1, 2]})
    >>> CrossoverAdvisor(space).suggest([], seed=0)
    {'layers': 4, 'heads': 2}
    """

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        rng = np.random.default_rng(
            seed
        )  # the seed is the only source of randomness: a resumed search proposes the same
        tried = {self.space.key(observation.architecture) for observation in history}
        complete = [observation for observation in history if observation.is_complete]
        if len(complete) >= 10:
            best = sorted(complete, key=lambda observation: observation.objectives[0])[:5]
            for _ in range(100):
                mother, father = (best[i].architecture for i in rng.choice(len(best), 2, replace=False))
                child = {name: (mother, father)[rng.integers(2)][name] for name in self.space.names}
                if child in self.space and self.space.key(child) not in tried:
                    return child
        return create_advisor("Random", self.space).suggest(history, seed=seed)
