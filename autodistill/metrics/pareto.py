"""The Pareto front, and the choice of one of its members."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def non_dominated(losses: npt.ArrayLike) -> npt.NDArray[np.bool_]:
    """Which points are not dominated: no other point is at least as good in every loss and better in one.

    Equal points do not dominate each other, so both are kept.

    Args:
        losses: (points, losses), finite; less is better.

    Returns:
        (points,), True for the members of the Pareto front.

    Raises:
        ValueError: a loss is not finite, or the array is not two-dimensional.

    Examples:
        >>> non_dominated([[1, 5], [2, 2], [3, 3]]).tolist()
        [True, True, False]
    """
    points = _checked(losses)
    front = np.zeros(len(points), dtype=bool)
    rest = np.lexsort(points.T[::-1])  # no point dominates one that precedes it in lexicographic order
    points = points[rest]
    while len(rest):
        better = (points < points[0]).any(axis=1)  # in some loss; the first point equals or dominates the others
        front[rest[~better][(points[~better] == points[0]).all(axis=1)]] = True
        rest, points = rest[better], points[better]
    return front


def nearest_to_ideal(losses: npt.ArrayLike, weights: Sequence[float] | None = None) -> int:
    """The point nearest to the ideal point, which has the minimum of every loss.

    Every loss is scaled to its range over the points, so that units have no influence; the distance is Euclidean. Of
    equally near points the first is returned. Known as the compromise solution (Zeleny, 1973).

    Args:
        losses: (points, losses), finite, at least one point; less is better.
        weights: one non-negative number for each loss; all 1 by default.

    Raises:
        ValueError: a loss is not finite, there is no point, or the weights do not fit.

    Examples:
        >>> nearest_to_ideal([[0.0, 900], [0.2, 300], [1.0, 0]])
        1
        >>> nearest_to_ideal([[0.0, 900], [0.2, 300], [1.0, 0]], weights=[1, 0])
        0
    """
    points = _checked(losses)
    if not len(points):
        raise ValueError("the nearest of no points does not exist; pass at least one.")
    scale = np.ones(points.shape[1]) if weights is None else np.asarray(weights, dtype=float)
    if scale.shape != points.shape[1:] or not np.isfinite(scale).all() or (scale < 0).any():
        raise ValueError(f"weights must be {points.shape[1]} non-negative numbers, but got {weights!r}.")
    return int(np.argmin(_distances_to_ideal(points, scale)))


def dominance_order(losses: npt.ArrayLike) -> list[int]:
    """The positions of the points, the best first: front by front, each the front of the remaining points.

    Within a front the nearest to its ideal point comes first, and equally near points keep their order. The sorting
    is that of NSGA-II: Deb et al., 2002, "A fast and elitist multiobjective genetic algorithm".

    Args:
        losses: (points, losses), finite; less is better.

    Raises:
        ValueError: a loss is not finite, or the array is not two-dimensional.

    Examples:
        >>> dominance_order([[3, 3], [1, 5], [2, 2], [5, 0]])
        [2, 1, 3, 0]
    """
    points = _checked(losses)
    if points.shape[1] == 1:  # every front is a value
        return list(map(int, np.argsort(points[:, 0], kind="stable")))
    rest, order = np.arange(len(points)), list[int]()
    while len(rest):
        on_front = non_dominated(points[rest])
        front = rest[on_front]
        nearest = np.argsort(_distances_to_ideal(points[front], np.ones(points.shape[1])), kind="stable")
        order += front[nearest].tolist()
        rest = rest[~on_front]
    return order


def _distances_to_ideal(points: npt.NDArray[np.float64], weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(points,), rounded, so that rounding errors do not decide between equally near points."""
    best = points.min(axis=0)
    extent = points.max(axis=0) - best
    scaled = (points - best) / np.where(extent > 0, extent, 1.0)
    return np.asarray(np.sqrt(((weights * scaled) ** 2).sum(axis=1)).round(12))


def _checked(losses: npt.ArrayLike) -> npt.NDArray[np.float64]:
    points = np.asarray(losses, dtype=float)
    if points.ndim != 2:
        raise ValueError(f"losses must be an array of (points, losses), but got shape {points.shape}.")
    if not np.isfinite(points).all():
        raise ValueError("losses must be finite; leave failed trials out.")
    return points
