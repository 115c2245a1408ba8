"""Targets for a model of the space, from a history: one number per trial, less is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from advisors.base import Observation
from advisors.errors import AdvisorError
from search_spaces import Architecture

FloatArray = npt.NDArray[np.float64]

CHEBYSHEV_AUGMENTATION = 0.05


@dataclass(frozen=True)
class Finished:
    """The complete observations of a history as arrays, and the architectures that are still running."""

    architectures: list[Architecture]
    objectives: FloatArray  # (complete, objectives)
    violations: FloatArray  # (complete, bounds)
    running: list[Architecture]

    @property
    def feasible(self) -> npt.NDArray[np.bool_]:
        """Which complete observations keep every bound, of shape (complete,)."""
        return np.asarray(np.all(self.violations <= 0, axis=1))


def read_history(history: Sequence[Observation]) -> Finished:
    """Splits a history by state; failed trials are left out.

    Raises `AdvisorError` when complete observations differ in the number of objectives or of violations.
    """
    complete = [observation for observation in history if observation.is_complete]
    objectives = [observation.objectives for observation in complete]
    violations = [observation.violations for observation in complete]
    for name, numbers in {"objectives": objectives, "violations": violations}.items():
        lengths = sorted(set(map(len, numbers)))
        if len(lengths) > 1:
            raise AdvisorError(
                f"all complete observations must have the same number of {name}, but got {lengths}; "
                "leave out trials of another search"
            )
    count = len(complete)
    return Finished(
        architectures=[observation.architecture for observation in complete],
        objectives=np.array(objectives).reshape(count, -1 if count else 0),
        violations=np.array(violations).reshape(count, len(violations[0]) if count else 0),
        running=[observation.architecture for observation in history if observation.is_running],
    )


def scalarise(objectives: FloatArray, rng: np.random.Generator) -> FloatArray:
    """One number per row of `objectives`, of shape (n, m) with n ≥ 1.

    A single objective is returned unchanged. Several are scaled to their observed ranges and combined by the augmented
    Chebyshev function, max wᵢsᵢ + 0.05 Σ wᵢsᵢ, with weights drawn uniformly from the simplex, so that many proposals
    cover every part of the Pareto front (Knowles, 2006, "ParEGO"). A constant objective has no influence.

    >>> scalarise(np.array([[3.0], [1.0]]), np.random.default_rng(0))
    array([3., 1.])
    """
    if objectives.shape[1] == 1:
        return objectives[:, 0]
    weights = rng.dirichlet(np.ones(objectives.shape[1]))
    weighted = weights * scale_to_range(objectives)
    return np.asarray(weighted.max(axis=1) + CHEBYSHEV_AUGMENTATION * weighted.sum(axis=1))


def best_first(finished: Finished, losses: FloatArray) -> npt.NDArray[np.intp]:
    """The positions of the complete observations, the best first.

    Those that keep every bound come first, ordered by loss; then the others, from the smallest to the largest
    violation, where each bound's violation is divided by the largest one observed.
    """
    broken = np.maximum(finished.violations, 0.0)
    worst = broken.max(axis=0, initial=0.0)
    excess = (broken / np.where(worst > 0, worst, 1.0)).sum(axis=1)
    return np.lexsort((losses, excess))


def scale_to_range(objectives: FloatArray) -> FloatArray:
    """Each column shifted and scaled to [0, 1]; a constant column becomes 0."""
    low, high = objectives.min(axis=0), objectives.max(axis=0)
    # Halved before subtracting: the difference of two finite numbers may overflow.
    spread = high / 2 - low / 2
    return np.asarray((objectives / 2 - low / 2) / np.where(spread > 0, spread, 1.0))
