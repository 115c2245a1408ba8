from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm
from skopt.acquisition import gaussian_ei

from advisors.acquisition import log_expected_improvement, log_probability_kept


class Fixed:
    """A model that predicts fixed values, with the interface that scikit-optimize expects."""

    def __init__(self, mean: np.ndarray, std: np.ndarray) -> None:
        self.mean, self.std = mean, std

    def predict(self, x: np.ndarray, return_std: bool) -> tuple[np.ndarray, np.ndarray]:
        return self.mean, self.std


def test_expected_improvement_agrees_with_the_integral_that_defines_it() -> None:
    for mean, std, best in [(0.0, 1.0, 0.0), (0.3, 0.5, 0.2), (2.0, 1.5, -1.0), (-4.0, 0.1, 1.0)]:
        integral, _ = quad(
            lambda f, mean=mean, std=std, best=best: (best - f) * norm.pdf(f, mean, std), mean - 12 * std, best
        )
        computed = log_expected_improvement(np.array([mean]), np.array([std]), best)
        assert computed[0] == pytest.approx(math.log(integral), rel=1e-6)


def test_expected_improvement_agrees_with_scikit_optimize_where_that_does_not_underflow() -> None:
    rng = np.random.default_rng(0)
    mean, std = rng.normal(size=200), rng.uniform(0.3, 2, size=200)
    reference = gaussian_ei(np.zeros((200, 1)), Fixed(mean, std), y_opt=0.1, xi=0.0)
    np.testing.assert_allclose(np.exp(log_expected_improvement(mean, std, 0.1)), reference, rtol=1e-9)


def test_expected_improvement_still_distinguishes_candidates_where_it_underflows() -> None:
    mean = np.array([5.0, 45.0, 46.0, 2e4, 2.0001e4, 1e9])
    logs = log_expected_improvement(mean, np.ones(6), best=0.0)
    assert np.all(np.isfinite(logs))
    assert np.all(np.diff(logs) < 0)
    assert math.exp(logs[2]) == 0
    # For large u, h(-u) -> phi(u) / u² (1 - 3/u²): Mills' ratio expanded.
    expected = norm.logpdf(46.0) - 2 * math.log(46.0) + math.log1p(-3 / 46**2)
    assert logs[2] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("seam", [-1.0, -1e4])
def test_the_forms_of_expected_improvement_meet_without_a_step(seam: float) -> None:
    around = -np.array([seam - 1e-9, seam + 1e-9])
    left, right = log_expected_improvement(around, np.ones(2), best=0.0)
    assert left == pytest.approx(right, rel=1e-7)


def test_the_probability_of_a_kept_bound_is_the_normal_distribution_below_zero() -> None:
    mean, std = np.array([-1.0, 0.0, 2.0, 60.0]), np.array([2.0, 1.0, 0.5, 1.0])
    np.testing.assert_allclose(log_probability_kept(mean, std), norm.logcdf(0, mean, std), rtol=1e-12)
