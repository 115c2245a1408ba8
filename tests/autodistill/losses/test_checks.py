"""What is wrong with a temperature, a weight or a loss type is told in a sentence."""

from __future__ import annotations

import math

import pytest

from autodistill.errors import ConfigurationError
from autodistill.losses import checks


@pytest.mark.parametrize("temperature", [0, -1.0, math.nan, math.inf])
def test_temperature_that_is_not_positive_and_finite_is_refused(temperature: float) -> None:
    with pytest.raises(ConfigurationError) as caught:
        checks.check_temperature(temperature)
    assert str(caught.value) == f"a temperature must be positive and finite, but got {temperature}."


def test_every_wrong_weight_is_told_and_zero_is_right() -> None:
    assert list(checks.weight_problems([0.0, 2.0])) == []
    assert len(list(checks.weight_problems([-1.0, math.nan, math.inf, 1.0]))) == 3


def test_the_labels_loss_and_the_teachers_are_known_by_their_place() -> None:
    assert list(checks.pair_type_problems(["CE", "KL"])) == []
    assert list(checks.pair_type_problems(["KL", "cosine"])) == [
        "the loss between student and labels is one of CE, MSE, but got 'KL'.",
        "the loss between student and teacher is one of CE, KL, MSE, but got 'cosine'.",
    ]


@pytest.mark.parametrize("value", [None, "2.0"])
def test_temperature_or_weight_that_is_no_number_is_told_like_any_other(value) -> None:
    assert list(checks.temperature_problems(value)) == [
        f"a temperature must be positive and finite, but got {value!r}."
    ]
    assert list(checks.weight_problems([value])) == [
        f"a loss weight must be finite and not negative, but got {value!r}."
    ]
