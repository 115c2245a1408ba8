"""Layer mappings: every accepted form of a pair of taps, every refused one, and which blocks are paired."""

from __future__ import annotations

import math

import pytest

from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping, automatic_mapping, parse_mapping
from autodistill.models.taps import Tap


def first(output):
    return output[0]


@pytest.mark.parametrize(
    ("spec", "student", "teacher"),
    [
        (("s", "t"), Tap("s"), Tap("t")),
        (["s", "t"], Tap("s"), Tap("t")),
        (("s", "1", "t", "1"), Tap("s", "1"), Tap("t", "1")),
        (["s", 1, "t", 0], Tap("s", "1"), Tap("t", "0")),
        (("s", "", "t", "logits"), Tap("s"), Tap("t", "logits")),
        (("s", first, "t", "0"), Tap("s", first), Tap("t", "0")),
        ([("s", "1"), ("t", "1")], Tap("s", "1"), Tap("t", "1")),
        ([["s", 1], ["t", 2]], Tap("s", "1"), Tap("t", "2")),
        ([("s", first), ("t",)], Tap("s", first), Tap("t")),
        ([("s",), ("t",)], Tap("s"), Tap("t")),
        ([("s",)], Tap("s"), Tap("s")),
        (("s",), Tap("s"), Tap("s")),
        (LayerMapping(Tap("s"), Tap("t", "0")), Tap("s"), Tap("t", "0")),
    ],
)
def test_every_accepted_form_is_normalised(spec, student: Tap, teacher: Tap) -> None:
    assert parse_mapping(spec) == LayerMapping(student, teacher)


@pytest.mark.parametrize(
    "spec",
    [
        "s",
        (),
        (1, 2),
        ("s", 1),
        ("s", "t", "u"),
        ("s", "1", "t", "1", "x"),
        [("s", "1", "x"), ("t",)],
        [[]],
        None,
        3,
        {"s": "t"},
        [("s", "1"), "t"],
        [("s", "1")],
        [("s",), ("t",), ("u",)],
    ],
)
def test_every_other_form_is_refused_with_the_value(spec) -> None:
    with pytest.raises(ConfigurationError, match="a layer mapping is") as caught:
        parse_mapping(spec)
    assert f"but got {spec!r}." in str(caught.value)


@pytest.mark.parametrize("spec", [("s", None, "t", "1"), [("s", 1.5), ("t", "1")], ("s", "1", "t", True)])
def test_output_process_of_another_kind_is_refused(spec) -> None:
    with pytest.raises(ConfigurationError, match="an output process is '', a numeric string, a key or a callable"):
        parse_mapping(spec)


@pytest.mark.parametrize("students", range(1, 13))
@pytest.mark.parametrize("teachers", [1, 4, 6, 12, 24])
def test_automatic_mapping_follows_the_formula_and_ends_on_the_last_block(students: int, teachers: int) -> None:
    mapping = automatic_mapping(students, teachers)
    assert mapping == [math.ceil((i + 1) * teachers / students) - 1 for i in range(students)]
    assert mapping == sorted(mapping)
    assert mapping[-1] == teachers - 1
    assert mapping[0] >= 0
