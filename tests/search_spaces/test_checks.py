"""Checks of the arguments of domains, and the hints in their messages."""

from __future__ import annotations

import math

import numpy as np
import pytest

from search_spaces.checks import (
    did_you_mean,
    float_range_problems,
    int_range_problems,
    is_number,
    nearest,
    option_problems,
    plain,
)


def test_numpy_scalars_become_those_of_python_and_booleans_are_no_numbers() -> None:
    values = [plain(value) for value in (np.int64(3), np.float64(0.5), np.bool_(True), "x", None)]
    assert [type(value) for value in values] == [int, float, bool, str, type(None)]
    assert [is_number(value) for value in values] == [True, True, False, False, False]


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


@pytest.mark.parametrize(
    ("value", "options", "hint"),
    [
        (5, [1, 4, 8], "nearest: 4, 8"),
        (2.5, [1, 2], "nearest: 2, 1"),
        (10**400, [1, 2], "nearest: 1, 2"),
        ("gelo", ["gelu", "relu"], "did you mean 'gelu'?"),
        (5, [1, "x"], "known: 1, 'x'"),
        (True, [1, 2], "known: 1, 2"),
    ],
)
def test_nearest_options_are_two_numbers_or_similar_words_or_all(
    value: object, options: list[object], hint: str
) -> None:
    assert nearest(value, options) == hint


def test_all_problems_of_options_are_found_and_good_options_have_none() -> None:
    assert option_problems((1, 2.5, "x", None, False)) == []
    problems = option_problems((1, 1.0, math.nan, {2}))
    assert [problem.split(",")[0] for problem in problems] == [
        "options must differ",
        "an option must be finite",
        "an option must be a number",
    ]


@pytest.mark.parametrize(
    ("arguments", "rules"),
    [
        ((1, 9, 2, False), []),
        ((4, 1, 1, False), ["`low <= high` must hold"]),
        ((1, 4, 2, False), ["`step` must divide `high - low`"]),
        ((0, 4, 0, True), ["`step >= 1` must hold", "`low >= 1` must hold with `log=True`", "`log=True` cannot be"]),
        ((True, 4, 1, False), ["`low`, `high` and `step` must be integers"]),
    ],
)
def test_every_rule_that_an_integer_range_breaks_is_named(
    arguments: tuple[int, int, int, bool], rules: list[str]
) -> None:
    problems = int_range_problems(*arguments)
    assert len(problems) == len(rules)
    assert all(problem.startswith(rule) for problem, rule in zip(problems, rules, strict=True))


@pytest.mark.parametrize(
    ("arguments", "rules"),
    [
        ((0, 1, False), []),
        ((1, 1, False), ["`low < high` must hold"]),
        ((1, 0, True), ["`low < high` must hold"]),
        ((1, -1, True), ["`low < high` must hold"]),
        ((-2, -1, True), ["`low > 0` must hold with `log=True`"]),
        ((0, math.nan, False), ["`low` and `high` must be finite numbers"]),
    ],
)
def test_every_rule_that_a_float_range_breaks_is_named(arguments: tuple[float, float, bool], rules: list[str]) -> None:
    problems = float_range_problems(*arguments)
    assert len(problems) == len(rules)
    assert all(problem.startswith(rule) for problem, rule in zip(problems, rules, strict=True))
