"""Temperatures: numbers, and schedules of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import (
    Field,
)

from autodistill.config.section import Section
from autodistill.errors import ConfigurationError
from autodistill.models.taps import process_name


class AnnealedTemperature(Section):
    """A temperature that goes from `start` to `end` over the steps of a stage.

    `AnnealedTemperature(start=5, end=1)` is the linear annealing `1 + 4 (1 - e/E)`.

    Examples:
        >>> AnnealedTemperature(start=5, end=1).at(0.25)
        4.0
    """

    start: float = Field(gt=0)
    end: float = Field(gt=0)
    shape: Literal["linear", "cosine"] = "linear"

    def at(self, progress: float) -> float:
        """The temperature at `progress` in [0, 1], the share of the steps that is done."""
        rest = 1 - progress if self.shape == "linear" else (1 + math.cos(math.pi * progress)) / 2
        return self.end + (self.start - self.end) * rest


Temperature = Annotated[float, Field(gt=0, allow_inf_nan=False)] | AnnealedTemperature | Callable[[float], float]
"""A number, an annealed temperature, or a function of the share of steps done."""


def temperature_at(temperature: Temperature, progress: float) -> float:
    """The temperature of a step.

    Args:
        temperature: as configured.
        progress: the share of the stage's steps that is done, in [0, 1).

    Raises:
        ConfigurationError: a function returned a temperature that is not positive and finite.

    Examples:
        >>> temperature_at(2.0, 0.5), temperature_at(lambda progress: 4 - 3 * progress, 0.5)
        (2.0, 2.5)
    """
    if isinstance(temperature, AnnealedTemperature):
        return temperature.at(progress)
    if not callable(temperature):
        return temperature
    value = temperature(progress)
    if not (math.isfinite(value) and value > 0):
        raise ConfigurationError(
            f"a temperature must be positive and finite, but {process_name(temperature)}({progress}) returned {value}."
        )
    return float(value)
