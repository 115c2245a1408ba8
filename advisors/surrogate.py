"""The Gaussian process that the Bayesian advisor learns a history with."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.spatial.distance import cdist
from sklearn.gaussian_process import GaussianProcessRegressor as ScikitLearnRegressor
from sklearn.gaussian_process.kernels import Hyperparameter, NormalizedKernelMixin, StationaryKernelMixin
from skopt.learning.gaussian_process import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import ConstantKernel, Kernel, WhiteKernel

from advisors.objectives import FloatArray

_CHUNK = 4096  # candidates predicted at once: bounds the memory to a few MB per hundred trials
_MIN_STD = 1e-4  # in units of the targets' standard deviation
_FAR_OUT = 3.0  # Tukey's fence for values that are far out, in interquartile ranges

# Normal priors on the logarithms of the hyper-parameters (targets have variance 1, features lie in [0, 1]). They decide
# where the trials do not yet: with ten trials and eight dimensions, the likelihood alone overfits.
_PRIOR_SIGNAL = (0.0, 1.0)
_PRIOR_LENGTH = (0.5, 1.0)
_PRIOR_NOISE = (math.log(1e-3), 3.0)


class DimensionKernel(StationaryKernelMixin, NormalizedKernelMixin, Kernel):  # type: ignore[misc]
    """exp(-½ Σ_d |x_d - y_d|² / ℓ_d²) with one length scale ℓ_d for each dimension of the space.

    `widths` are the numbers of columns that encode each dimension. On a one-hot choice, |x_d - y_d|² is 2 where the
    options differ and 0 where they agree, so that the kernel decays with the weighted number of differences.
    """

    def __init__(self, log_lengths: FloatArray, widths: Sequence[int]) -> None:
        self.log_lengths = log_lengths
        self.widths = widths

    @property
    def hyperparameter_log_lengths(self) -> Hyperparameter:
        return Hyperparameter("log_lengths", "numeric", (1e-2, 1e2), len(self.widths))

    @property
    def theta(self) -> FloatArray:
        return np.asarray(self.log_lengths, dtype=np.float64)

    @theta.setter
    def theta(self, theta: FloatArray) -> None:
        self.log_lengths = np.asarray(theta, dtype=np.float64)

    @property
    def bounds(self) -> FloatArray:
        return np.tile(np.log([[1e-2, 1e2]]), (len(self.widths), 1))

    def __call__(self, X: FloatArray, Y: FloatArray | None = None, eval_gradient: bool = False) -> Any:  # noqa: N803
        scaled = X / np.repeat(np.exp(self.theta), self.widths)
        if not eval_gradient:
            other = scaled if Y is None else Y / np.repeat(np.exp(self.theta), self.widths)
            return np.exp(-0.5 * cdist(scaled, other, "sqeuclidean"))
        parts = np.split(scaled, np.cumsum(self.widths)[:-1], axis=1)
        squares = np.stack([cdist(part, part, "sqeuclidean") for part in parts], axis=-1)
        kernel = np.exp(-0.5 * squares.sum(axis=-1))
        return kernel, kernel[..., None] * squares  # (n, n), (n, n, dimensions)


class Surrogate:
    """A Gaussian process fitted to features of shape (n, width) and targets of shape (n,), n ≥ 1.

    The targets are standardised, and values far out on the bad (upper) side drawn in, so that one diverged trial does
    not make all others look alike. The hyper-parameters are the most probable ones under the priors, sought from the
    same starts every time: the fit depends on nothing but its arguments.
    """

    def __init__(self, features: FloatArray, targets: FloatArray, widths: Sequence[int]) -> None:
        # By the largest first: the square of a large number may overflow.
        self._unit = float(np.abs(targets).max()) or 1.0
        moderate = draw_in(targets / self._unit)
        self._offset = float(moderate.mean())
        self._scale = float(moderate.std()) or 1.0
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * DimensionKernel(np.zeros(len(widths)), tuple(widths))
        kernel += WhiteKernel(1e-3, (1e-6, 1.0))
        self._process = GaussianProcessRegressor(
            kernel, alpha=1e-8, optimizer=_most_probable, random_state=0, noise="gaussian"
        )
        with warnings.catch_warnings():
            # A hyper-parameter at its bound is no news: a dimension without influence is just that.
            warnings.simplefilter("ignore")
            self._process.fit(features, (moderate - self._offset) / self._scale)

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation (> 0) of the noiseless value, each of shape (n,), in the targets' unit."""
        means, stds = [], []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for start in range(0, len(features), _CHUNK):
                # scikit-learn's own: the override of scikit-optimize sums three factors naively, many times slower.
                mean, std = ScikitLearnRegressor.predict(
                    self._process, features[start : start + _CHUNK], return_std=True
                )
                means.append(mean)
                stds.append(np.maximum(std, _MIN_STD))
        mean, std = np.concatenate(means), np.concatenate(stds)
        return self._unit * (self._offset + self._scale * mean), self._unit * self._scale * std


def draw_in(targets: FloatArray) -> FloatArray:
    """Targets with those above the upper quartile by more than three interquartile ranges set to that fence.

    >>> draw_in(np.array([0.0, 1.0, 2.0, 3.0, 1e9]))
    array([0., 1., 2., 3., 9.])
    """
    lower, upper = np.quantile(targets, [0.25, 0.75])
    return np.minimum(targets, upper + _FAR_OUT * (upper - lower)) if upper > lower else targets


def _most_probable(
    negative_log_likelihood: Callable[[FloatArray], tuple[float, FloatArray]],
    initial: FloatArray,
    bounds: FloatArray,
) -> tuple[FloatArray, float]:
    # The order of theta is that of the kernel's terms: signal, length scales, noise.
    count = len(initial) - 2
    priors = [_PRIOR_SIGNAL, *[_PRIOR_LENGTH] * count, _PRIOR_NOISE]
    centre, width = (np.array(column) for column in zip(*priors, strict=True))

    def objective(theta: FloatArray) -> tuple[float, FloatArray]:
        value, gradient = negative_log_likelihood(theta)
        z = (theta - centre) / width
        return value + 0.5 * float(z @ z), gradient + z / width

    noisy_and_local = centre + np.array([0.0, *[-0.7] * count, 2.0])
    fits = [
        minimize(
            objective,
            np.clip(start, bounds[:, 0], bounds[:, 1]),
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 50},
        )
        for start in (centre, noisy_and_local)
    ]
    best = min(fits, key=lambda fit: float(fit.fun))
    return best.x, float(best.fun)
