"""The ways to write a student: one for each kind of family, each with all methods."""

from __future__ import annotations

from typing import Any

import pytest

from autodistill.initialization.channel_selection import ChannelSelection
from autodistill.initialization.from_teacher import start_method
from autodistill.initialization.projection import Projection
from autodistill.initialization.start_method import StartMethod
from autodistill.models.families import FAMILIES, ChannelFamily, WeightTable

TABLES = {name: family.weights for name, family in FAMILIES.items() if family.weights is not None}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_every_family_has_a_method_that_knows_it(table: WeightTable) -> None:
    method = start_method(table)
    assert type(method) is (ChannelSelection if isinstance(table, ChannelFamily) else Projection)
    assert method.family is table


def test_table_of_another_kind_has_no_method() -> None:
    with pytest.raises(TypeError, match="a table must be a Family or a ChannelFamily, but is a str"):
        start_method("bert")


def test_method_that_lacks_a_part_cannot_be_made() -> None:
    class Incomplete(StartMethod[Any]):
        def importance(self, setting: str) -> None:
            return None

    with pytest.raises(TypeError, match=r"abstract methods .*least_squares.*write"):
        Incomplete(TABLES["bert"])
