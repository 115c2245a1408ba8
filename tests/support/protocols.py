"""Compares a class with a protocol."""

from __future__ import annotations

import inspect


def signatures(kind: type) -> dict[str, list[str]]:
    """The public methods and attributes of a class, inherited ones too, with the names of their parameters."""
    members = {name: value for base in reversed(kind.__mro__[:-1]) for name, value in vars(base).items()}
    return {
        name: list(inspect.signature(value).parameters) if inspect.isfunction(value) else []
        for name, value in members.items()
        if not name.startswith("_")
    }


def differences(implementation: type, protocol: type) -> dict[str, object]:
    """The members of a protocol that a class lacks or takes with other parameters, each with what the class has."""
    there = signatures(implementation)
    return {name: there.get(name) for name, expected in signatures(protocol).items() if there.get(name) != expected}
