"""Groups of dimensions: how they are split, counted and sampled, and why one is empty."""

from __future__ import annotations

import numpy as np
import pytest

from search_spaces import Choice, FloatRange, IntRange, SearchSpace, SearchSpaceError, components
from search_spaces.components import product, split
from search_spaces.constraints import make_constraint


def test_a_space_of_billions_is_counted_exactly_when_constraints_tie_few_dimensions() -> None:
    free = {f"d{i}": IntRange(1, 1000) for i in range(4)}
    space = SearchSpace({"a": IntRange(1, 10), **free, "b": IntRange(1, 10)}, ["a <= b"])
    assert space.size == 55 * 1000**4
    assert space.grid_size == 100 * 1000**4


def test_the_size_is_none_when_infinite_or_not_affordable_to_count() -> None:
    huge = SearchSpace({"a": IntRange(1, 10_000), "b": IntRange(1, 10_000)}, ["a <= b"])
    assert (huge.size, huge.grid_size, huge.is_finite) == (None, 10**8, True)
    infinite = SearchSpace({"a": [1, 2], "b": FloatRange(0, 1)})
    assert (infinite.size, infinite.grid_size, infinite.is_finite) == (None, None, False)


@pytest.mark.parametrize("high", [50, 150], ids=["listed", "drawn first"])
def test_sampling_finds_the_only_architecture_that_exists(high: int) -> None:
    space = SearchSpace({"a": IntRange(1, high), "b": IntRange(1, high), "c": [0, 1]}, [f"a + b == {2 * high}"])
    architecture = space.sample(np.random.default_rng(0))
    assert (architecture["a"], architecture["b"]) == (high, high)


@pytest.mark.parametrize("constraints", [[], ["a <= b"]], ids=["free", "listed"])
def test_groups_are_not_counted_again_for_every_sample(constraints: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    counted = []
    monkeypatch.setattr(components, "product", lambda sizes: counted.append(sizes) or product(sizes))
    space = SearchSpace({"a": [1, 2], "b": [1, 2], "c": [1, 2]}, constraints)
    rng = np.random.default_rng(0)
    for _ in range(20):
        space.sample(rng)
    assert 0 < len(counted) <= 3  # once for each group


def test_a_space_emptied_by_one_constraint_names_it() -> None:
    space = SearchSpace({"a": [1, 2], "b": [1, 2], "c": [1]}, ["a + b > 2", "a * b > 4"])
    assert space.size == 0
    with pytest.raises(SearchSpaceError) as error:
        space.ensure_feasible()
    assert str(error.value) == (
        "constraint 'a * b > 4' excludes all 4 combinations of a, b; relax it or widen the dimensions"
    )


def test_a_space_emptied_by_constraints_together_names_them() -> None:
    with pytest.raises(SearchSpaceError) as error:
        SearchSpace({"a": [1, 2]}, ["a > 1", "a < 2"]).ensure_feasible()
    assert str(error.value) == (
        "the constraints 'a > 1', 'a < 2' together exclude all 2 combinations of a; relax one of them"
    )


def test_a_space_in_which_nothing_was_found_says_in_how_many_draws() -> None:
    with pytest.raises(SearchSpaceError, match=r"no feasible architecture was found in 10,000 random draws of a"):
        SearchSpace({"a": FloatRange(0, 1)}, ["a > 2"]).ensure_feasible()


def test_dimensions_are_grouped_by_the_constraints_that_tie_them() -> None:
    dimensions = {name: Choice([1, 2]) for name in "abcde"}
    rules = [make_constraint(text, list("abcde")) for text in ("a < d", "d <= e", "c > 1")]
    components = split(dimensions, rules)
    assert [list(component.dimensions) for component in components] == [["a", "d", "e"], ["b"], ["c"]]
    assert [[rule.text for rule in component.constraints] for component in components] == [
        ["a < d", "d <= e"],
        [],
        ["c > 1"],
    ]
    # a=1, d=2, e=2; b is free; c=2
    assert [component.size for component in components] == [1, 2, 1]
    assert components[0].sample(np.random.default_rng(0)) == {"a": 1, "d": 2, "e": 2}


@pytest.mark.parametrize(
    ("sizes", "expected"), [([2, 3, 4], 24), ([], 1), ([2, None], None), ([0, None], 0), ([None, 3, 0], 0)]
)
def test_product_is_unknown_with_an_unknown_factor_but_zero_with_a_zero(
    sizes: list[int | None], expected: int | None
) -> None:
    assert product(sizes) == expected
