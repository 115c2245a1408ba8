"""The architectures of a space as slices: the largest one, the widths, what is drawn, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from elastic_search import SPACE, bert
from torch import nn
from transformers import BertConfig, BertModel

from autodistill import ConfigurationError
from autodistill.elastic.nested import NestedStudent
from autodistill.elastic.space import ElasticSpace, structure
from search_spaces import IntRange, SearchSpace


def of(dimensions, build=bert, constraints=()):
    return ElasticSpace.of(SearchSpace(dimensions, constraints), build)


def test_largest_architecture_and_that_of_each_width_are_found_by_the_sizes_of_students():
    space = of(SPACE)
    assert space.largest == {"hidden_size": 8, "num_hidden_layers": 2, "intermediate_size": 12}
    assert list(space.widths) == [4, 8]
    assert all(architecture == space.largest | {"hidden_size": width} for width, architecture in space.widths.items())


def test_sizes_that_are_no_numbers_are_compared_by_the_parameters_of_students():
    named = {"small": {"hidden_size": 4}, "large": {"hidden_size": 8}}
    space = of(
        {"size": ["large", "small"], "layers": [1, 2]},
        lambda a: bert(named[a["size"]] | {"num_hidden_layers": a["layers"]}),
    )
    assert space.largest == {"size": "large", "layers": 2}
    assert {width: architecture["size"] for width, architecture in space.widths.items()} == {4: "small", 8: "large"}


def test_every_architecture_that_the_space_allows_is_drawn_and_no_other():
    space = of(SPACE, constraints=["intermediate_size >= hidden_size"])
    rng = np.random.default_rng(0)
    for width in (4, 8):
        drawn = {tuple(space.draw(rng, width).items()) for _ in range(100)}
        expected = {tuple(one.items()) for one in space.space.enumerate() if one["hidden_size"] == width}
        assert drawn == expected


def test_width_that_the_constraints_exclude_is_none():
    space = of(SPACE, constraints=["hidden_size != 4"])
    assert list(space.widths) == [8]
    with pytest.raises(ConfigurationError, match="none of width 4 was found in 10000 draws; relax the constraints"):
        space.draw(np.random.default_rng(0), 4)


def test_number_of_heads_may_be_tied_to_the_width_by_a_constraint():
    dimensions = SPACE | {"num_attention_heads": [2, 4], "intermediate_size": [8, 16, 32]}
    constraints = ["hidden_size == 2 * num_attention_heads", "intermediate_size <= 4 * hidden_size"]
    space = of(dimensions, constraints=constraints)
    assert not space.resizes_heads
    assert {width: one["num_attention_heads"] for width, one in space.widths.items()} == {4: 2, 8: 4}
    assert space.widths[4]["intermediate_size"] == 16
    for width in (4, 8):
        drawn = space.draw(np.random.default_rng(0), width)
        NestedStudent(structure(bert, drawn), structure(bert, space.widths[width]), **space.options)


def test_space_whose_largest_values_cannot_be_built_is_refused_with_a_remedy():
    with pytest.raises(
        ConfigurationError, match=r"must be able to build, but for .* it raised ValueError.*follow from"
    ):
        of(
            {"hidden_size": [4, 8], "num_attention_heads": [2, 3]},
            constraints=["hidden_size % num_attention_heads == 0"],
        )


def test_ranges_of_other_sizes_than_the_width_may_be_long():
    space = of(SPACE | {"intermediate_size": IntRange(6, 40)})
    assert space.largest["intermediate_size"] == 40
    assert list(space.widths) == [4, 8]


def test_students_that_share_nothing_are_refused():
    with pytest.raises(ConfigurationError, match="students of this space all have the same size; leave elastic out"):
        of({"dropout": [0.1, 0.2]}, lambda architecture: bert({"hidden_size": 4}))


def test_students_that_are_no_slices_are_refused_with_all_reasons_by_dimension():
    def build(architecture):
        return bert(
            {"hidden_size": 8, "num_attention_heads": architecture["heads"]}, vocab_size=architecture["vocabulary"]
        )

    with pytest.raises(ConfigurationError) as caught:
        of({"heads": [2, 4], "vocabulary": [20, 21], "layers": [1]}, build)
    assert any("elastic: heads=2" in problem for problem in caught.value.problems)
    assert any("elastic: vocabulary=20" in problem for problem in caught.value.problems)


def test_too_many_widths_are_refused_with_a_remedy():
    def build(architecture):
        return bert({"hidden_size": 2 + 2 * (architecture["size"] // 1000)})

    with pytest.raises(ConfigurationError, match=r"but size have more values; list fewer, such as \[64, 128, 256\]"):
        of({"size": IntRange(1, 5000)}, build)


def test_unknown_family_is_refused():
    with pytest.raises(ConfigurationError, match="student"):
        of({"width": [4, 8]}, lambda architecture: nn.Linear(architecture["width"], 2))


def test_combination_that_the_builder_refuses_is_left_out():
    def build(architecture):
        if architecture["hidden_size"] == 4 and architecture["num_hidden_layers"] == 2:
            raise ValueError("too deep")
        return bert(architecture)

    space = of(SPACE, build)
    assert space.largest["num_hidden_layers"] == 2


def test_structure_has_buffers_and_no_weights():
    model = structure(lambda sizes: BertModel(BertConfig(vocab_size=9, **sizes)), SIZES)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert torch.equal(model.embeddings.position_ids[0, :3], torch.arange(3))
    assert not model.training


SIZES = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}


def test_options_are_those_of_a_nested_student():
    space = of(SPACE)
    small = structure(bert, {"hidden_size": 4, "num_hidden_layers": 1, "intermediate_size": 6})
    nested = NestedStudent(small, structure(bert, space.largest), **space.options)
    assert {cut.name for cut in nested.cuts} == {name for name, _ in small.named_parameters()}
