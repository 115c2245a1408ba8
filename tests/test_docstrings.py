"""Every example in a docstring returns the output that it shows."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import advisors
import autodistill
import search_spaces

MODULES = [
    name
    for package in (search_spaces, advisors, autodistill)
    for name in (
        package.__name__,
        *(module.name for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")),
    )
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_return_the_output_that_they_show(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


@pytest.mark.parametrize("package", [search_spaces, advisors, autodistill], ids=lambda package: package.__name__)
def test_examples_are_found(package) -> None:
    finder, prefix = doctest.DocTestFinder(), package.__name__ + "."
    modules = [importlib.import_module(name) for name in MODULES if name.startswith(prefix)]
    assert sum(any(test.examples for test in finder.find(module)) for module in modules) >= len(modules) / 2
