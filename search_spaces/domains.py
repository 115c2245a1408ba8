"""The domain of one dimension of an architecture: a `Choice`, an `IntRange` or a `FloatRange`."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.checks import (
    float_range_problems,
    int_range_problems,
    is_number,
    nearest,
    option_problems,
    plain,
)
from search_spaces.errors import SearchSpaceError

Value = bool | int | float | str | None
"""One value of an architecture: a JSON scalar."""

Vector = npt.NDArray[np.float64]

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
    """One of a list of options: numbers (ordinal), or strings, booleans and `None` (categorical).

    Encoded one-hot. Raises `SearchSpaceError` for an empty list, an option that is not a JSON scalar, or options
    that are equal (also `1`, `1.0` and `True`, which are equal in Python).

    >>> Choice(["gelu", "relu"]).encode("relu")
    array([0., 1.])
    >>> Choice([128, 256]).is_ordinal, Choice(["gelu", "relu"]).is_ordinal
    (True, False)
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
    def _positions(self) -> dict[tuple[bool, Value], int]:
        return {(isinstance(option, bool), option): i for i, option in enumerate(self.options)}

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
        position = None
        if bare is None or isinstance(bare, (bool, int, float, str)):
            position = self._positions.get((isinstance(bare, bool), bare))
        if position is None:
            raise SearchSpaceError(f"{value!r} is not one of the options; {nearest(bare, self.options)}")
        return self.options[position]

    def sample(self, rng: np.random.Generator) -> Value:
        return self.options[int(rng.integers(len(self.options)))]

    def encode_all(self, values: Sequence[Value]) -> Vector:
        hot = [self._positions[isinstance(value, bool), value] for value in values]
        return np.eye(self.width)[np.asarray(hot, dtype=np.intp)]

    def decode(self, vector: npt.ArrayLike) -> Value:
        return self.options[int(np.argmax(np.asarray(vector)))]

    def neighbours(self, value: Value) -> list[Value]:
        position = self._positions[isinstance(value, bool), value]
        if self.is_ordinal:
            return _by_distance(self.options, position)
        return [option for i, option in enumerate(self.options) if i != position]

    def to_json(self) -> dict[str, Any]:
        return {"type": "choice", "options": list(self.options)}


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

    Encoded as one number in [0, 1], on a logarithmic scale with `log`. Raises `SearchSpaceError` when an
    argument is not an integer, `low > high`, `step` does not divide `high - low`, or `log` is combined with
    `low < 1` or a step.

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

    def values(self) -> range:
        return range(self.low, self.high + 1, self.step)

    def canonical(self, value: object) -> int:
        bare = plain(value)
        integer = int(bare) if is_number(bare) and math.isfinite(bare) and bare == int(bare) else None
        if integer is None or integer not in self.values():
            near = self._nearest_values(float(bare)) if is_number(bare) else []
            hint = f"; nearest: {', '.join(map(str, near))}" if near else ""
            steps = f" in steps of {self.step}" if self.step > 1 else ""
            raise SearchSpaceError(f"{value!r} is not an integer from {self.low} to {self.high}{steps}{hint}")
        return integer

    def _nearest_values(self, number: float) -> list[int]:
        if math.isnan(number):
            return []
        position = (min(max(number, self.low), self.high) - self.low) / self.step
        return [self.values()[i] for i in sorted({math.floor(position), math.ceil(position)})]

    def sample(self, rng: np.random.Generator) -> int:
        if self.log:
            return self.decode([rng.random()])
        return self.values()[int(rng.integers(self.size))]

    def decode(self, vector: npt.ArrayLike) -> int:
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


def _by_distance(values: Sequence[Value], position: int) -> list[Value]:
    return [values[i] for i in sorted(range(len(values)), key=lambda i: abs(i - position)) if i != position]
