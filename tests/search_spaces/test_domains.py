from __future__ import annotations

import json
import math

import numpy as np
import pytest

from search_spaces import Choice, Domain, FloatRange, IntRange, SearchSpaceError, domain_from_json

DOMAINS: list[Domain] = [
    Choice([128, 256, 512]),
    Choice(["gelu", "relu", None, True]),
    Choice([0.5]),
    IntRange(2, 12, step=5),
    IntRange(-3, 3),
    IntRange(7, 7),
    IntRange(1, 1000),
    IntRange(1, 4096, log=True),
    FloatRange(0, 0.3),
    FloatRange(1e-5, 1e-1, log=True),
]


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_decoding_an_encoded_value_returns_it(domain: Domain) -> None:
    rng = np.random.default_rng(0)
    values = [domain.sample(rng) for _ in range(20)] if domain.size is None else domain.values()
    encoded = domain.encode_all(values)
    assert encoded.shape == (len(values), domain.width)
    assert encoded.min() >= 0
    assert encoded.max() <= 1 + 1e-15
    decoded = [domain.decode(row) for row in encoded]
    assert decoded == (pytest.approx(values, rel=1e-12) if domain.size is None else list(values))


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_a_domain_survives_json(domain: Domain) -> None:
    assert domain_from_json(json.loads(json.dumps(domain.to_json()))) == domain


@pytest.mark.parametrize("domain", DOMAINS, ids=repr)
def test_samples_are_in_the_domain_and_neighbours_are_other_values_of_it(domain: Domain) -> None:
    rng = np.random.default_rng(1)
    for value in [domain.sample(rng) for _ in range(20)]:
        assert domain.contains(value)
        assert type(value) in (bool, int, float, str, type(None))
        neighbours = domain.neighbours(value)
        assert all(domain.contains(neighbour) for neighbour in neighbours)
        assert value not in neighbours
        assert len(set(neighbours)) == len(neighbours)


@pytest.mark.parametrize("domain", [Choice([1, 2, 3]), IntRange(0, 10, step=5)], ids=repr)
def test_samples_of_a_finite_domain_are_uniform(domain: Domain) -> None:
    rng = np.random.default_rng(0)
    samples = [domain.sample(rng) for _ in range(3000)]
    for value in domain.values():
        # Three values, 3000 draws: the standard deviation of a count is 26.
        assert samples.count(value) == pytest.approx(1000, abs=130)


def test_a_log_range_is_sampled_uniformly_in_the_logarithm() -> None:
    rng = np.random.default_rng(0)
    for domain in (FloatRange(1, 10_000, log=True), IntRange(1, 10_000, log=True)):
        below = sum(float(domain.sample(rng)) < 100 for _ in range(2000))
        assert below == pytest.approx(1000, abs=110)


def test_a_log_range_is_encoded_by_the_logarithm() -> None:
    assert FloatRange(0.001, 1, log=True).encode(0.01)[0] == pytest.approx(math.log(10) / math.log(1000))
    assert IntRange(1, 256, log=True).encode(16)[0] == pytest.approx(0.5)
    assert IntRange(0, 10).encode(3)[0] == pytest.approx(0.3)


def test_a_choice_is_encoded_one_hot() -> None:
    np.testing.assert_array_equal(Choice(["a", "b", "c"]).encode_all(["c", "a"]), [[0, 0, 1], [1, 0, 0]])


def test_numbers_are_ordinal_and_everything_else_is_categorical() -> None:
    assert [domain.is_ordinal for domain in (Choice([1, 2.5]), IntRange(1, 2), FloatRange(0, 1))] == [True] * 3
    assert [Choice(options).is_ordinal for options in (["a"], [True, False], [1, None])] == [False] * 3


def test_values_are_converted_to_the_form_of_the_domain() -> None:
    canonical = Choice([2, "a", True]).canonical(np.int64(2))
    assert (canonical, type(canonical)) == (2, int)
    assert type(Choice([2]).canonical(2.0)) is int
    assert type(IntRange(1, 4).canonical(np.float32(3.0))) is int
    assert type(FloatRange(0, 4).canonical(3)) is float
    assert math.copysign(1, FloatRange(-1, 1).canonical(-0.0)) == 1


@pytest.mark.parametrize(
    ("domain", "value"),
    [
        (Choice([1, 2]), True),
        (Choice([True, False]), 1),
        (Choice([1, 2]), "1"),
        (Choice([1, 2]), [1]),
        (Choice([1, 2]), math.nan),
        (IntRange(0, 4), True),
        (IntRange(0, 4), 1.5),
        (IntRange(0, 4, step=2), 3),
        (IntRange(0, 4), math.inf),
        (IntRange(0, 4), None),
        (FloatRange(0, 1), True),
        (FloatRange(0, 1), math.nan),
        (FloatRange(0, 1), 1.0001),
        (FloatRange(0, 1), "0.5"),
    ],
)
def test_a_value_of_another_kind_or_outside_does_not_belong(domain: Domain, value: object) -> None:
    assert not domain.contains(value)


@pytest.mark.parametrize(
    ("domain", "value", "message"),
    [
        (Choice([128, 256, 512]), 300, "300 is not one of the options; nearest: 256, 128"),
        (Choice(["gelu", "relu"]), "gelo", "'gelo' is not one of the options; did you mean 'gelu'?"),
        (Choice(["gelu", True]), "x", "'x' is not one of the options; known: 'gelu', True"),
        (IntRange(2, 12, step=5), 8, "8 is not an integer from 2 to 12 in steps of 5; nearest: 7, 12"),
        (IntRange(2, 12), 99, "99 is not an integer from 2 to 12; nearest: 12"),
        (IntRange(2, 12), "a", "'a' is not an integer from 2 to 12"),
        (FloatRange(0, 1), 1.5, "1.5 is not a number from 0.0 to 1.0; nearest: 1.0"),
    ],
)
def test_the_error_for_a_value_outside_names_the_nearest_values(domain: Domain, value: object, message: str) -> None:
    with pytest.raises(SearchSpaceError) as error:
        domain.canonical(value)
    assert str(error.value) == message


def test_a_long_integer_range_has_neighbours_at_powers_of_two() -> None:
    assert IntRange(0, 100).neighbours(50) == [49, 51, 48, 52, 46, 54, 42, 58, 34, 66, 18, 82]
    assert IntRange(0, 10, step=5).neighbours(0) == [5, 10]


def test_a_float_range_has_neighbours_at_fractions_of_the_range() -> None:
    assert FloatRange(0, 64).neighbours(1.0) == [0.0, 2.0, 5.0, 17.0]


def test_a_huge_integer_range_is_not_listed() -> None:
    domain = IntRange(0, 10**15)
    assert domain.size == 10**15 + 1
    assert domain.contains(10**14)
    assert domain.decode(domain.encode(10**15)) == 10**15


@pytest.mark.parametrize(
    ("make", "problems"),
    [
        (lambda: Choice([]), ["a choice needs at least one option, but the list is empty"]),
        (lambda: Choice("gelu"), ["options must be a list, but got 'gelu'; write ['gelu']"]),
        (lambda: Choice(3), ["options must be a list, but got 3; write [3]"]),
        (
            lambda: Choice([1, True, {2}, math.inf]),
            [
                "options must differ, but 1 and True are equal; remove one",
                "an option must be a number, a string, a boolean, None, or a list of these, but got {2}",
                "an option must be finite, but got inf",
            ],
        ),
        (
            lambda: IntRange(3, 2, step=0),
            [
                "`low <= high` must hold, but got (low=3, high=2, step=0)",
                "`step >= 1` must hold, but got (low=3, high=2, step=0)",
            ],
        ),
        (
            lambda: IntRange(3, 10, step=2),
            ["`step` must divide `high - low`, but got (low=3, high=10, step=2); the last value reached is 9"],
        ),
        (
            lambda: IntRange(0, 4, step=2, log=True),
            [
                "`low >= 1` must hold with `log=True`, but got (low=0, high=4, step=2)",
                "`log=True` cannot be combined with a `step`, but got (low=0, high=4, step=2); list the values instead",
            ],
        ),
        (
            lambda: IntRange(0.5, 2),
            [
                "`low`, `high` and `step` must be integers, but got (low=0.5, high=2, step=1); "
                "use FloatRange for real numbers"
            ],
        ),
        (lambda: FloatRange(0, math.inf), ["`low` and `high` must be finite numbers, but got (low=0, high=inf)"]),
        (
            lambda: FloatRange(2, 2),
            ["`low < high` must hold, but got (low=2, high=2); a single value is written [2]"],
        ),
        (lambda: FloatRange(0, 2, log=True), ["`low > 0` must hold with `log=True`, but got (low=0, high=2)"]),
        (
            lambda: domain_from_json({"type": "set"}),
            ["a domain's `type` must be one of choice, int_range, float_range, but got 'set'"],
        ),
    ],
)
def test_every_mistake_in_a_domain_is_named(make: object, problems: list[str]) -> None:
    with pytest.raises(SearchSpaceError) as error:
        make()  # type: ignore[operator]
    assert list(error.value.problems) == problems


def test_a_description_with_unknown_arguments_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match="does not describe a domain"):
        domain_from_json({"type": "int_range", "low": 1, "top": 2})


def test_listing_a_float_range_is_an_error() -> None:
    with pytest.raises(SearchSpaceError, match="infinitely many values"):
        FloatRange(0, 1).values()


@pytest.mark.parametrize("log", [False, True])
@pytest.mark.parametrize(("low", "high"), [(1, 2**63), (1, 2**47), (3, 2**53 + 1), (2**60, 2**60 + 10), (2**62, 2**63)])
def test_long_integer_ranges_are_encoded_exactly(low: int, high: int, log: bool) -> None:
    domain = IntRange(low, high, log=log)
    drawn = np.random.default_rng(0).random(200)
    values = {low + round(share * (high - low)) for share in drawn} | {low, low + 1, high - 1, high}
    values |= {min(high, low + 2**power) for power in range(64)}
    encoded = domain.encode_all(sorted(values))
    assert [domain.decode(row) for row in encoded] == sorted(values)
    assert (np.diff(encoded[:, 0]) >= 0).all()
    assert encoded[:, 0].min() == 0
    assert encoded[:, 0].max() == 1
    assert np.abs(encoded[:, 1:]).max(initial=0) < 1e-9


def test_long_integer_ranges_have_steps_samples_and_nearest_values() -> None:
    domain = IntRange(-(2**63), 2**63, step=2**40)
    value = -(2**63) + 12_345_678 * 2**40
    assert domain.decode(domain.encode(value)) == value
    assert all(domain.sample(np.random.default_rng(seed)) in domain.values() for seed in range(20))
    full = IntRange(-(2**63), 2**63)
    assert all(full.canonical(full.sample(np.random.default_rng(seed))) in full.values() for seed in range(20))
    with pytest.raises(SearchSpaceError, match=f"nearest: {value}, {value + 2**40}$"):
        domain.canonical(value + 1)


def test_integer_bounds_beyond_64_bits_are_refused() -> None:
    with pytest.raises(SearchSpaceError, match=r"must be from -2\*\*63 to 2\*\*63"):
        IntRange(0, 2**63 + 1)
    with pytest.raises(SearchSpaceError, match="is not an integer from 0 to 9"):
        IntRange(0, 9).canonical(10**400)


def test_a_choice_of_lists_is_one_of_tuples() -> None:
    domain = Choice([[2, 2], [1, 1, 1], np.array([3, 4])])
    assert domain.options == ((2, 2), (1, 1, 1), (3, 4))
    assert domain.canonical([1, 1.0, np.int64(1)]) == (1, 1, 1)
    assert not domain.is_ordinal
    assert domain.to_json() == {"type": "choice", "options": [[2, 2], [1, 1, 1], [3, 4]]}
    assert domain_from_json(json.loads(json.dumps(domain.to_json()))) == domain
    assert [domain.decode(domain.encode(value)) for value in domain.values()] == list(domain.options)
    with pytest.raises(SearchSpaceError, match=r"\[2, 3\] is not one of the options; known: \(2, 2\), "):
        domain.canonical([2, 3])
    with pytest.raises(SearchSpaceError, match="an option must be finite"):
        Choice([[1.0, math.inf]])
    with pytest.raises(SearchSpaceError, match="or a list of these"):
        Choice([[1, {}]])
    with pytest.raises(SearchSpaceError, match="options must differ"):
        Choice([[1, 2], [1, 2]])
