"""The architectures of a space as slices: the largest one, the widths, and how architectures of a width are drawn."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import nn

from autodistill.elastic.allowed import AllowedArchitectures
from autodistill.elastic.building import without_random_weights
from autodistill.elastic.nested import NestedStudent
from autodistill.elastic.student import release
from autodistill.errors import ConfigurationError, raise_problems
from autodistill.models.families import WeightTable, require_family
from search_spaces import Architecture, SearchSpace, Value

Build = Callable[[Architecture], nn.Module]

_MOST_WIDTHS = 64
"""The largest number of widths: each has an elastic student of its own."""

_DRAWS = 10_000
"""How often an architecture is drawn until it has a certain width."""


Kind = tuple[int, int]
"""The width of the stream and the number of blocks of a student."""


@dataclass(frozen=True)
class ElasticSpace:
    """The architectures of a space as slices of the largest one.

    Attributes:
        space: the space.
        build: `architecture -> student`.
        largest: the architecture of the largest student, which need not fulfil the constraints of the space.
        widths: by the width of the stream, ascending, the largest architecture of this width.
        names: the dimensions on which the width depends.
        width_of: the width of the stream by the values of these dimensions.
        resizes_heads: whether the heads of some students have fewer channels than those of the largest.
        family: the table of the students; by default that of their transformers configuration.
        projection_head: see `InitializationConfig`.
    """

    space: SearchSpace
    build: Build
    largest: Architecture
    widths: Mapping[int, Architecture]
    names: tuple[str, ...]
    width_of: Mapping[tuple[Value, ...], int]
    resizes_heads: bool = False
    family: WeightTable | None = None
    projection_head: str | None = None

    @classmethod
    def of(
        cls,
        space: SearchSpace,
        build: Build,
        *,
        family: WeightTable | None = None,
        projection_head: str | None = None,
    ) -> ElasticSpace:
        """Find the largest architecture and the widths, by building students without weights.

        Raises:
            ConfigurationError: students of the space are no slices of the largest, or share nothing; all reasons in one
                error.
        """
        measure = _Measure(build, family)
        largest = _largest(space, measure)
        model = _built(build, largest)
        require_family(model, family, "student")
        allowed = AllowedArchitectures(space, largest)
        students = _smaller(space, build, allowed, largest)
        problems = _slice_problems(students, model, family=family, projection_head=projection_head)
        names = [] if problems else _names_of_width(space, measure, allowed, largest)
        found = _widths(space, measure, allowed, names, problems)
        raise_problems(problems)
        widths: dict[int, Architecture] = {}
        for width, architecture in found.values():
            widths.setdefault(width, architecture)
        width_of = {values: width for values, (width, _) in found.items()}
        return cls(
            space,
            build,
            largest,
            dict(sorted(widths.items())),
            tuple(names),
            width_of,
            any(_channels(student, family) != _channels(model, family) for student in students.values()),
            family,
            projection_head,
        )

    def kind(self, student: nn.Module) -> Kind:
        """Width and depth of a student."""
        _, base, table = require_family(student, self.family, "student")
        return table.width(base) or 0, table.depth(base)

    @property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of `NestedStudent`."""
        return {"family": self.family, "projection_head": self.projection_head}

    def variations(self, width: int) -> list[Architecture]:
        """Architectures of a width that differ from the largest of this width in one other dimension."""
        largest = self.widths[width]
        allowed = AllowedArchitectures(self.space, largest)
        fixed = {name: largest[name] for name in self.names}
        others = [name for name in self.space.dimensions if name not in self.names]
        found = (
            allowed.largest_with({**fixed, name: value}) for name in others for value in _values(self.space, name, 16)
        )
        return [architecture for architecture in found if architecture is not None]

    def draw(self, rng: np.random.Generator, width: int, small_share: float = 0.0) -> Architecture:
        """An architecture of this width, drawn at random from those that the space allows.

        Args:
            rng: the source of randomness.
            width: of the stream.
            small_share: architectures are drawn in proportion to the number of parameters in their blocks to the power
                of minus this number.

        Raises:
            ConfigurationError: none was found.
        """
        for _ in range(_DRAWS):
            drawn = self.space.sample(rng)
            if self.width_of.get(tuple(drawn[name] for name in self.names)) != width:
                continue
            size = self._size_or_none(drawn) if small_share else None  # one that cannot be built is an error later
            if size is None or rng.random() < (self._smallest(width) / size) ** small_share:
                return drawn
        raise ConfigurationError(
            f"elastic students are drawn from the space for each width, but none of width {width} was found in "
            f"{_DRAWS} draws; relax the constraints of the space, or list fewer widths."
        )

    def _smallest(self, width: int) -> int:
        """The number of parameters in the blocks of the student of this width with the smallest values."""
        if width not in self._least:
            smallest = dict(self.widths[width])
            for name in self.space.dimensions:
                if name not in self.names:
                    options = [{**smallest, name: value} for value in _values(self.space, name, 16)]
                    sizes = {one[name]: size for one in options if (size := self._size_or_none(one)) is not None}
                    smallest[name] = min(sizes, key=lambda value: sizes[value], default=smallest[name])
            self._least[width] = self._size_or_none(smallest) or self._size(self.widths[width])
        return self._least[width]

    def _size_or_none(self, architecture: Architecture) -> int | None:
        with contextlib.suppress(Exception):  # the space may forbid it: the builder raises what it likes
            return self._size(architecture)
        return None

    def _size(self, architecture: Architecture) -> int:
        """The number of parameters in the blocks of a student."""
        key = tuple(architecture.items())
        if key not in self._sizes:
            _, base, table = require_family(structure(self.build, architecture), self.family, "student")
            self._sizes[key] = max(1, _size(base.get_submodule(table.blocks)))
        return self._sizes[key]

    @cached_property
    def _sizes(self) -> dict[tuple[tuple[str, Value], ...], int]:
        return {}

    @cached_property
    def _least(self) -> dict[int, int]:
        return {}


def structure(build: Build, architecture: Architecture) -> nn.Module:
    """A student without weights, in eval mode; its buffers are as always."""
    with without_random_weights():
        return release(build(architecture)).eval()


def _built(build: Build, largest: Architecture) -> nn.Module:
    try:
        return structure(build, largest)
    except Exception as error:
        raise ConfigurationError(
            "elastic students are slices of one student with the largest value of each dimension, which model_builder "
            f"must be able to build, but for {largest} it raised {type(error).__name__}: {error}; let the number of "
            "heads follow from the width (constraints: [hidden_size == 64 * num_attention_heads])."
        ) from error


class _Measure:
    """Sizes of students."""

    def __init__(self, build: Build, family: WeightTable | None) -> None:
        self._build, self._family = build, family

    def width(self, architecture: Architecture) -> int:
        _, base, table = require_family(structure(self._build, architecture), self._family, "student")
        return table.width(base) or 0

    def parameters(self, architecture: Architecture) -> int:
        return _size(structure(self._build, architecture))


def _values(space: SearchSpace, name: str, most: int) -> list[Value]:
    """The values of a dimension; of a long range some that are spread over it."""
    domain = space.dimensions[name]
    size = domain.size
    if size is not None and size <= most:
        return list(domain.values())
    rng = np.random.default_rng(0)
    return list(dict.fromkeys(domain.sample(rng) for _ in range(most)))


def _largest(space: SearchSpace, measure: _Measure) -> Architecture:
    """The value of each dimension with which a student has the most parameters, with the largest numbers elsewhere."""
    largest = {name: _largest_number(space, name) for name in space.dimensions}
    for name in largest:
        values = _values(space, name, 16)
        if not all(isinstance(value, int | float) for value in values):
            sizes = {value: measure.parameters({**largest, name: value}) for value in values}
            largest[name] = max(sizes, key=lambda value: sizes[value])
    return largest


def _largest_number(space: SearchSpace, name: str) -> Value:
    domain: Any = space.dimensions[name]
    if hasattr(domain, "high"):
        values: Sequence[Any] = domain.values() if domain.size is not None else [domain.high]
    else:
        values = domain.values()
    numbers = [value for value in values if isinstance(value, int | float)]
    return max(numbers) if numbers else values[0]


def _smaller(
    space: SearchSpace, build: Build, allowed: AllowedArchitectures, largest: Architecture
) -> dict[str, nn.Module]:
    """Students that differ from the largest in one dimension and those that are tied to it, by its name and value."""
    students: dict[str, nn.Module] = {}
    for name in space.dimensions:
        for value in _values(space, name, 16):
            architecture = allowed.largest_with({name: value}) if value != largest[name] else None
            if architecture is not None:
                with contextlib.suppress(Exception):  # the builder raises what it likes
                    students[f"{name}={value!r}"] = structure(build, architecture)
    return students


def _slice_problems(students: Mapping[str, nn.Module], model: nn.Module, **options: Any) -> list[str]:
    """The reasons why students are no slices of the largest."""
    problems: list[str] = []
    for name, student in students.items():
        try:
            NestedStudent(student, model, **options)
        except ConfigurationError as error:
            problems += [f"elastic: {name}: {problem}" for problem in error.problems]
    if not problems and all(_size(student) == _size(model) for student in students.values()):
        problems.append(
            "elastic students share the weights of smaller and larger ones, but the students of this space all have "
            "the same size; leave elastic out, or let a dimension of the space change what model_builder returns."
        )
    return problems


def _channels(model: nn.Module, family: WeightTable | None) -> int:
    """The channels of its heads."""
    _, base, table = require_family(model, family, "student")
    return table.heads(base).channels


def _size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def _names_of_width(
    space: SearchSpace, measure: _Measure, allowed: AllowedArchitectures, largest: Architecture
) -> list[str]:
    """The dimensions of which another value changes the width of the largest student."""
    whole = measure.width(largest)
    return [
        name
        for name in space.dimensions
        if any(
            _width_or_none(measure, allowed.largest_with({name: value})) not in (None, whole)
            for value in _values(space, name, 16)
        )
    ]


def _widths(
    space: SearchSpace, measure: _Measure, allowed: AllowedArchitectures, names: Sequence[str], problems: list[str]
) -> dict[tuple[Value, ...], tuple[int, Architecture]]:
    """The width and its largest architecture by the values of these dimensions, the largest values first."""
    domains = [space.dimensions[name] for name in names]
    count = math.prod(_MOST_WIDTHS + 1 if domain.size is None else domain.size for domain in domains)
    if count > _MOST_WIDTHS:
        problems.append(
            "every width of the space has an elastic student of its own, of which there may be "
            f"{_MOST_WIDTHS}, but {' and '.join(names)} have more values; list fewer, such as [64, 128, 256]."
        )
        return {}
    options = [sorted(domain.values(), key=_descending) for domain in domains]
    found = {}
    for values in itertools.product(*options):
        architecture = allowed.largest_with(dict(zip(names, values, strict=True)))
        width = _width_or_none(measure, architecture)
        if architecture is not None and width is not None:
            found[values] = width, architecture
    return found


def _descending(value: Value) -> tuple[bool, float, str]:
    """Numbers come after other values, the largest first."""
    return (True, -value, "") if isinstance(value, int | float) else (False, 0, str(value))


def _width_or_none(measure: _Measure, architecture: Architecture | None) -> int | None:
    """The width of a student; None if there is none, or it cannot be built."""
    if architecture is not None:
        with contextlib.suppress(Exception):
            return measure.width(architecture)
    return None
