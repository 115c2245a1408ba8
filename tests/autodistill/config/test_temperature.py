"""Temperatures: numbers, annealed ones and functions of the share of steps done."""

from __future__ import annotations

import math

import pytest

from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.temperature import AnnealedTemperature, temperature_at
from autodistill.errors import ConfigurationError


@pytest.mark.parametrize("epochs", [1, 7, 100])
def test_linear_annealing_is_one_plus_four_times_the_rest(epochs: int) -> None:
    annealed = AnnealedTemperature(start=5, end=1)
    for epoch in range(epochs + 1):
        assert annealed.at(epoch / epochs) == pytest.approx(1 + 4 * (1 - epoch / epochs), rel=1e-12)


def test_cosine_annealing_goes_from_start_to_end_by_half_a_cosine() -> None:
    annealed = AnnealedTemperature(start=8, end=2, shape="cosine")
    for progress in (0, 0.2, 0.5, 0.9, 1):
        expected = 2 + 6 * math.cos(progress * math.pi / 2) ** 2
        assert annealed.at(progress) == pytest.approx(expected)


def test_temperature_may_be_a_number_an_annealed_one_or_a_function() -> None:
    assert temperature_at(3.0, 0.9) == 3.0
    assert temperature_at(AnnealedTemperature(start=3, end=1), 0.5) == 2.0
    assert temperature_at(lambda progress: 1 + progress, 0.25) == 1.25
    assert isinstance(temperature_at(lambda progress: 2, 0.5), float)
    config = RegularDistillationConfig(temperature={"start": 5, "end": 1})
    assert config.temperature == AnnealedTemperature(start=5, end=1)


def cold(progress: float) -> float:
    return math.nan if progress > 0.5 else 0.0


@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_temperature_that_is_not_positive_and_finite_names_its_function(progress: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"positive and finite, but .*cold\({progress}\) returned (0\.0|nan)"):
        temperature_at(cold, progress)
