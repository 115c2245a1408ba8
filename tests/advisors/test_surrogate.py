from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import multivariate_normal, spearmanr
from sklearn.gaussian_process import GaussianProcessRegressor

from advisors.surrogate import Setting, Surrogate, draw_in, log_likelihood, slice_samples, squared_distances
from search_spaces import IntRange, SearchSpace

SPACE = SearchSpace({"act": ["gelu", "relu", "silu"], "width": [1, 2, 3, 4], "depth": IntRange(1, 9)})
WIDTHS = [domain.width for domain in SPACE.dimensions.values()]
EVERYTHING = list(SPACE.enumerate())
FEATURES = SPACE.encode(EVERYTHING)


def surrogate(features: np.ndarray, targets: np.ndarray) -> Surrogate:
    return Surrogate(features, targets, WIDTHS, np.random.default_rng(0))


def smooth(features: np.ndarray) -> np.ndarray:
    return np.asarray(((features - 0.3) ** 2 * np.linspace(1, 3, features.shape[1])).sum(axis=1))


def test_the_covariance_on_choices_decays_with_the_dimensions_that_differ() -> None:
    first = {"act": "gelu", "width": 1, "depth": 1}
    others = [{**first, "act": "relu"}, {**first, "act": "silu", "width": 4}, {**first, "depth": 5}]
    squares = squared_distances(SPACE.encode([first, *others]), WIDTHS)
    np.testing.assert_allclose(squares[:, 0, 1:].T, [[2, 0, 0], [2, 2, 0], [0, 0, 0.25]], atol=1e-12)


def gram(setting: Setting, features: np.ndarray, others: np.ndarray) -> np.ndarray:
    lengths = np.repeat(setting.lengths, WIDTHS)
    squares = (((features[:, None] - others[None]) / lengths) ** 2).sum(axis=-1)
    return np.asarray(setting.signal * np.exp(-0.5 * squares))


def test_the_likelihood_differs_from_scipys_by_a_constant() -> None:
    observed = FEATURES[::9]
    targets = smooth(observed) - smooth(observed).mean()
    settings = [Setting(1.3, np.array([0.5, 2.0, 0.8]), 1e-2), Setting(0.4, np.array([3.0, 0.7, 1.5]), 0.3)]
    computed = [log_likelihood(setting, squared_distances(observed, WIDTHS), targets) for setting in settings]
    scipys = [
        multivariate_normal(
            cov=gram(setting, observed, observed) + (setting.noise + 1e-8) * np.eye(len(observed))
        ).logpdf(targets)
        for setting in settings
    ]
    assert computed[0] - computed[1] == pytest.approx(scipys[0] - scipys[1], rel=1e-9)


def test_a_covariance_that_cannot_be_factored_is_impossible() -> None:
    squares, targets = np.zeros((1, 3, 3)), np.array([0.0, 1.0, -1.0])
    assert log_likelihood(Setting(1e12, np.ones(1), 0.0), squares, targets) == -np.inf


def test_settings_are_spread_as_their_prior() -> None:
    settings = [Setting.from_normal(z) for z in np.random.default_rng(0).standard_normal((4000, 5))]
    lengths = np.log([setting.lengths for setting in settings])
    assert lengths.shape == (4000, 3)
    np.testing.assert_allclose([lengths.mean(), lengths.std()], [0.5, 1.0], atol=0.03)
    np.testing.assert_allclose(np.mean([np.log(setting.signal) for setting in settings]), 0.0, atol=0.05)
    assert min(setting.noise for setting in settings) == 1e-6
    assert max(setting.noise for setting in settings) == 1.0


def test_a_slice_chain_has_the_mean_and_spread_of_the_posterior() -> None:
    """Prior N(0, 1), one observation 1.5 with variance 1/4 of the first coordinate: posterior N(1.2, 0.2)."""
    rng = np.random.default_rng(0)
    drawn = np.concatenate([slice_samples(lambda z: -2 * (1.5 - z[0]) ** 2, 2, rng)[2:] for _ in range(500)])
    assert drawn.shape == (3000, 2)
    np.testing.assert_allclose(drawn.mean(axis=0), [1.2, 0.0], atol=0.06)
    np.testing.assert_allclose(drawn.std(axis=0), [np.sqrt(0.2), 1.0], atol=0.05)


def test_predictions_agree_with_the_posteriors_written_out() -> None:
    observed = FEATURES[::5]
    targets = 100 + 7 * smooth(observed)
    mean, std = Surrogate(observed, targets, WIDTHS, np.random.default_rng(0)).predict(FEATURES)
    # The same chain, drawn again.
    squares, standardised = squared_distances(observed, WIDTHS), (targets - targets.mean()) / targets.std()
    drawn = slice_samples(
        lambda z: log_likelihood(Setting.from_normal(z), squares, standardised), 5, np.random.default_rng(0)
    )
    assert len(mean) == len(drawn) == 8
    for i, setting in enumerate(map(Setting.from_normal, drawn)):
        inner = gram(setting, observed, observed) + (setting.noise + 1e-8) * np.eye(len(observed))
        cross = gram(setting, FEATURES, observed)
        expected = targets.mean() + targets.std() * cross @ np.linalg.solve(inner, standardised)
        variance = setting.signal - np.einsum("ij,ji->i", cross, np.linalg.solve(inner, cross.T))
        np.testing.assert_allclose(mean[i], expected, rtol=1e-5)
        np.testing.assert_allclose(std[i], targets.std() * np.sqrt(np.maximum(variance, 0)), atol=2e-3 * targets.std())


def test_running_trials_are_believed_to_be_the_mean_and_leave_the_settings_as_they_are() -> None:
    observed, running, elsewhere = FEATURES[::5], FEATURES[1::5], FEATURES[2::5]
    targets = 100 + 7 * smooth(observed)
    fitted = Surrogate(observed, targets, WIDTHS, np.random.default_rng(0), running)
    mean, std = fitted.predict(elsewhere)
    squares, standardised = squared_distances(observed, WIDTHS), (targets - targets.mean()) / targets.std()
    drawn = slice_samples(  # without the running ones
        lambda z: log_likelihood(Setting.from_normal(z), squares, standardised), 5, np.random.default_rng(0)
    )
    known = np.concatenate([observed, running])
    believed = np.concatenate([standardised, np.zeros(len(running))])
    for i, setting in enumerate(map(Setting.from_normal, drawn)):
        inner = gram(setting, known, known) + (setting.noise + 1e-8) * np.eye(len(known))
        cross = gram(setting, elsewhere, known)
        expected = targets.mean() + targets.std() * cross @ np.linalg.solve(inner, believed)
        variance = setting.signal - np.einsum("ij,ji->i", cross, np.linalg.solve(inner, cross.T))
        np.testing.assert_allclose(mean[i], expected, rtol=1e-5)
        np.testing.assert_allclose(std[i], targets.std() * np.sqrt(np.maximum(variance, 0)), atol=2e-3 * targets.std())


def test_no_running_trials_are_the_same_as_none() -> None:
    observed = FEATURES[::5]
    empty = Surrogate(observed, smooth(observed), WIDTHS, np.random.default_rng(0), FEATURES[:0])
    for left, right in zip(
        empty.predict(FEATURES), surrogate(observed, smooth(observed)).predict(FEATURES), strict=True
    ):
        np.testing.assert_array_equal(left, right)


def test_a_third_of_a_space_predicts_the_rest() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(EVERYTHING))
    observed, rest = order[:36], order[36:]
    means, stds = surrogate(FEATURES[observed], smooth(FEATURES[observed])).predict(FEATURES[rest])
    mean, std = means.mean(axis=0), np.sqrt((stds**2).mean(axis=0) + means.var(axis=0))
    truth = smooth(FEATURES[rest])
    assert spearmanr(mean, truth).statistic > 0.98
    assert np.mean(np.abs(mean - truth) < 3 * std) > 0.9


def test_one_diverged_trial_does_not_hide_the_differences_among_the_others() -> None:
    rng = np.random.default_rng(0)
    order = rng.permutation(len(EVERYTHING))
    observed, rest = order[:36], order[36:]
    targets = smooth(FEATURES[observed])
    targets[4] = 1e12
    means, _ = surrogate(FEATURES[observed], targets).predict(FEATURES[rest])
    assert spearmanr(means.mean(axis=0), smooth(FEATURES[rest])).statistic > 0.7


@pytest.mark.parametrize("targets", [[3.0] * 6, [0.0] * 6, [1e300, 2e300, 0, 0, 1, 2], [1e-300, 2e-300, 0, 0, 0, 0]])
def test_degenerate_targets_lead_to_finite_predictions_with_a_positive_spread(targets: list[float]) -> None:
    mean, std = surrogate(FEATURES[:6], np.array(targets)).predict(FEATURES)
    assert np.all(np.isfinite(mean))
    assert np.all(std > 0)


def test_values_far_out_are_drawn_in_on_the_bad_side_only() -> None:
    np.testing.assert_array_equal(draw_in(np.array([-1e9, 0, 1, 2, 3])), [-1e9, 0, 1, 2, 3])
    np.testing.assert_array_equal(draw_in(np.array([0.0, 1, 2, 3, 1e9])), [0, 1, 2, 3, 9])
    np.testing.assert_array_equal(draw_in(np.array([1.0, 1, 1, 1, 5])), [1, 1, 1, 1, 5])


def test_predictions_equal_those_of_scikit_learn_to_the_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    fitted = surrogate(FEATURES[::3], smooth(FEATURES[::3]))
    mean, std = fitted.predict(FEATURES)

    def scikit_learns(process: GaussianProcessRegressor, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = GaussianProcessRegressor.predict(process, features, return_std=True)
        return mean, np.maximum(std, 1e-4)

    monkeypatch.setattr("advisors.surrogate._predict", scikit_learns)
    expected_mean, expected_std = fitted.predict(FEATURES)
    np.testing.assert_array_equal(mean, expected_mean)
    np.testing.assert_array_equal(std, expected_std)
