"""The repeated blocks of a model, and the modules outside of them."""

from __future__ import annotations

import pytest
from families import FAMILIES
from small_models import Deep, Transformer
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.blocks import block_rows, outside_of


def test_blocks_are_the_like_siblings_with_the_most_parameters() -> None:
    model = nn.Module()
    model.small = nn.ModuleList(nn.Linear(2, 2) for _ in range(9))
    model.encoder = nn.Module()
    model.encoder.layers = nn.ModuleList(nn.Linear(50, 50) for _ in range(3))
    assert block_rows(model) == [["encoder.layers.0", "encoder.layers.1", "encoder.layers.2"]]


def test_one_block_is_enough_in_a_list_and_not_in_a_sequential() -> None:
    assert block_rows(Deep(1)) == [["layer.0"]]
    assert block_rows(nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))) == [["0", "2"]]
    with pytest.raises(
        ConfigurationError, match="needs a ModuleList or Sequential of similar blocks, but Sequential has"
    ):
        block_rows(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))


def test_first_and_last_layer_of_one_class_are_not_the_blocks():
    model = FAMILIES["nn.Sequential"].student()
    assert type(model[0]) is type(model[-1])
    assert block_rows(model) == [["1", "2"]]


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


def test_containers_that_are_never_called_are_not_blocks() -> None:
    model = nn.ModuleList(nn.ModuleList(nn.Linear(size, size) for _ in range(2)) for size in (2, 3))
    assert block_rows(model) == [["1.0", "1.1"]]


def block(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.Conv1d(1, 1, 1))


def test_rows_of_blocks_are_large_lists_beside_each_other_and_not_inside_blocks() -> None:
    model = nn.Module()
    model.convolutions = nn.ModuleList(nn.Conv1d(9, 9, 3) for _ in range(2))  # one matrix each
    model.heads = nn.ModuleList(block(2) for _ in range(2))  # too small
    model.left = nn.ModuleList(block(9) for _ in range(3))
    model.right = nn.ModuleList(block(9) for _ in range(2))
    for outer in model.right:
        outer.experts = nn.ModuleList(block(9) for _ in range(2))  # inside blocks
    assert block_rows(model) == [["left.0", "left.1", "left.2"], ["right.0", "right.1"]]


@pytest.mark.parametrize("name", FAMILIES)
def test_models_with_one_tower_have_one_row_of_blocks(name) -> None:
    model = FAMILIES[name].student()
    rows = block_rows(model)
    if name.startswith("T5,"):
        assert rows == [[f"{half}.block.{i}" for i in range(3)] for half in ("encoder", "decoder")]
    elif name != "residual CNN":  # each of its stages is a row
        assert len(rows) == 1
