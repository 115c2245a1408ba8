"""The hints at the end of messages."""

from __future__ import annotations

import pytest

from search_spaces.checks import did_you_mean


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("laiers", ["layers", "width"], "did you mean 'layers'?"),
        ("LAYERS", ["layers", "width"], "did you mean 'layers'?"),
        ("layer", ["Layers", "LAYERS"], "did you mean 'Layers'?"),
        ("layer.1", ["layer.10", "layer.11", "layers.1"], "did you mean 'layers.1' or 'layer.11' or 'layer.10'?"),
        ("momentum", ["layers", "width"], "known: 'layers', 'width'"),
        (3, ["layers"], "known: 'layers'"),
        ("depth", [], "known: "),
    ],
)
def test_similar_names_are_suggested_and_without_any_all_are_listed(name: object, known: list[str], hint: str) -> None:
    assert did_you_mean(name, known) == hint


def test_caller_limits_the_suggestions_and_says_what_replaces_them() -> None:
    assert did_you_mean("layer.1", ["layer.10", "layers.1"], most=1) == "did you mean 'layers.1'?"
    assert did_you_mean("layer.3", ["bert.encoder.layer.3"], "see its layers.") == "see its layers."
    assert did_you_mean("layer.3", ["bert.encoder.layer.3"], similarity=0.5) == "did you mean 'bert.encoder.layer.3'?"
    assert did_you_mean("depth", ["layers"], "") == ""
