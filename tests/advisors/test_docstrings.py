from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import advisors

MODULES = [f"advisors.{module.name}" for module in pkgutil.iter_modules(advisors.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_the_docstrings_give_what_they_show(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), raise_on_error=False)
    assert results.failed == 0


def test_most_modules_have_examples() -> None:
    finder = doctest.DocTestFinder()
    with_examples = [
        name for name in MODULES if any(test.examples for test in finder.find(importlib.import_module(name)))
    ]
    assert len(with_examples) >= len(MODULES) / 2
