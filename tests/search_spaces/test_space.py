from __future__ import annotations

import itertools
import json
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from search_spaces import Architecture, Choice, FloatRange, IntRange, SearchSpace, SearchSpaceError

HEADS_DIVIDE = "hidden_size % num_attention_heads == 0"


def transformer_space() -> SearchSpace:
    return SearchSpace(
        {
            "hidden_size": [96, 128, 192],
            "num_attention_heads": [2, 3, 4, 8],
            "layers": IntRange(2, 6, step=2),
            "activation": ["gelu", "relu"],
        },
        constraints=[HEADS_DIVIDE, "activation != 'relu' or layers >= 4"],
    )


def brute_force() -> list[Architecture]:
    combinations = itertools.product([96, 128, 192], [2, 3, 4, 8], [2, 4, 6], ["gelu", "relu"])
    return [
        {"hidden_size": hidden, "num_attention_heads": heads, "layers": layers, "activation": activation}
        for hidden, heads, layers, activation in combinations
        if hidden % heads == 0 and (activation != "relu" or layers >= 4)
    ]


def even_layers(architecture: Architecture) -> bool:
    return int(architecture["layers"] or 0) % 2 == 0


def test_enumeration_and_size_agree_with_brute_force() -> None:
    space = transformer_space()
    assert list(space.enumerate()) == brute_force()
    assert space.size == len(brute_force())
    assert space.grid_size == 3 * 4 * 3 * 2


def test_a_function_as_constraint_counts_like_the_expression() -> None:
    dimensions = {"layers": IntRange(1, 9), "width": [1, 2]}
    by_function = SearchSpace(dimensions, [even_layers])
    by_expression = SearchSpace(dimensions, ["layers % 2 == 0"])
    assert list(by_function.enumerate()) == list(by_expression.enumerate())
    assert by_function.size == by_expression.size == 8


def test_samples_are_feasible_and_uniform_over_what_exists() -> None:
    space = transformer_space()
    rng = np.random.default_rng(0)
    counts = dict.fromkeys(map(space.key, brute_force()), 0)
    draws = 200 * len(counts)
    for _ in range(draws):
        counts[space.key(space.sample(rng))] += 1
    # Each count is binomial with mean 200 and standard deviation 14.
    assert min(counts.values()) > 200 - 5 * 14
    assert max(counts.values()) < 200 + 5 * 14


def test_sampling_depends_on_the_generator_alone() -> None:
    space = SearchSpace({"a": IntRange(1, 150), "b": IntRange(1, 150)}, ["a + b == 300"])
    first = [space.sample(np.random.default_rng(seed)) for seed in range(2)]
    rng, fresh = np.random.default_rng(7), np.random.default_rng(7)
    space.sample(rng)
    SearchSpace(dict(space.dimensions), space.constraints).sample(fresh)
    assert rng.random() == fresh.random()
    assert first[0] == {"a": 150, "b": 150}


def test_keys_of_a_sample_are_in_the_order_of_the_space() -> None:
    space = SearchSpace({"a": [1], "b": [2], "c": [3]}, ["a < c", "b > 0"])
    assert list(space.sample(np.random.default_rng(0))) == ["a", "b", "c"]


def test_an_architecture_is_validated_into_canonical_form() -> None:
    validated = transformer_space().validate(
        {"activation": "gelu", "layers": np.int64(4), "num_attention_heads": 2.0, "hidden_size": np.float32(96)}
    )
    assert json.dumps(validated) == ('{"hidden_size": 96, "num_attention_heads": 2, "layers": 4, "activation": "gelu"}')


def test_every_mistake_of_an_architecture_is_named() -> None:
    with pytest.raises(SearchSpaceError) as error:
        transformer_space().validate({"hiden_size": 96, "num_attention_heads": 2, "layers": 3, "activation": "gelo"})
    assert list(error.value.problems) == [
        "unknown dimension 'hiden_size'; did you mean 'hidden_size'?",
        "dimension 'hidden_size' is missing",
        "layers: 3 is not an integer from 2 to 6 in steps of 2; nearest: 2, 4",
        "activation: 'gelo' is not one of the options; did you mean 'gelu'?",
    ]


def test_a_broken_constraint_is_named_with_the_values_it_read() -> None:
    broken = {"hidden_size": 128, "num_attention_heads": 3, "layers": 2, "activation": "relu"}
    with pytest.raises(SearchSpaceError) as error:
        transformer_space().validate(broken)
    assert list(error.value.problems) == [
        f"constraint '{HEADS_DIVIDE}' is broken by hidden_size=128, num_attention_heads=3",
        "constraint \"activation != 'relu' or layers >= 4\" is broken by layers=2, activation='relu'",
    ]
    assert broken not in transformer_space()


def test_membership_of_something_that_is_not_a_mapping_is_false() -> None:
    assert 3 not in transformer_space()
    with pytest.raises(SearchSpaceError, match="an architecture must be a mapping"):
        transformer_space().validate([1, 2])  # type: ignore[arg-type]


def test_equal_architectures_have_equal_keys_and_others_differ() -> None:
    space = SearchSpace({"a": [1, 2], "b": [0.5, "x", None, True]})
    assert space.key({"b": 0.5, "a": np.int64(1)}) == space.key({"a": 1.0, "b": np.float64(0.5)})
    keys = [space.key(architecture) for architecture in space.enumerate()]
    assert len(set(keys)) == space.size == 8
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in keys)


def test_the_key_does_not_depend_on_the_order_of_dimensions() -> None:
    assert SearchSpace({"a": [1], "b": [2]}).key({"a": 1, "b": 2}) == SearchSpace({"b": [2], "a": [1]}).key(
        {"a": 1, "b": 2}
    )


def test_decoding_encoded_architectures_returns_them() -> None:
    space = transformer_space()
    everything = list(space.enumerate())
    encoded = space.encode(everything)
    assert encoded.shape == (len(everything), space.width)
    assert space.width == 3 + 4 + 1 + 2
    assert [space.decode(row) for row in encoded] == everything
    assert len(np.unique(encoded, axis=0)) == len(everything)


def test_encoding_no_architectures_returns_no_rows() -> None:
    assert transformer_space().encode([]).shape == (0, 10)


def test_decoding_a_vector_of_another_length_is_an_error() -> None:
    with pytest.raises(SearchSpaceError, match="must have length 10, but got 3"):
        transformer_space().decode([0, 1, 0])


def test_neighbours_are_all_feasible_architectures_that_differ_in_one_dimension() -> None:
    space = transformer_space()
    for centre in itertools.islice(space.enumerate(), 0, None, 5):
        expected = [other for other in brute_force() if sum(other[name] != centre[name] for name in space.names) == 1]
        neighbours = list(space.neighbours(centre))
        assert sorted(map(space.key, neighbours)) == sorted(map(space.key, expected))


def test_neighbours_of_an_infinite_space_stay_in_it() -> None:
    space = SearchSpace({"rate": FloatRange(0, 1), "depth": [1, 2]}, ["rate * depth <= 1"])
    neighbours = list(space.neighbours({"rate": 0.5, "depth": 2}))
    assert neighbours
    assert all(neighbour in space for neighbour in neighbours)


def test_an_infinite_space_cannot_be_enumerated() -> None:
    with pytest.raises(SearchSpaceError, match="cannot be enumerated: rate are FloatRange"):
        SearchSpace({"rate": FloatRange(0, 1), "depth": [1, 2]}).enumerate()


def test_a_space_survives_json_and_pickle() -> None:
    space = SearchSpace(
        {"a": Choice([1, None, "x"]), "b": IntRange(1, 8, log=True), "c": FloatRange(0, 0.3)}, ["c < 0.2 or b > 2"]
    )
    read = SearchSpace.from_json(json.loads(json.dumps(space.to_json())))
    assert read == space
    assert read.to_json() == space.to_json()
    assert pickle.loads(pickle.dumps(space)) == space


def test_a_function_as_constraint_is_stored_by_name_and_not_read_back() -> None:
    description = SearchSpace({"layers": [1, 2]}, [even_layers]).to_json()
    assert description["constraints"][0]["function"].endswith(":even_layers")
    with pytest.raises(SearchSpaceError, match="a constraint given as a function cannot be read back"):
        SearchSpace.from_json(description)


def test_the_fingerprint_changes_with_everything_that_describes_the_space() -> None:
    spaces = [
        SearchSpace({"a": [1, 2]}),
        SearchSpace({"b": [1, 2]}),
        SearchSpace({"a": [2, 1]}),
        SearchSpace({"a": IntRange(1, 2)}),
        SearchSpace({"a": [1, 2]}, ["a > 0"]),
        SearchSpace({"a": [1, 2]}, ["a > 1"]),
        SearchSpace({"layers": [1, 2]}, [even_layers]),
    ]
    assert len({space.fingerprint for space in spaces}) == len(spaces)
    assert len({*spaces, SearchSpace({"a": [1, 2]})}) == len(spaces)


@pytest.mark.parametrize("hash_seed", ["0", "1"])
def test_the_fingerprint_is_the_same_in_another_process(hash_seed: str) -> None:
    code = (
        "from search_spaces import *;"
        "print(SearchSpace({'a': [1, 'x'], 'b': FloatRange(0, .3)}, ['b < 0.2']).fingerprint)"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        env={"PYTHONHASHSEED": hash_seed},
    ).stdout
    assert printed.strip() == SearchSpace({"a": [1, "x"], "b": FloatRange(0, 0.3)}, ["b < 0.2"]).fingerprint


def test_all_mistakes_of_the_description_are_reported_in_one_error() -> None:
    with pytest.raises(SearchSpaceError) as error:
        SearchSpace(
            {"hidden_size": [], "heads": [2, 2], "act": "gelu", 3: [1]},  # type: ignore[dict-item]
            ["hidden_sise % heads == 0", "heads >", 7],  # type: ignore[list-item]
        )
    assert list(error.value.problems) == [
        "hidden_size: a choice needs at least one option, but the list is empty",
        "heads: options must differ, but 2 and 2 are equal; remove one",
        "act: options must be a list, but got 'gelu'; write ['gelu']",
        "the name of a dimension must be a non-empty string, but got 3",
        "constraint 'hidden_sise % heads == 0' names an unknown dimension 'hidden_sise'; did you mean 'hidden_size'?",
        "constraint 'heads >' is not an expression: invalid syntax (<unknown>, line 1)",
        "a constraint must be an expression or a function, but got 7",
    ]
    assert str(error.value).startswith("7 mistakes:\n  - hidden_size: a choice")


@pytest.mark.parametrize(
    ("dimensions", "message"),
    [
        ({}, "a search space needs at least one dimension, but got none"),
        ([1, 2], "dimensions must be a mapping from names to domains, but got [1, 2]"),
    ],
)
def test_an_empty_or_malformed_space_is_refused(dimensions: object, message: str) -> None:
    with pytest.raises(SearchSpaceError) as error:
        SearchSpace(dimensions)  # type: ignore[arg-type]
    assert str(error.value) == message


def test_constraints_given_as_one_string_are_refused_with_the_list_to_write() -> None:
    with pytest.raises(SearchSpaceError, match=r"constraints must be a list, but got 'a > 1'; write \['a > 1'\]"):
        SearchSpace({"a": [1, 2]}, "a > 1")


def test_a_feasible_space_is_accepted() -> None:
    transformer_space().ensure_feasible()


def test_lists_and_nested_names_are_dimensions_with_constraints() -> None:
    space = SearchSpace(
        {"depths": [[2, 2], [1, 1, 1]], "hidden_sizes": [[8, 16], [8, 16, 32]], "vision_config.hidden_size": [8, 12]},
        constraints=["len(depths) == len(hidden_sizes)", "vision_config.hidden_size % hidden_sizes[0] == 0"],
    )
    assert list(space.enumerate()) == [
        {"depths": (2, 2), "hidden_sizes": (8, 16), "vision_config.hidden_size": 8},
        {"depths": (1, 1, 1), "hidden_sizes": (8, 16, 32), "vision_config.hidden_size": 8},
    ]
    first = next(space.enumerate())
    read = json.loads(json.dumps(first))
    assert space.validate(read) == first
    assert space.key(read) == space.key(first)
    assert SearchSpace.from_json(json.loads(json.dumps(space.to_json()))) == space
    assert space.decode(space.encode([first])[0]) == first


def test_an_attribute_that_is_no_dimension_is_refused() -> None:
    with pytest.raises(SearchSpaceError, match="uses Attribute"):
        SearchSpace({"width": [1, 2]}, constraints=["width.real == 1"])
