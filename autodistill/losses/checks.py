"""What is wrong with temperatures, loss types and weights, in sentences that every criterion shares."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import SupportsFloat

from autodistill.errors import ConfigurationError

LOSS_TYPES = ("MSE", "NMSE", "L1", "KL", "CE", "cosine")


"""The known losses: squared error, the same normalised by the teacher's power, absolute error, Kullback-Leibler
divergence, soft cross-entropy, cosine distance."""


def temperature_problems(temperature: float) -> Iterator[str]:
    """What is wrong with a temperature, a sentence; nothing where it is right.

    Examples:
        >>> list(temperature_problems(0.0))
        ['a temperature must be positive and finite, but got 0.0.']
    """
    if not (_is_finite(temperature) and temperature > 0):
        yield f"a temperature must be positive and finite, but got {temperature!r}."


def weight_problems(loss_weights: Sequence[float]) -> Iterator[str]:
    """What is wrong with the weights of loss terms, a sentence for each.

    Examples:
        >>> list(weight_problems([1.0, -2.0]))
        ['a loss weight must be finite and not negative, but got -2.0.']
    """
    for weight in loss_weights:
        if not (_is_finite(weight) and weight >= 0):
            yield f"a loss weight must be finite and not negative, but got {weight!r}."


def _is_finite(value: object) -> bool:
    return isinstance(value, SupportsFloat) and not isinstance(value, str) and math.isfinite(value)


def type_problems(loss_types: Sequence[str], known: Sequence[str] = LOSS_TYPES) -> Iterator[str]:
    """What is wrong with the types of loss terms, a sentence for each unknown one that names the known.

    Examples:
        >>> list(type_problems(["KL", "MAE"], known=("CE", "KL")))
        ["a loss type is one of CE, KL, but got 'MAE'."]
    """
    for kind in loss_types:
        if kind not in known:
            yield f"a loss type is one of {', '.join(known)}, but got {kind!r}."


LABEL_LOSSES = ("CE", "MSE")


"""The losses between a student's predictions and the labels."""


TEACHER_LOSSES = ("CE", "KL", "MSE")


"""The losses between a student's predictions and the teacher's."""


def pair_type_problems(loss_types: Sequence[str]) -> Iterator[str]:
    """What is wrong with the loss types of labels and teacher.

    Examples:
        >>> list(pair_type_problems(["KL", "KL"]))
        ["the loss between student and labels is one of CE, MSE, but got 'KL'."]
    """
    for kind, known, partner in zip(loss_types, (LABEL_LOSSES, TEACHER_LOSSES), ("labels", "teacher"), strict=False):
        if kind not in known:
            yield f"the loss between student and {partner} is one of {', '.join(known)}, but got {kind!r}."


def check_temperature(temperature: float) -> float:
    """The temperature, if it is one.

    Raises:
        ConfigurationError: it is not positive and finite.

    Examples:
        >>> check_temperature(2)
        2.0
    """
    for problem in temperature_problems(temperature):
        raise ConfigurationError(problem)
    return float(temperature)
