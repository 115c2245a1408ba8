"""Acquisition functions: how promising a candidate is, from the mean and spread that a surrogate predicts for it.

All values are logarithms: far from the best, expected improvement underflows to zero, and all candidates would look
the same.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr

from advisors.objectives import FloatArray

_LOG_2PI = math.log(2 * math.pi)
_FAR = 1e4  # beyond it 1 - |u|·(Mills ratio) has no digits left, and its expansion 1/u² is exact


def log_expected_improvement(mean: FloatArray, std: FloatArray, best: float) -> FloatArray:
    """log E[max(best - f, 0)] for f normal with this mean and std > 0, of shape (n,).

    Jones, Schonlau and Welch, 1998, "Efficient global optimization of expensive black-box functions"; the form for
    small values follows Ament et al., 2023, "Unexpected improvements to expected improvement".

    >>> log_expected_improvement(np.array([0.0]), np.array([1.0]), best=0.0).round(4)
    array([-0.9189])
    """
    u = (best - mean) / std
    log_h = np.empty_like(u)
    near = u > -1
    far = u < -_FAR
    middle = ~near & ~far
    log_h[near] = np.log(np.exp(-(u[near] ** 2) / 2 - _LOG_2PI / 2) + u[near] * ndtr(u[near]))
    mills = math.sqrt(math.pi / 2) * erfcx(-u[middle] / math.sqrt(2))
    log_h[middle] = -(u[middle] ** 2) / 2 - _LOG_2PI / 2 + np.log1p(u[middle] * mills)
    log_h[far] = -(u[far] ** 2) / 2 - _LOG_2PI / 2 - 2 * np.log(-u[far])
    return np.asarray(log_h + np.log(std))


def log_probability_kept(mean: FloatArray, std: FloatArray) -> FloatArray:
    """log P[f ≤ 0] for f normal with this mean and std > 0, of shape (n,): the probability of keeping a bound.

    Gardner et al., 2014, "Bayesian optimization with inequality constraints".
    """
    return np.asarray(log_ndtr(-mean / std))
