from __future__ import annotations

import pytest

from search_spaces import Architecture, SearchSpace, SearchSpaceError


def feasible(constraint: object) -> list[tuple[object, ...]]:
    dimensions = {"a": [1, 2, 3, 4], "on": [False, True], "act": ["gelu", "relu"]}
    space = SearchSpace(dimensions, [constraint])  # type: ignore[list-item]
    return [tuple(architecture.values()) for architecture in space.enumerate()]


GRID = [(a, on, act) for a in (1, 2, 3, 4) for on in (False, True) for act in ("gelu", "relu")]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("a % 2 == 0", lambda a, on, act: a % 2 == 0),
        ("1 < a <= 3", lambda a, on, act: 1 < a <= 3),
        ("act in ['gelu', 'silu']", lambda a, on, act: act in ["gelu", "silu"]),
        ("act not in ('gelu',) and not on", lambda a, on, act: act != "gelu" and not on),
        ("on or a > 2", lambda a, on, act: on or a > 2),
        ("max(a, 3) == 3 and min(a, 2) == 2", lambda a, on, act: max(a, 3) == 3 and min(a, 2) == 2),
        ("abs(a - 2) <= 1 and round(a / 4) == 0", lambda a, on, act: abs(a - 2) <= 1 and round(a / 4) == 0),
        ("(a if on else 5 - a) > 2", lambda a, on, act: (a if on else 5 - a) > 2),
        ("on", lambda a, on, act: on),
    ],
)
def test_an_expression_means_what_python_means(text: str, rule: object) -> None:
    assert feasible(text) == [point for point in GRID if rule(*point)]  # type: ignore[operator]


def test_a_function_receives_the_whole_architecture_and_cannot_change_it() -> None:
    def shallow(architecture: Architecture) -> bool:
        answer = architecture["a"] == 1
        architecture["a"] = 99
        return answer

    assert feasible(shallow) == [point for point in GRID if point[0] == 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("b > 1", "constraint 'b > 1' names an unknown dimension 'b'; known: 'a', 'on', 'act'"),
        ("act2 == 'gelu'", "constraint \"act2 == 'gelu'\" names an unknown dimension 'act2'; did you mean 'act'?"),
        ("pow(a, 2) > 1", "constraint 'pow(a, 2) > 1' calls 'pow'; known: 'abs', 'len', 'max', 'min', 'round', 'sum'"),
        ("a = 1", "constraint 'a = 1' must be one expression; compare with `==`, join parts with `and`"),
        ("a > 1; on", "constraint 'a > 1; on' must be one expression; compare with `==`, join parts with `and`"),
        ("", "constraint '' must be one expression; compare with `==`, join parts with `and`"),
        ("1 == 1", "constraint '1 == 1' names no dimension; known: 'a', 'on', 'act'"),
        (
            "a.real > 1",
            "constraint 'a.real > 1' uses Attribute, which expressions do not have; pass a function instead",
        ),
        (
            "min(x for x in [a]) > 1",
            "constraint 'min(x for x in [a]) > 1' uses comprehension, which expressions do not have; "
            "pass a function instead",
        ),
    ],
)
def test_a_mistaken_expression_is_refused_when_the_space_is_made(text: str, message: str) -> None:
    with pytest.raises(SearchSpaceError) as error:
        feasible(text)
    assert str(error.value) == message


@pytest.mark.parametrize("text", ["__import__('os').system('true') == a", "(lambda: a)() == 1", "open(a) == 1"])
def test_an_expression_reaches_nothing_but_the_dimensions(text: str) -> None:
    with pytest.raises(SearchSpaceError):
        feasible(text)


@pytest.mark.parametrize(
    ("constraint", "message"),
    [
        ("8 % (a - 2) == 0", r"constraint '8 % \(a - 2\) == 0' failed on \{'a': 2\}: ZeroDivisionError"),
        ("act > a", r"constraint 'act > a' failed on \{'a': 1, 'act': 'gelu'\}: TypeError"),
    ],
)
def test_a_constraint_that_raises_is_reported_with_the_values(constraint: str, message: str) -> None:
    with pytest.raises(SearchSpaceError, match=message):
        feasible(constraint)


@pytest.mark.parametrize("constraint", ["a % 2", lambda architecture: None])
def test_a_constraint_that_returns_neither_true_nor_false_is_an_error(constraint: object) -> None:
    with pytest.raises(SearchSpaceError, match="must return True or False, but returned"):
        feasible(constraint)


LONG = "act in ['gelu', " + "'x', " * 390 + "]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("round(a, -10**7) == 0", r"failed on \{'a': 1\}: ValueError: round takes at most 400 digits"),
        ("round(a, 10**7) == 0", "ValueError: round takes at most 400 digits"),
        ("a < 4000000 ** 4000000", "OverflowError: integers have at most 4096 bits here"),
        ("a < 2 ** 2 ** 2 ** 2 ** 2 ** 2", "OverflowError: integers have at most 4096 bits here"),
        ("a < 1 << 10 ** 12", "OverflowError: integers have at most 4096 bits here"),
        ("a < " + " * ".join(["9" * 400] * 4), "OverflowError: integers have at most 4096 bits here"),
        ("a < 10.0 ** 10 ** 9", "OverflowError"),
        ("[a] * 100000 == [a]", r"TypeError: \* is the product of numbers here; it does not repeat text or lists"),
        ("100000 * act == act", r"TypeError: \* is the product of numbers here"),
        (
            "a == 1 or " * 300 + "on",
            r"must have at most 2,000 characters, but 'a == 1 or .*'… has 3,002; pass a function",
        ),
        (
            "a < " + " + ".join(["a"] * 400),
            r"nested at most 100 levels deep, but 'a < a \+ .*'… is deeper; pass a function",
        ),
        ("-" * 1_900 + "a == 1", "nested at most 100 levels deep"),
        ("(" * 900 + "a" + ")" * 900, "is not an expression: too many nested parentheses"),
        ("a" + "()" * 900, "nested at most 100 levels deep"),
        ("a" + ".a" * 900, "nested at most 100 levels deep"),
        ("a < " + "9" * 1_900 + " ** 3", "OverflowError: integers have at most 4096 bits here"),
        (", ".join(f"b{n}" for n in range(300)), "names an unknown dimension 'b299'"),
    ],
)
def test_an_expression_that_would_take_forever_is_refused(text: str, message: str) -> None:
    with pytest.raises(SearchSpaceError, match=message):
        feasible(text)


def test_large_expressions_and_numbers_within_the_bounds_are_evaluated() -> None:
    assert len(LONG) > 1_900
    assert feasible(LONG) == [point for point in GRID if point[2] == "gelu"]
    assert feasible("a * 2 ** 4000 > 3 * 2 ** 4000 and round(a / 3, 3) > 1 and a << 4000 > 0 and 2.0 ** a == 16") == [
        point for point in GRID if point[0] == 4
    ]
    assert feasible("round(a, -1) == 0 and 2 ** -a == 0.5") == [point for point in GRID if point[0] == 1]
    assert feasible(" and ".join(["a > 1"] * 200)) == [point for point in GRID if point[0] > 1]
