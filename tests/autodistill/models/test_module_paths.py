"""Modules by their dotted paths, whose components are compared whole."""

from __future__ import annotations

import pytest
from small_models import Deep
from torch import nn

from autodistill.errors import LayerNotFoundError
from autodistill.models.module_paths import find_module, is_inside, last_of_their_siblings


def test_path_is_found_by_whole_components() -> None:
    model = Deep()
    assert find_module(model, "layer.1") is model.layer[1]
    assert find_module(model, "layer.10") is model.layer[10]
    assert find_module(model, "") is model
    with pytest.raises(LayerNotFoundError):
        find_module(Deep(2), "layer.10")
    with pytest.raises(LayerNotFoundError):
        find_module(model, "laye")


def test_module_with_two_names_is_found_by_both() -> None:
    model = Deep(2)
    model.alias = model.layer[1]
    assert find_module(model, "alias") is find_module(model, "layer.1")


@pytest.mark.parametrize(
    ("path", "block", "inside"),
    [
        ("layer.1", "layer.1", True),
        ("layer.1.output", "layer.1", True),
        ("layer.10", "layer.1", False),
        ("layer.1", "layer.10", False),
        ("layer", "layer.1", False),
        ("anything", "", True),
        ("", "layer.1", False),
    ],
)
def test_inside_means_below_on_whole_components(path: str, block: str, inside: bool) -> None:
    assert is_inside(path, block) is inside


def test_missing_path_names_the_nearest_ones_and_the_owner() -> None:
    with pytest.raises(LayerNotFoundError) as caught:
        find_module(Deep(), "layers.10", "student")
    assert str(caught.value).startswith("the student (Deep) has no layer 'layers.10'; did you mean 'layer.10' or ")
    assert "'layer.1'" in str(caught.value)


def test_path_unlike_any_other_names_the_existing_ones() -> None:
    with pytest.raises(LayerNotFoundError, match=r"has no layer 'zzzz'; its layers begin with 'layer'\."):
        find_module(Deep(), "zzzz")
    with pytest.raises(LayerNotFoundError, match="it has no submodules"):
        find_module(nn.Linear(1, 1), "encoder")


@pytest.mark.parametrize(
    ("paths", "last"),
    [
        (["encoder.0", "encoder.1", "decoder.0", "decoder.1"], ["encoder.1"]),
        (["layer.0", "layer.1", "layer.10"], []),
        (["stage.0.0", "stage.0.1", "stage.1.0", "head"], ["stage.0.1", "stage.1.0"]),
        (["layer.0"], []),
        ([], []),
    ],
    ids=str,
)
def test_last_siblings_are_those_followed_by_a_path_elsewhere(paths: list[str], last: list[str]) -> None:
    assert last_of_their_siblings(paths) == last
