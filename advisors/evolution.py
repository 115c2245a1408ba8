"""Regularised evolution: mutants of the best among the youngest trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from advisors.base import Advisor, Observation
from advisors.errors import AdvisorError
from advisors.objectives import best_first, read_history, scalarise
from advisors.unseen_architectures import observed_in, random_unseen, unseen_neighbours
from search_spaces import Architecture, SearchSpace


class EvolutionAdvisor(Advisor):
    """Proposes an unseen mutant of the winner of a tournament among the youngest trials.

    The population is the last `population` complete trials: older ones are removed, however good. The best of
    `tournament` random members is changed in one dimension. If all such mutants have been observed, the proposal is
    random, as it is until `population` trials are complete. Several objectives are combined by weights drawn again for
    each proposal; trials that keep all bounds come before those that do not.

    Real et al., 2019, "Regularized evolution for image classifier architecture search". Raises `AdvisorError` unless
    `1 <= tournament <= population`.

    >>> space = SearchSpace({"layers": [2, 4, 6]})
    >>> history = [Observation({"layers": layers}, "complete", objectives=(1 / layers,)) for layers in (2, 6)]
    >>> EvolutionAdvisor(space, population=2, tournament=2).suggest(history, seed=0)
    {'layers': 4}
    """

    def __init__(self, space: SearchSpace, *, population: int = 20, tournament: int = 5) -> None:
        super().__init__(space)
        if not 1 <= tournament <= population:
            raise AdvisorError(
                f"`1 <= tournament <= population` must hold, but got tournament={tournament}, population={population}"
            )
        self.population = population
        self.tournament = tournament

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        rng = np.random.default_rng(seed)
        observed = observed_in(self.space, history)
        complete = [observation for observation in history if observation.is_complete]
        if len(complete) < self.population:
            return random_unseen(self.space, observed, rng)
        young = complete[-self.population :]
        drawn = sorted(rng.choice(self.population, self.tournament, replace=False))
        contest = read_history([young[i] for i in drawn])
        # Scaled by the whole population, since the range of a few members would change from one tournament to the next.
        losses = scalarise(read_history(young).objectives, rng)[drawn]
        winner = contest.architectures[best_first(contest, losses)[0]]
        free = unseen_neighbours(self.space, winner, observed)
        return free[int(rng.integers(len(free)))] if free else random_unseen(self.space, observed, rng)
