"""The domain of one dimension of an architecture: a `Choice`, an `IntRange` or a `FloatRange`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.checks import (
    float_range_problems,
    int_range_problems,
    is_number,
    is_value,
    nearest,
    option_problems,
    plain,
)
from search_spaces.errors import SearchSpaceError

Value = bool | int | float | str | tuple["Value", ...] | None
"""One value of an architecture: a JSON scalar, or a tuple of values (a list in JSON)."""

Vector = npt.NDArray[np.float64]

_EXACT = 1 << 44
"""Integers up to here survive the rounding of one number in [0, 1], on either scale."""

_CORRECTION = 1 << 60
"""The unit of a correction: corrections, of at most 2¹⁸ positions, stay below 10⁻¹² and do not disturb distances."""

_MANY = 16  # in an integer range with more values than this, neighbours are some steps away, not all values


class Domain(ABC):
    """The values that one dimension may take."""

    @property
    @abstractmethod
    def size(self) -> int | None:
        """Number of values; `None` when there are infinitely many."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Length of an encoded value."""

    @property
    @abstractmethod
    def is_ordinal(self) -> bool:
        """Whether the values are numbers, so that their order carries information."""

    @abstractmethod
    def values(self) -> Sequence[Value]:
        """All values in order. Raises `SearchSpaceError` when there are infinitely many."""

    @abstractmethod
    def canonical(self, value: object) -> Value:
        """`value` in the form that this domain uses (`2` for `2.0`, `numpy.int64(2)`).

        Raises `SearchSpaceError`, which names the nearest values, when it is not in the domain.
        """

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> Value:
        """A random value; a `log` range is uniform in the logarithm."""

    @abstractmethod
    def encode_all(self, values: Sequence[Value]) -> Vector:
        """Canonical values as rows of numbers in [0, 1], of shape (len(values), width)."""

    @abstractmethod
    def decode(self, vector: npt.ArrayLike) -> Value:
        """The value whose encoding is nearest to `vector`, of shape (width,)."""

    @abstractmethod
    def neighbours(self, value: Value) -> list[Value]:
        """Other values near `value`, which must be canonical; nearest first."""

    @abstractmethod
    def to_json(self) -> dict[str, Any]:
        """A description for JSON, which `domain_from_json` reads back."""

    def encode(self, value: Value) -> Vector:
        """One canonical value as a vector of shape (width,)."""
        encoded: Vector = self.encode_all([value])[0]
        return encoded

    def contains(self, value: object) -> bool:
        """Whether `value`, in any form, is in the domain."""
        try:
            self.canonical(value)
        except SearchSpaceError:
            return False
        return True


@dataclass(frozen=True)
class Choice(Domain):
    """One of a list of options: numbers (ordinal), or strings, booleans, lists and `None` (categorical).

    A list, such as the depths of a model's stages, becomes a tuple. Encoded one-hot. Raises `SearchSpaceError` for an
    empty list of options, an option that is neither a JSON scalar nor a list of them, or options that are equal (also
    `1`, `1.0` and `True`, which are equal in Python).

    >>> Choice(["gelu", "relu"]).encode("relu")
    array([0., 1.])
    >>> Choice([128, 256]).is_ordinal, Choice(["gelu", "relu"]).is_ordinal
    (True, False)
    >>> Choice([[2, 2], [1, 1, 1]]).canonical([2, 2])
    (2, 2)
    """

    options: Sequence[Value]

    def __post_init__(self) -> None:
        if isinstance(self.options, (str, bytes)) or not isinstance(self.options, Sequence):
            raise SearchSpaceError(f"options must be a list, but got {self.options!r}; write [{self.options!r}]")
        options = tuple(plain(option) for option in self.options)
        problems = option_problems(options)
        if problems:
            raise SearchSpaceError(*problems)
        object.__setattr__(self, "options", options)

    @cached_property
    def _positions(self) -> dict[Hashable, int]:
        return {_typed(option): i for i, option in enumerate(self.options)}

    @property
    def size(self) -> int:
        return len(self.options)

    @property
    def width(self) -> int:
        return len(self.options)

    @property
    def is_ordinal(self) -> bool:
        return all(is_number(option) for option in self.options)

    def values(self) -> Sequence[Value]:
        return self.options

    def canonical(self, value: object) -> Value:
        bare = plain(value)
        position = self._positions.get(_typed(bare)) if is_value(bare) else None
        if position is None:
            raise SearchSpaceError(f"{value!r} is not one of the options; {nearest(bare, self.options)}")
        return self.options[position]

    def sample(self, rng: np.random.Generator) -> Value:
        return self.options[int(rng.integers(len(self.options)))]

    def encode_all(self, values: Sequence[Value]) -> Vector:
        hot = [self._positions[_typed(value)] for value in values]
        return np.eye(self.width)[np.asarray(hot, dtype=np.intp)]

    def decode(self, vector: npt.ArrayLike) -> Value:
        return self.options[int(np.argmax(np.asarray(vector)))]

    def neighbours(self, value: Value) -> list[Value]:
        position = self._positions[_typed(value)]
        if self.is_ordinal:
            return _by_distance(self.options, position)
        return [option for i, option in enumerate(self.options) if i != position]

    def to_json(self) -> dict[str, Any]:
        return {"type": "choice", "options": [as_json(option) for option in self.options]}


class _Range(Domain):
    """Common base of the two ranges: one ordinal number, encoded on [0, 1]."""

    low: float
    high: float
    log: bool

    @property
    def width(self) -> int:
        return 1

    @property
    def is_ordinal(self) -> bool:
        return True

    def encode_all(self, values: Sequence[Value]) -> Vector:
        numbers = np.asarray(values, dtype=np.float64).reshape(-1, 1)
        if self.low == self.high:
            return np.zeros_like(numbers)
        if self.log:
            return np.log(numbers / self.low) / math.log(self.high / self.low)
        return (numbers - self.low) / (self.high - self.low)

    def _from_unit(self, vector: npt.ArrayLike) -> float:
        unit = float(np.clip(np.asarray(vector, dtype=np.float64), 0.0, 1.0).item())
        if self.log:
            return float(self.low * (self.high / self.low) ** unit)
        return self.low + (self.high - self.low) * unit


@dataclass(frozen=True)
class IntRange(_Range):
    """The integers low, low + step, …, high; both ends are included.

    Encoded as one number in [0, 1], on a logarithmic scale with `log`. If a bound exceeds 2⁴⁴, which one float cannot
    represent on every scale, a second, tiny number holds the rounding error of the first, so that `decode` is exact.
    Raises `SearchSpaceError` when an argument is not an integer, a bound is outside ±2⁶³, `low > high`, `step` does
    not divide `high - low`, or `log` is combined with `low < 1` or a step.

    >>> list(IntRange(2, 12, step=5).values())
    [2, 7, 12]
    """

    low: int
    high: int
    step: int = 1
    log: bool = False

    def __post_init__(self) -> None:
        for name in ("low", "high", "step"):
            object.__setattr__(self, name, plain(getattr(self, name)))
        problems = int_range_problems(self.low, self.high, self.step, self.log)
        if problems:
            raise SearchSpaceError(*problems)

    @property
    def size(self) -> int:
        return (self.high - self.low) // self.step + 1

    @property
    def width(self) -> int:
        return 1 if self._is_small else 2

    @property
    def _is_small(self) -> bool:
        return max(abs(self.low), abs(self.high)) <= _EXACT

    def encode_all(self, values: Sequence[Value]) -> Vector:
        if self._is_small:
            return super().encode_all(values)
        offsets = [int(value) - self.low for value in values]  # type: ignore[arg-type]
        units = [self._unit(offset) for offset in offsets]
        corrections = [offset // self.step - self._position(unit) for offset, unit in zip(offsets, units, strict=True)]
        return np.column_stack([np.asarray(units), np.asarray(corrections, dtype=np.float64) / _CORRECTION])

    def _unit(self, offset: int) -> float:
        """The share of the range that an offset from `low` is; exact integers, rounded once."""
        span = self.high - self.low
        if span == 0:
            return 0.0
        return math.log1p(offset / self.low) / math.log1p(span / self.low) if self.log else offset / span

    def _position(self, unit: float) -> int:
        """The position among the values that is nearest to a share of the range."""
        if self.log:
            position = round(self.low * math.expm1(unit * math.log1p((self.high - self.low) / self.low)))
        else:
            position = round(Fraction(unit) * (self.size - 1))
        return min(max(position, 0), self.size - 1)

    def values(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def canonical(self, value: object) -> int:
        bare = plain(value)
        whole = isinstance(bare, int) or (isinstance(bare, float) and bare.is_integer())
        integer = int(bare) if whole and not isinstance(bare, bool) else None
        if integer is None or integer not in self.values():
            near = self._nearest_values(bare) if is_number(bare) else []
            hint = f"; nearest: {', '.join(map(str, near))}" if near else ""
            steps = f" in steps of {self.step}" if self.step > 1 else ""
            raise SearchSpaceError(f"{value!r} is not an integer from {self.low} to {self.high}{steps}{hint}")
        return integer

    def _nearest_values(self, number: float) -> list[int]:
        if number != number:  # NaN
            return []
        position = Fraction(min(max(number, self.low), self.high) - self.low) / self.step
        return [self.values()[i] for i in sorted({math.floor(position), math.ceil(position)})]

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:
            return self.decode([rng.random(), 0.0][: self.width])
        fits = self.size <= 1 << 63  # what NumPy draws
        position = int(rng.integers(self.size)) if fits else int.from_bytes(rng.bytes(24)) % self.size
        return self.values()[position]

    def decode(self, vector: npt.ArrayLike) -> int:
        if not self._is_small:
            unit, correction = np.asarray(vector, dtype=np.float64)
            position = self._position(float(np.clip(unit, 0.0, 1.0))) + round(float(correction) * _CORRECTION)
            return self.values()[min(max(position, 0), self.size - 1)]
        number = self._from_unit(vector)
        return self.values()[min(max(round((number - self.low) / self.step), 0), self.size - 1)]

    def neighbours(self, value: Value) -> list[Value]:
        values = self.values()
        position = values.index(self.canonical(value))
        if self.size <= _MANY:
            return _by_distance(values, position)
        strides = [1 << k for k in range(self.size.bit_length())]
        steps = [position + sign * stride for stride in strides for sign in (-1, 1)]
        return [values[i] for i in steps if 0 <= i < self.size]

    def to_json(self) -> dict[str, Any]:
        return {"type": "int_range", "low": self.low, "high": self.high, "step": self.step, "log": self.log}


@dataclass(frozen=True)
class FloatRange(_Range):
    """The real numbers from low to high; both ends are included.

    Encoded as one number in [0, 1], on a logarithmic scale with `log`. Raises `SearchSpaceError` when an
    argument is not a finite number, `low >= high`, or `log` is combined with `low <= 0`.

    >>> FloatRange(0.001, 0.1, log=True).decode([0.5])
    0.01
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        problems = float_range_problems(plain(self.low), plain(self.high), self.log)
        if problems:
            raise SearchSpaceError(*problems)
        object.__setattr__(self, "low", float(self.low))
        object.__setattr__(self, "high", float(self.high))

    @property
    def size(self) -> None:
        return None

    def values(self) -> Sequence[Value]:
        raise SearchSpaceError(f"{self!r} has infinitely many values; use a list or an IntRange to enumerate it")

    def canonical(self, value: object) -> float:
        bare = plain(value)
        if not is_number(bare) or not self.low <= bare <= self.high:
            near = f"; nearest: {min(max(bare, self.low), self.high)}" if is_number(bare) else ""
            raise SearchSpaceError(f"{value!r} is not a number from {self.low} to {self.high}{near}")
        return float(bare) + 0.0  # -0.0 and 0.0 are equal, but are written differently in JSON

    def sample(self, rng: np.random.Generator) -> float:
        return self.decode([rng.random()])

    def decode(self, vector: npt.ArrayLike) -> float:
        return self.canonical(min(max(self._from_unit(vector), self.low), self.high))

    def neighbours(self, value: Value) -> list[Value]:
        """The points 1/64, 1/16 and 1/4 of the range away on either side, if they are inside it."""
        unit = float(self.encode(value)[0])
        steps = (unit + sign * part for part in (1 / 64, 1 / 16, 1 / 4) for sign in (-1, 1))
        return [self.decode([step]) for step in steps if 0 <= step <= 1]

    def to_json(self) -> dict[str, Any]:
        return {"type": "float_range", "low": self.low, "high": self.high, "log": self.log}


def domain_from_json(description: Mapping[str, Any]) -> Domain:
    """The domain that `Domain.to_json` described. Raises `SearchSpaceError` for any other description.

    >>> domain_from_json({"type": "choice", "options": [1, 2]})
    Choice(options=(1, 2))
    """
    kinds: dict[str, Callable[..., Domain]] = {
        "choice": Choice,
        "int_range": IntRange,
        "float_range": FloatRange,
    }
    arguments = dict(description)
    kind = arguments.pop("type", None)
    if kind not in kinds:
        raise SearchSpaceError(f"a domain's `type` must be one of {', '.join(kinds)}, but got {kind!r}")
    try:
        return kinds[kind](**arguments)
    except TypeError as error:
        raise SearchSpaceError(f"{dict(description)!r} does not describe a domain: {error}") from error


def as_json(value: Value) -> Any:
    """A value as JSON has it: tuples as lists.

    >>> as_json(((2, 2), "gelu"))
    [[2, 2], 'gelu']
    """
    return [as_json(item) for item in value] if isinstance(value, tuple) else value


def _typed(value: Value) -> Hashable:
    """A key that distinguishes `True` from `1`, at every depth."""
    if isinstance(value, tuple):
        return tuple(_typed(item) for item in value)
    return isinstance(value, bool), value


def _by_distance(values: Sequence[Value], position: int) -> list[Value]:
    return [values[i] for i in sorted(range(len(values)), key=lambda i: abs(i - position)) if i != position]
