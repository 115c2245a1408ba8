from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import check_grad
from scipy.stats import spearmanr

from advisors.surrogate import DimensionKernel, Surrogate, draw_in
from search_spaces import IntRange, SearchSpace

SPACE = SearchSpace({"act": ["gelu", "relu", "silu"], "width": [1, 2, 3, 4], "depth": IntRange(1, 9)})
WIDTHS = [domain.width for domain in SPACE.dimensions.values()]
EVERYTHING = list(SPACE.enumerate())
FEATURES = SPACE.encode(EVERYTHING)


def smooth(features: np.ndarray) -> np.ndarray:
    return np.asarray(((features - 0.3) ** 2 * np.linspace(1, 3, features.shape[1])).sum(axis=1))


def test_the_kernel_on_choices_decays_with_the_dimensions_that_differ() -> None:
    lengths = np.array([0.5, 2.0, 1.0])
    kernel = DimensionKernel(np.log(lengths), tuple(WIDTHS))
    first = {"act": "gelu", "width": 1, "depth": 1}
    others = [{**first, "act": "relu"}, {**first, "act": "silu", "width": 4}, {**first, "depth": 5}]
    expected = [np.exp(-1 / 0.25), np.exp(-1 / 0.25 - 1 / 4), np.exp(-0.5 * 0.5**2)]
    np.testing.assert_allclose(kernel(SPACE.encode([first]), SPACE.encode(others))[0], expected, rtol=1e-12)


def test_the_gradient_of_the_kernel_is_that_of_finite_differences() -> None:
    rows = FEATURES[::17]
    kernel, weights = DimensionKernel(np.zeros(3), tuple(WIDTHS)), np.random.default_rng(0).normal(size=(7, 7))
    assert len(rows) == 7

    def value(theta: np.ndarray) -> float:
        return float((weights * kernel.clone_with_theta(theta)(rows)).sum())

    def gradient(theta: np.ndarray) -> np.ndarray:
        _, slope = kernel.clone_with_theta(theta)(rows, eval_gradient=True)
        return np.asarray(np.einsum("ij,ijk->k", weights, slope))

    assert check_grad(value, gradient, np.array([0.1, -0.4, 0.3])) < 1e-6


def test_predictions_agree_with_the_posterior_written_out() -> None:
    seen = FEATURES[::5]
    targets = 100 + 7 * smooth(seen)
    surrogate = Surrogate(seen, targets, WIDTHS)
    theta = surrogate._process.kernel_.k1.theta  # signal and lengths; the noise stands apart
    noise = surrogate._process.noise_
    signal, lengths = np.exp(theta[0]), np.repeat(np.exp(theta[1:4]), WIDTHS)

    def covariance(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return np.asarray(signal * np.exp(-0.5 * (((a[:, None] - b[None]) / lengths) ** 2).sum(axis=-1)))

    gram = covariance(seen, seen) + (noise + 1e-8) * np.eye(len(seen))
    cross = covariance(FEATURES, seen)
    mean = targets.mean() + cross @ np.linalg.solve(gram, targets - targets.mean())
    variance = targets.std() ** 2 * (signal - np.einsum("ij,ji->i", cross, np.linalg.solve(gram, cross.T)))
    predicted_mean, predicted_std = surrogate.predict(FEATURES)
    np.testing.assert_allclose(predicted_mean, mean, rtol=1e-6)
    np.testing.assert_allclose(predicted_std, np.sqrt(np.maximum(variance, 0)), atol=2e-3 * targets.std())


def test_a_third_of_a_space_predicts_the_rest() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(EVERYTHING))
    seen, rest = order[:36], order[36:]
    mean, std = Surrogate(FEATURES[seen], smooth(FEATURES[seen]), WIDTHS).predict(FEATURES[rest])
    truth = smooth(FEATURES[rest])
    assert spearmanr(mean, truth).statistic > 0.98
    assert np.mean(np.abs(mean - truth) < 3 * std) > 0.9


def test_one_diverged_trial_does_not_hide_the_differences_among_the_others() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(EVERYTHING))
    seen, rest = order[:36], order[36:]
    targets = smooth(FEATURES[seen])
    targets[4] = 1e12
    mean, _ = Surrogate(FEATURES[seen], targets, WIDTHS).predict(FEATURES[rest])
    assert spearmanr(mean, smooth(FEATURES[rest])).statistic > 0.7


@pytest.mark.parametrize("targets", [[3.0] * 6, [0.0] * 6, [1e300, 2e300, 0, 0, 1, 2], [1e-300, 2e-300, 0, 0, 0, 0]])
def test_degenerate_targets_give_finite_predictions_with_a_positive_spread(targets: list[float]) -> None:
    mean, std = Surrogate(FEATURES[:6], np.array(targets), WIDTHS).predict(FEATURES)
    assert np.all(np.isfinite(mean))
    assert np.all(std > 0)


def test_values_far_out_are_drawn_in_on_the_bad_side_only() -> None:
    np.testing.assert_array_equal(draw_in(np.array([-1e9, 0, 1, 2, 3])), [-1e9, 0, 1, 2, 3])
    np.testing.assert_array_equal(draw_in(np.array([0.0, 1, 2, 3, 1e9])), [0, 1, 2, 3, 9])
    np.testing.assert_array_equal(draw_in(np.array([1.0, 1, 1, 1, 5])), [1, 1, 1, 1, 5])
