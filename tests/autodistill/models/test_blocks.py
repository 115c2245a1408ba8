"""The repeated blocks of a model, and the modules outside of them."""

from __future__ import annotations

import pytest
from families import FAMILIES
from small_models import Deep, Transformer
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.blocks import outside_of, repeated_blocks


def test_blocks_are_the_like_siblings_with_the_most_parameters() -> None:
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    model.encoder = nn.Module()
    model.encoder.layers = nn.ModuleList(nn.Linear(50, 50) for _ in range(3))
    assert repeated_blocks(model) == ["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]


def test_one_block_is_enough_in_a_list_and_not_in_a_sequential() -> None:
    assert repeated_blocks(Deep(1)) == ["layer.0"]
    assert repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == ["0", "2"]
    with pytest.raises(
        ConfigurationError, match="needs a ModuleList or Sequential of similar blocks, but Sequential has"
    ):
        repeated_blocks(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_first_and_last_layer_of_one_class_are_not_the_blocks():
    model = FAMILIES["nn.Sequential"].student()
    assert type(model[0]) is type(model[-1])
    assert repeated_blocks(model) == ["1", "2"]


def test_modules_outside_the_blocks_are_the_largest_without_a_block() -> None:
    model = Transformer(8, 2)
    assert outside_of(model, ["layers.0", "layers.1"]) == ["embedding", "head"]
    assert outside_of(model, ["layers.1"]) == ["embedding", "layers.0", "head"]
    assert outside_of(model, ["embedding", "layers", "head"]) == []


def test_sibling_of_a_block_is_outside_unless_it_has_no_parameters() -> None:
    inner = nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2))
    assert outside_of(nn.Sequential(nn.ReLU(), inner), ["1.0"]) == ["1.2"]


def test_block_whose_name_begins_alike_is_outside() -> None:
    others = [f"layer.{number}" for number in range(12) if number != 1]
    assert outside_of(Deep(12), ["layer.1"]) == others
