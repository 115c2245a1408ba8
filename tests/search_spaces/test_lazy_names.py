"""Names that a package imports from their modules when they are first used."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict

import pytest

from search_spaces.lazy_names import lazy_names


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    """A package with one name of the standard library."""
    module = types.ModuleType("lazy_package")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    module.__getattr__, module.__dir__ = lazy_names(module.__name__, {"OrderedDict": "collections"})  # type: ignore[method-assign]
    return module


def test_name_is_the_object_of_its_module_and_is_looked_up_once(package: types.ModuleType) -> None:
    assert "OrderedDict" not in vars(package)
    assert package.OrderedDict is OrderedDict
    assert vars(package)["OrderedDict"] is OrderedDict


def test_unknown_name_is_an_attribute_error_that_names_the_package(package: types.ModuleType) -> None:
    with pytest.raises(AttributeError, match="module 'lazy_package' has no attribute 'Counter'"):
        _ = package.Counter


def test_names_are_listed_before_they_are_imported(package: types.ModuleType) -> None:
    assert {"OrderedDict", "__name__"} <= set(dir(package))
    assert "OrderedDict" not in vars(package)
