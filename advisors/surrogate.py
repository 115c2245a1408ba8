"""The Gaussian processes that the Bayesian advisor fits to a history."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.spatial.distance import cdist
from skopt.learning.gaussian_process import GaussianProcessRegressor
from skopt.learning.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from advisors.objectives import FloatArray

_SAMPLES = 8  # settings of the hyper-parameters that are averaged over
_STEPS = 4  # steps of the Markov chain from one sample to the next
_CHUNK = 4096  # candidates predicted in one batch: limits memory to a few MB per hundred trials
_MIN_STD = 1e-4  # in units of the targets' standard deviation
_JITTER = 1e-8
_FAR_OUT = 3.0  # Tukey's fence for values that are far out, in interquartile ranges

# Normal priors on the logarithms of the hyper-parameters (targets have variance 1, features are in [0, 1]). They decide
# while there are too few trials to do so.
_PRIOR_SIGNAL = (0.0, 1.0)
_PRIOR_LENGTH = (0.5, 1.0)
_PRIOR_NOISE = (math.log(1e-3), 3.0)
_NOISE_BOUNDS = (1e-6, 1.0)


@dataclass(frozen=True)
class Setting:
    """The hyper-parameters of a Gaussian process: variances of signal and noise, a length scale for each dimension.

    The covariance is signal · exp(-½ Σ_d |x_d - y_d|² / ℓ_d²). On a one-hot choice |x_d - y_d|² is 2 where the options
    differ and 0 where they agree, so that it decays with the weighted number of differences.
    """

    signal: float
    lengths: FloatArray
    noise: float

    @classmethod
    def from_normal(cls, z: FloatArray) -> Setting:
        """The setting that is `z` standard deviations from the mean of the prior; `z` has shape (dimensions + 2,)."""
        priors = [_PRIOR_SIGNAL, *[_PRIOR_LENGTH] * (len(z) - 2), _PRIOR_NOISE]
        centre, width = (np.array(column) for column in zip(*priors, strict=True))
        signal, *lengths, noise = np.exp(centre + width * z)
        return cls(float(signal), np.array(lengths), float(np.clip(noise, *_NOISE_BOUNDS)))


class Surrogate:
    """Gaussian processes fitted to features of shape (n, width) and targets of shape (n,), n ≥ 1.

    `widths` are the numbers of columns that encode each dimension. With few trials, many settings of the
    hyper-parameters explain them equally well, and the most probable one is overconfident. So there are several
    processes, whose settings are drawn from the posterior distribution by a Markov chain that always begins at the mean
    of the prior: the fit depends only on its arguments.

    The targets are standardised, and outliers on the bad (upper) side are clipped, so that one diverged trial does not
    make all others look the same.

    Snoek, Larochelle and Adams, 2012, "Practical Bayesian optimization of machine learning algorithms".
    """

    def __init__(
        self,
        features: FloatArray,
        targets: FloatArray,
        widths: Sequence[int],
        rng: np.random.Generator,
        running: FloatArray | None = None,
    ) -> None:
        # Divided by the largest first, since the square of a large number may overflow.
        self._unit = float(np.abs(targets).max()) or 1.0
        moderate = draw_in(targets / self._unit)
        self._offset = float(moderate.mean())
        self._scale = float(moderate.std()) or 1.0
        standardised = (moderate - self._offset) / self._scale
        squares = squared_distances(features, widths)
        drawn = slice_samples(
            lambda z: log_likelihood(Setting.from_normal(z), squares, standardised), len(widths) + 2, rng
        )
        if running is not None:
            features = np.concatenate([features, running])
            standardised = np.concatenate([standardised, np.zeros(len(running))])
        self._processes = [_process(Setting.from_normal(z), widths).fit(features, standardised) for z in drawn]

    def predict(self, features: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation (> 0) of the noiseless value under each process, in the unit of the targets.

        Both of shape (processes, n).
        """
        parts = [
            np.stack([_predict(process, features[start : start + _CHUNK]) for process in self._processes], axis=1)
            for start in range(0, len(features), _CHUNK)
        ]
        mean, std = np.concatenate(parts, axis=-1)
        return self._unit * (self._offset + self._scale * mean), self._unit * self._scale * std


def draw_in(targets: FloatArray) -> FloatArray:
    """Targets with those above the upper quartile by more than three interquartile ranges set to that fence.

    >>> draw_in(np.array([0.0, 1.0, 2.0, 3.0, 1e9]))
    array([0., 1., 2., 3., 9.])
    """
    lower, upper = np.quantile(targets, [0.25, 0.75])
    return np.minimum(targets, upper + _FAR_OUT * (upper - lower)) if upper > lower else targets


def squared_distances(features: FloatArray, widths: Sequence[int]) -> FloatArray:
    """|x_d - y_d|² between all rows, of shape (dimensions, n, n)."""
    parts = np.split(features, np.cumsum(widths)[:-1], axis=1)
    return np.stack([cdist(part, part, "sqeuclidean") for part in parts])


def log_likelihood(setting: Setting, squares: FloatArray, targets: FloatArray) -> float:
    """The logarithm of the marginal likelihood of a setting, up to a constant.

    Written out, since a chain computes hundreds of them and a regressor's overhead takes many times longer. Rasmussen
    and Williams, 2006, "Gaussian processes for machine learning", algorithm 2.1.
    """
    gram = setting.signal * np.exp(-0.5 * np.tensordot(setting.lengths**-2.0, squares, axes=1))
    gram.flat[:: len(targets) + 1] += setting.noise + _JITTER
    try:
        factor = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)
    except np.linalg.LinAlgError:
        return -math.inf
    fit = targets @ cho_solve((factor, True), targets, check_finite=False)
    return float(-0.5 * fit - np.log(np.diag(factor)).sum())


def slice_samples(
    log_density: Callable[[FloatArray], float], dimensions: int, rng: np.random.Generator
) -> list[FloatArray]:
    """Draws from a density times that of a standard normal distribution, by elliptical slice sampling.

    Each step moves to a point on the ellipse through the current one and a draw of the normal distribution, from an arc
    that shrinks until the density is above a random level. Murray, Adams and MacKay, 2010, "Elliptical slice sampling".
    """
    current = np.zeros(dimensions)
    log_current = log_density(current)
    drawn = []
    for step in range(1, _SAMPLES * _STEPS + 1):
        other = rng.standard_normal(dimensions)
        level = log_current - rng.exponential()
        angle = rng.uniform(0.0, 2 * math.pi)
        low, high = angle - 2 * math.pi, angle
        while True:
            proposal = current * math.cos(angle) + other * math.sin(angle)
            log_proposal = log_density(proposal)
            if log_proposal >= level:
                break
            low, high = (angle, high) if angle < 0 else (low, angle)
            angle = rng.uniform(low, high)
        current, log_current = proposal, log_proposal
        if step % _STEPS == 0:
            drawn.append(current)
    return drawn


def _process(setting: Setting, widths: Sequence[int]) -> GaussianProcessRegressor:
    kernel = ConstantKernel(setting.signal) * RBF(np.repeat(setting.lengths, widths)) + WhiteKernel(setting.noise)
    return GaussianProcessRegressor(kernel, alpha=_JITTER, optimizer=None, noise="gaussian")


def _predict(process: GaussianProcessRegressor, features: FloatArray) -> tuple[FloatArray, FloatArray]:
    """What scikit-learn's regressor predicts, to the bit, without the six arrays of that size that its kernels create.

    Scikit-optimize's own method multiplies three factors naively, many times slower. Rasmussen and Williams, 2006,
    algorithm 2.1.
    """
    signal, lengths = process.kernel_.k1.k1.constant_value, process.kernel_.k1.k2.length_scale
    covariance = cdist(features / lengths, process.X_train_ / lengths, "sqeuclidean")
    covariance *= -0.5
    np.exp(covariance, out=covariance)
    covariance *= signal
    explained = solve_triangular(process.L_, covariance.T, lower=True, check_finite=False)
    variance = signal - np.einsum("ij,ji->i", explained.T, explained)  # below 0 by rounding
    return covariance @ process.alpha_, np.maximum(np.sqrt(np.maximum(variance, 0.0)), _MIN_STD)
