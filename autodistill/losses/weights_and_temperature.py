"""The checks of loss weights and temperatures, shared by every loss and criterion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import SupportsFloat

from autodistill.errors import ConfigurationError


def weight_problems(loss_weights: Sequence[float]) -> list[str]:
    """A sentence for each weight of a loss term that is negative or not finite.

    Examples:
        >>> weight_problems([1.0, -2.0])
        ['a loss weight must be finite and not negative, but got -2.0.']
    """
    return [
        f"a loss weight must be finite and not negative, but got {weight!r}."
        for weight in loss_weights
        if not (_is_finite(weight) and weight >= 0)
    ]


def temperature_problems(temperature: float) -> list[str]:
    """A sentence if the temperature is not positive and finite.

    Examples:
        >>> temperature_problems(0.0)
        ['a temperature must be positive and finite, but got 0.0.']
    """
    if _is_finite(temperature) and temperature > 0:
        return []
    return [f"a temperature must be positive and finite, but got {temperature!r}."]


def check_temperature(temperature: float) -> float:
    """The temperature as a float, if it is valid.

    Raises:
        ConfigurationError: it is not positive and finite.

    Examples:
        >>> check_temperature(2)
        2.0
    """
    problems = temperature_problems(temperature)
    if problems:
        raise ConfigurationError(problems)
    return float(temperature)


def _is_finite(value: object) -> bool:
    return isinstance(value, SupportsFloat) and not isinstance(value, str) and math.isfinite(value)
