"""The space of architectures: named dimensions, and constraints that determine which combinations exist."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from search_spaces.checks import did_you_mean
from search_spaces.components import Component, product, split
from search_spaces.constraints import (
    Architecture,
    Constraint,
    ConstraintSpec,
    Expression,
    enumerate_feasible,
    make_constraint,
)
from search_spaces.domains import Choice, Domain, Value, Vector, domain_from_json
from search_spaces.errors import SearchSpaceError


class SearchSpace:
    """A space of architectures.

    `dimensions` maps each name to a domain; a plain list is a `Choice`. `constraints` are expressions over the names
    (`"hidden_size % num_attention_heads == 0"`) or functions of the architecture that return True or False; a
    combination that breaks one does not exist. Raises `SearchSpaceError` with every mistake in the description.

    >>> space = SearchSpace(
    ...     {"hidden_size": [128, 192, 256], "num_attention_heads": [2, 3, 4]},
    ...     constraints=["hidden_size % num_attention_heads == 0"],
    ... )
    >>> space.size, space.grid_size
    (7, 9)
    >>> next(space.enumerate())
    {'hidden_size': 128, 'num_attention_heads': 2}
    >>> {"hidden_size": 128, "num_attention_heads": 3} in space
    False
    """

    def __init__(
        self,
        dimensions: Mapping[str, Domain | Sequence[Value]],
        constraints: Sequence[ConstraintSpec] = (),
    ) -> None:
        problems: list[str] = []
        self._dimensions = _read_dimensions(dimensions, problems)
        self._rules = _read_constraints(constraints, list(dimensions), problems)
        if problems:
            raise SearchSpaceError(*problems)
        self._specs = tuple(constraints)

    @property
    def dimensions(self) -> Mapping[str, Domain]:
        """The domain of each dimension, in the order of the argument (read-only)."""
        return MappingProxyType(self._dimensions)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the dimensions, in order."""
        return tuple(self._dimensions)

    @property
    def constraints(self) -> tuple[ConstraintSpec, ...]:
        """The constraints as they were passed."""
        return self._specs

    @cached_property
    def _components(self) -> list[Component]:
        return split(self._dimensions, self._rules)

    @property
    def is_finite(self) -> bool:
        """Whether no dimension is a `FloatRange`."""
        return self.grid_size is not None

    @cached_property
    def grid_size(self) -> int | None:
        """Number of combinations, constraints ignored; `None` when infinite."""
        return product([domain.size for domain in self._dimensions.values()])

    @cached_property
    def size(self) -> int | None:
        """Number of architectures; `None` when infinite, or too expensive to count.

        The count is exact. It is taken for each group of dimensions that constraints connect; a group with more than
        2,000,000 combinations is not counted (`grid_size` is then an upper bound). A constraint that is a function
        connects all dimensions.
        """
        return product([component.size for component in self._components])

    def enumerate(self) -> Iterator[Architecture]:
        """All architectures, lexicographic in the order of the dimensions, lazily.

        Raises `SearchSpaceError` for a space with a `FloatRange`.
        """
        floats = [name for name, domain in self._dimensions.items() if domain.size is None]
        if floats:
            raise SearchSpaceError(
                f"a space with infinitely many values cannot be enumerated: {', '.join(floats)} are FloatRange; "
                "list their values, or sample"
            )
        return enumerate_feasible(self._dimensions, self._rules)

    def sample(self, rng: np.random.Generator) -> Architecture:
        """A random architecture, uniform over those that exist (a `log` range: uniform in the logarithm).

        Combinations are drawn until one keeps the constraints; a space where that is rare is enumerated, if possible.
        Raises `SearchSpaceError` when none exists, or when none was found (with the number of draws).

        >>> SearchSpace({"layers": [2, 4]}).sample(np.random.default_rng(0))
        {'layers': 4}
        """
        drawn: Architecture = {}
        for component in self._components:
            drawn.update(component.sample(rng))
        return {name: drawn[name] for name in self._dimensions}

    def ensure_feasible(self) -> None:
        """Raises `SearchSpaceError`, naming the constraint at fault, when no architecture exists (or is found)."""
        rng = np.random.default_rng(0)
        problems: list[str] = []
        for component in self._components:
            try:
                component.sample(rng)
            except SearchSpaceError as error:
                problems.extend(error.problems)
        if problems:
            raise SearchSpaceError(*problems)

    def validate(self, architecture: Mapping[str, object]) -> Architecture:
        """The architecture in the form that this space uses: its key order, Python scalars, `2` for `2.0`.

        Raises `SearchSpaceError` with every mistake: a missing or unknown dimension, a value outside its
        domain (with the nearest ones), a broken constraint.

        >>> SearchSpace({"layers": [2, 4], "width": [64]}).validate({"width": np.int64(64), "layers": 2.0})
        {'layers': 2, 'width': 64}
        """
        if not isinstance(architecture, Mapping):
            raise SearchSpaceError(f"an architecture must be a mapping of {list(self.names)}, but got {architecture!r}")
        problems = [
            f"unknown dimension {name!r}; {did_you_mean(name, self.names)}"
            for name in architecture
            if name not in self._dimensions
        ]
        canonical: Architecture = {}
        for name, domain in self._dimensions.items():
            if name not in architecture:
                problems.append(f"dimension {name!r} is missing")
                continue
            try:
                canonical[name] = domain.canonical(architecture[name])
            except SearchSpaceError as error:
                problems.append(f"{name}: {error}")
        if not problems:
            problems = [
                f"constraint {rule.text!r} is broken by {_read_by(rule, canonical)}"
                for rule in self._rules
                if not rule.holds(canonical)
            ]
        if problems:
            raise SearchSpaceError(*problems)
        return canonical

    def __contains__(self, architecture: object) -> bool:
        try:
            self.validate(architecture)  # type: ignore[arg-type]
        except SearchSpaceError:
            return False
        return True

    def key(self, architecture: Mapping[str, object]) -> str:
        """An identifier of the architecture, equal for equal architectures: 16 hexadecimal digits that never change.

        It does not depend on the order of the dimensions. Raises `SearchSpaceError` like `validate`.

        >>> SearchSpace({"layers": [2, 4]}).key({"layers": 2})
        '868b289781a58a4c'
        """
        return _digest(self.validate(architecture), sort_keys=True)

    @property
    def width(self) -> int:
        """Length of an encoded architecture."""
        return sum(domain.width for domain in self._dimensions.values())

    def encode(self, architectures: Sequence[Mapping[str, object]]) -> Vector:
        """Architectures as rows of numbers in [0, 1], of shape (len(architectures), width).

        A `Choice` is one-hot, a range is one number. The architectures must have the form that `validate` returns.
        """
        columns = [
            domain.encode_all([architecture[name] for architecture in architectures])  # type: ignore[misc]
            for name, domain in self._dimensions.items()
        ]
        return np.concatenate(columns, axis=1)

    def decode(self, vector: npt.ArrayLike) -> Architecture:
        """The combination whose encoding is nearest to `vector`, of shape (width,), in each dimension.

        The inverse of `encode` (for a `FloatRange` up to rounding). Constraints are not considered.
        """
        row = np.asarray(vector, dtype=np.float64).reshape(-1)
        if row.shape != (self.width,):
            raise SearchSpaceError(f"an encoded architecture must have length {self.width}, but got {row.size}")
        ends = np.cumsum([domain.width for domain in self._dimensions.values()])
        parts = np.split(row, ends[:-1])
        return {name: domain.decode(part) for (name, domain), part in zip(self._dimensions.items(), parts, strict=True)}

    def neighbours(self, architecture: Mapping[str, object]) -> Iterator[Architecture]:
        """Architectures that differ from this one in one dimension, lazily.

        A `Choice` and an `IntRange` of at most 16 values take all their other values, a longer `IntRange` those 1, 2,
        4, … steps away, and a `FloatRange` those 1/64, 1/16 and 1/4 of the range away.
        """
        centre = self.validate(architecture)
        for name, domain in self._dimensions.items():
            touched = [rule for rule in self._rules if name in rule.names]
            for value in domain.neighbours(centre[name]):
                neighbour = {**centre, name: value}
                if all(rule.holds(neighbour) for rule in touched):
                    yield neighbour

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that are equal for equal descriptions, in every process and Python version.

        A constraint that is a function enters by its module and qualified name, not by what it does.
        """
        return _digest(self.to_json(), sort_keys=False)

    def to_json(self) -> dict[str, Any]:
        """A description for JSON. A constraint that is a function is stored by its name only."""
        rules = [rule.text if isinstance(rule, Expression) else {"function": rule.text} for rule in self._rules]
        return {
            "dimensions": {name: domain.to_json() for name, domain in self._dimensions.items()},
            "constraints": rules,
        }

    @classmethod
    def from_json(cls, description: Mapping[str, Any]) -> SearchSpace:
        """The space that `to_json` described.

        Raises `SearchSpaceError` when a constraint was a function: its code is not in the description.
        """
        constraints = description["constraints"]
        functions = [rule["function"] for rule in constraints if not isinstance(rule, str)]
        if functions:
            raise SearchSpaceError(
                f"a constraint given as a function cannot be read back: {', '.join(functions)}; "
                "build the SearchSpace in code, or write the constraint as an expression"
            )
        dimensions = {name: domain_from_json(domain) for name, domain in description["dimensions"].items()}
        return cls(dimensions, constraints)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SearchSpace) and self.fingerprint == other.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __reduce__(self) -> tuple[type[SearchSpace], tuple[dict[str, Domain], tuple[ConstraintSpec, ...]]]:
        return SearchSpace, (self._dimensions, self._specs)

    def __repr__(self) -> str:
        return f"SearchSpace({self._dimensions!r}, constraints={[rule.text for rule in self._rules]!r})"


def _read_dimensions(dimensions: object, problems: list[str]) -> dict[str, Domain]:
    if not isinstance(dimensions, Mapping):
        raise SearchSpaceError(f"dimensions must be a mapping from names to domains, but got {dimensions!r}")
    if not dimensions:
        problems.append("a search space needs at least one dimension, but got none")
    domains: dict[str, Domain] = {}
    for name, domain in dimensions.items():
        if not isinstance(name, str) or not name:
            problems.append(f"the name of a dimension must be a non-empty string, but got {name!r}")
            continue
        try:
            domains[name] = domain if isinstance(domain, Domain) else Choice(domain)
        except SearchSpaceError as error:
            problems.extend(f"{name}: {problem}" for problem in error.problems)
    return domains


def _read_constraints(constraints: object, names: list[Any], problems: list[str]) -> list[Constraint]:
    if isinstance(constraints, str) or not isinstance(constraints, Sequence):
        problems.append(f"constraints must be a list, but got {constraints!r}; write [{constraints!r}]")
        return []
    rules = []
    for spec in constraints:
        try:
            rules.append(make_constraint(spec, [name for name in names if isinstance(name, str)]))
        except SearchSpaceError as error:
            problems.extend(error.problems)
    return rules


def _read_by(rule: Constraint, architecture: Architecture) -> str:
    return ", ".join(f"{name}={architecture[name]!r}" for name in rule.names)


def _digest(description: Mapping[str, Any], *, sort_keys: bool) -> str:
    text = json.dumps(description, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
