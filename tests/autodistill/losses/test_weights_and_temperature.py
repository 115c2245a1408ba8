"""Every mistake in a temperature or a weight is reported in a sentence."""

from __future__ import annotations

import math

import pytest

from autodistill.errors import ConfigurationError
from autodistill.losses.weights_and_temperature import check_temperature, temperature_problems, weight_problems


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_temperature_that_is_not_positive_and_finite_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        check_temperature(temperature)
    assert str(caught.value) == f"a temperature must be positive and finite, but got {temperature}."


def test_every_wrong_weight_is_reported_and_zero_is_accepted() -> None:
    assert weight_problems([0.0, 2.0]) == []
    assert len(weight_problems([-1.0, math.nan, math.inf, 1.0])) == 3


@pytest.mark.parametrize("value", [None, "2.0"])
def test_temperature_or_weight_that_is_no_number_is_reported(value) -> None:
    assert temperature_problems(value) == [f"a temperature must be positive and finite, but got {value!r}."]
    assert weight_problems([value]) == [f"a loss weight must be finite and not negative, but got {value!r}."]
