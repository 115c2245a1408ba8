"""Checks of the arguments of domains, and the hints in their messages."""

from __future__ import annotations

import difflib
import math
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

_LARGEST = sys.float_info.max


def plain(value: Any) -> Any:
    """A Python scalar for a NumPy one, a tuple for a list or an array, at every depth; anything else unchanged."""
    if isinstance(value, (list, tuple, np.ndarray)):
        return tuple(plain(item) for item in value) if not isinstance(value, np.ndarray) or value.ndim else value
    return value.item() if isinstance(value, np.generic) else value


def is_value(value: object) -> bool:
    """Whether `value` is a JSON scalar, or a tuple of such values at any depth."""
    if isinstance(value, tuple):
        return all(map(is_value, value))
    return value is None or isinstance(value, (bool, int, float, str))


def _is_finite(value: object) -> bool:
    if isinstance(value, tuple):
        return all(map(_is_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def is_number(value: object) -> bool:
    """Whether `value` is an integer or a float; booleans are not."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def did_you_mean(
    name: object, known: Iterable[str], otherwise: str | None = None, *, most: int = 3, similarity: float = 0.6
) -> str:
    """The end of a message about an unknown name: the known ones that resemble it, upper and lower case alike.

    Args:
        name: the unknown name.
        known: the known names.
        otherwise: the end of the message where none resembles it; the list of all known names if not given.
        most: the number of suggestions, at most.
        similarity: the least that a suggestion must have, from 0 to 1; see `difflib.get_close_matches`.

    Examples:
        >>> did_you_mean("Layrs", ["layers", "width"])
        "did you mean 'layers'?"
        >>> did_you_mean("momentum", ["layers", "width"])
        "known: 'layers', 'width'"
    """
    known = list(known)
    folded = {candidate.casefold(): candidate for candidate in reversed(known)}  # of two that fold alike the first
    near = difflib.get_close_matches(str(name).casefold(), folded, n=most, cutoff=similarity)
    if near:
        return f"did you mean {' or '.join(repr(folded[match]) for match in near)}?"
    return f"known: {', '.join(map(repr, known))}" if otherwise is None else otherwise


def nearest(value: Any, options: Sequence[Any]) -> str:
    """The end of a message: the options nearest to `value`, or all of them if nearness is not defined."""
    if is_number(value) and all(is_number(option) for option in options):
        value = max(-_LARGEST, min(value, _LARGEST))  # an integer may be larger than any float
        numbers = sorted(options, key=lambda option: abs(float(option) - value))
        return f"nearest: {', '.join(map(repr, numbers[:2]))}"
    if isinstance(value, str) and all(isinstance(option, str) for option in options):
        return did_you_mean(value, options)
    return f"known: {', '.join(map(repr, options))}"


def option_problems(options: tuple[Any, ...]) -> list[str]:
    if not options:
        return ["a choice needs at least one option, but the list is empty"]
    problems = []
    for i, option in enumerate(options):
        if not is_value(option):
            problems.append(
                f"an option must be a number, a string, a boolean, None, or a list of these, but got {option!r}"
            )
        elif not _is_finite(option):
            problems.append(f"an option must be finite, but got {option!r}")
        elif option in options[:i]:
            twin = options[options.index(option)]
            problems.append(f"options must differ, but {twin!r} and {option!r} are equal; remove one")
    return problems


def int_range_problems(low: Any, high: Any, step: Any, log: bool) -> list[str]:
    received = f"but got (low={low!r}, high={high!r}, step={step!r})"
    if not all(isinstance(number, int) and not isinstance(number, bool) for number in (low, high, step)):
        return [f"`low`, `high` and `step` must be integers, {received}; use FloatRange for real numbers"]
    problems = []
    if not -(1 << 63) <= low <= 1 << 63 or not -(1 << 63) <= high <= 1 << 63:
        problems.append(f"`low` and `high` must be from -2**63 to 2**63, {received}; list the values instead")
    if low > high:
        problems.append(f"`low <= high` must hold, {received}")
    if step < 1:
        problems.append(f"`step >= 1` must hold, {received}")
    elif low <= high and (high - low) % step:
        last = high - (high - low) % step
        problems.append(f"`step` must divide `high - low`, {received}; the last value reached is {last}")
    if log and low < 1:
        problems.append(f"`low >= 1` must hold with `log=True`, {received}")
    if log and step != 1:
        problems.append(f"`log=True` cannot be combined with a `step`, {received}; list the values instead")
    return problems


def float_range_problems(low: Any, high: Any, log: bool) -> list[str]:
    received = f"but got (low={low!r}, high={high!r})"
    if not all(is_number(number) and math.isfinite(number) for number in (low, high)):
        return [f"`low` and `high` must be finite numbers, {received}"]
    problems = []
    if low >= high:
        problems.append(f"`low < high` must hold, {received}; a single value is written [{low!r}]")
    if log and low <= 0:
        problems.append(f"`low > 0` must hold with `log=True`, {received}")
    return problems
