"""Constraints: which combinations of values exist, and the enumeration of those.

A constraint is an expression such as `"hidden_size % num_attention_heads == 0"` or a function of the architecture.
Expressions are evaluated by simpleeval, never by `eval`: they can use the dimensions, numbers and strings,
arithmetic, comparisons, `and`/`or`/`not`/`in`, `x if c else y` and a few functions, nothing else. They may come from
anybody: their length and depth, and the size of every intermediate value, are bounded, and so is the time they take.
"""

from __future__ import annotations

import ast
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import simpleeval

from search_spaces.checks import did_you_mean
from search_spaces.domains import Domain, Value
from search_spaces.errors import SearchSpaceError

Architecture = dict[str, Value]
"""One architecture: a mapping from the name of each dimension to its value, which JSON can represent."""

ConstraintSpec = str | Callable[[Architecture], bool]

MAX_CHARACTERS = 2_000
"""Of an expression."""

_MAX_DEPTH = 100  # levels of the syntax tree
_MAX_BITS = 4_096  # of an integer
_MAX_DIGITS = 400  # of `round`: no float has more, on either side of the decimal point


def _round(number: Any, digits: Any = None) -> Any:
    if digits is not None and abs(digits) > _MAX_DIGITS:
        raise ValueError(f"round takes at most {_MAX_DIGITS} digits")  # of an integer, it computes 10 ** -digits
    return round(number, digits)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": abs,
    "len": len,
    "max": max,
    "min": min,
    "round": _round,
    "sum": sum,
}


def _remainder(dividend: Any, divisor: Any) -> Any:
    if isinstance(dividend, str):
        raise TypeError("% is the remainder of numbers here; it does not format text")
    return dividend % divisor


def _product(left: Any, right: Any) -> Any:
    if hasattr(left, "__len__") or hasattr(right, "__len__"):
        raise TypeError("* is the product of numbers here; it does not repeat text or lists")
    _ensure_bits(_bits(left) + _bits(right))
    return left * right


def _power(base: Any, exponent: Any) -> Any:
    _ensure_bits(max(_bits(base) - 1, 0) * exponent if isinstance(exponent, int) else 0)
    return base**exponent


def _shifted(number: Any, bits: Any) -> Any:
    _ensure_bits(_bits(number) + bits)
    return number << bits


def _bits(number: Any) -> int:
    return number.bit_length() if isinstance(number, int) else 0


def _ensure_bits(bits: int) -> None:
    if bits > _MAX_BITS:
        raise OverflowError(f"integers have at most {_MAX_BITS} bits here")


_OPERATORS = simpleeval.DEFAULT_OPERATORS | {
    ast.Mod: _remainder,
    ast.Mult: _product,
    ast.Pow: _power,
    ast.LShift: _shifted,
}

_FORBIDDEN_SYNTAX = (ast.Attribute, ast.Lambda, ast.comprehension, ast.NamedExpr, ast.Starred, ast.JoinedStr)


class Constraint(ABC):
    """A rule that every architecture of a space must keep; `names` are the dimensions that it reads."""

    def __init__(self, text: str, names: Sequence[str]) -> None:
        self.text = text
        self.names = tuple(names)

    @abstractmethod
    def _evaluate(self, values: tuple[Value, ...]) -> object:
        """The result of the rule for the values of `names`."""

    def holds(self, architecture: Mapping[str, Value]) -> bool:
        """Whether a (canonical) architecture keeps the rule.

        Raises `SearchSpaceError` when the rule itself fails, or returns anything but true or false.
        """
        values = tuple(architecture[name] for name in self.names)
        try:
            answer = self._evaluate(values)
        except Exception as error:
            received = dict(zip(self.names, values, strict=True))
            raise SearchSpaceError(
                f"constraint {self.text!r} failed on {received}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(answer, (bool, np.bool_)):
            received = dict(zip(self.names, values, strict=True))
            raise SearchSpaceError(
                f"constraint {self.text!r} must return True or False, but returned {answer!r} on {received}; "
                "compare it with something, as in `a % b == 0`"
            )
        return bool(answer)


class Expression(Constraint):
    """A constraint written as text. Raises `SearchSpaceError` when the text is not a valid expression."""

    def __init__(self, text: str, dimensions: Sequence[str]) -> None:
        body = _parse(text, dimensions)
        super().__init__(text, _dimensions_read(text, body, dimensions))
        self._body = body
        self._evaluator = simpleeval.EvalWithCompoundTypes(operators=_OPERATORS, functions=dict(FUNCTIONS))
        # Parsed once and cached by value: a space evaluates the same few combinations many times.
        self._cached = lru_cache(maxsize=1 << 16, typed=True)(self._compute)

    def _evaluate(self, values: tuple[Value, ...]) -> object:
        return self._cached(*values)

    def _compute(self, *values: Value) -> object:
        self._evaluator.names = dict(zip(self.names, values, strict=True))
        return self._evaluator.eval(self.text, previously_parsed=self._body)


class Predicate(Constraint):
    """A constraint given as a function of the whole architecture."""

    def __init__(self, function: Callable[[Architecture], bool], dimensions: Sequence[str]) -> None:
        named = function if hasattr(function, "__qualname__") else type(function)
        super().__init__(f"{named.__module__}:{named.__qualname__}", dimensions)
        self._function = function

    def _evaluate(self, values: tuple[Value, ...]) -> object:
        return self._function(dict(zip(self.names, values, strict=True)))


def make_constraint(spec: object, dimensions: Sequence[str]) -> Constraint:
    """The constraint that `spec` describes. Raises `SearchSpaceError` when it describes none."""
    if isinstance(spec, str):
        return Expression(spec, dimensions)
    if callable(spec):
        return Predicate(spec, dimensions)
    raise SearchSpaceError(f"a constraint must be an expression or a function, but got {spec!r}")


def enumerate_feasible(dimensions: Mapping[str, Domain], constraints: Sequence[Constraint]) -> Iterator[Architecture]:
    """Every combination that keeps the constraints, lexicographic in the order of `dimensions`.

    Each constraint is checked as soon as its last dimension is set, so that a branch that breaks it is never entered.
    """
    names = list(dimensions)
    due: list[list[Constraint]] = [[] for _ in names]
    for constraint in constraints:
        due[max(names.index(name) for name in constraint.names)].append(constraint)
    assigned: Architecture = {}

    def extend(depth: int) -> Iterator[Architecture]:
        if depth == len(names):
            yield dict(assigned)
            return
        for value in dimensions[names[depth]].values():
            assigned[names[depth]] = value
            if all(constraint.holds(assigned) for constraint in due[depth]):
                yield from extend(depth + 1)

    return extend(0)


class _DottedNames(ast.NodeTransformer):
    """Reads `vision_config.hidden_size` as one name if it is a dimension."""

    def __init__(self, dimensions: Sequence[str]) -> None:
        self._dimensions = dimensions

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        """The name of a dimension, or the attribute as it is."""
        name = ast.unparse(node)
        return ast.copy_location(ast.Name(name, ast.Load()), node) if name in self._dimensions else node


def _parse(text: str, dimensions: Sequence[str]) -> ast.Expr:
    if len(text) > MAX_CHARACTERS:
        raise SearchSpaceError(
            f"a constraint must have at most {MAX_CHARACTERS:,} characters, but {text[:40]!r}… has {len(text):,}; "
            "pass a function instead"
        )
    try:
        tree = ast.parse(text.strip())
    except (SyntaxError, ValueError) as error:
        raise SearchSpaceError(f"constraint {text!r} is not an expression: {error}") from error
    except (RecursionError, MemoryError):  # of the parser, whatever memory there is
        raise _too_deep(text) from None
    if _depth(tree) > _MAX_DEPTH:
        raise _too_deep(text)
    statements = _DottedNames(dimensions).visit(tree).body
    if len(statements) != 1 or not isinstance(statements[0], ast.Expr):
        raise SearchSpaceError(f"constraint {text!r} must be one expression; compare with `==`, join parts with `and`")
    for node in ast.walk(statements[0]):
        if isinstance(node, _FORBIDDEN_SYNTAX):
            raise SearchSpaceError(
                f"constraint {text!r} uses {type(node).__name__}, which expressions do not have; "
                "pass a function instead"
            )
    return statements[0]


def _too_deep(text: str) -> SearchSpaceError:
    return SearchSpaceError(
        f"a constraint must be nested at most {_MAX_DEPTH} levels deep, but {text[:40]!r}… is deeper; "
        "pass a function instead"
    )


def _depth(tree: ast.AST) -> int:
    depth, level = 0, [tree]
    while level:
        depth, level = depth + 1, [child for node in level for child in ast.iter_child_nodes(node)]
    return depth


def _dimensions_read(text: str, body: ast.Expr, dimensions: Sequence[str]) -> list[str]:
    called = {id(node.func): node.func for node in ast.walk(body) if isinstance(node, ast.Call)}
    problems = [
        f"constraint {text!r} calls {ast.unparse(function)!r}; {did_you_mean(ast.unparse(function), FUNCTIONS)}"
        for function in called.values()
        if not isinstance(function, ast.Name) or function.id not in FUNCTIONS
    ]
    read = [node.id for node in ast.walk(body) if isinstance(node, ast.Name) and id(node) not in called]
    problems += [
        f"constraint {text!r} names an unknown dimension {name!r}; {did_you_mean(name, dimensions)}"
        for name in dict.fromkeys(read)
        if name not in dimensions
    ]
    if not problems and not read:
        problems.append(f"constraint {text!r} names no dimension; known: {', '.join(map(repr, dimensions))}")
    if problems:
        raise SearchSpaceError(*problems)
    return [name for name in dimensions if name in read]
