"""Models that are built without random weights have the structure and the buffers of others."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from identity_cases import CASES
from torch import nn

from autodistill.elastic.building import without_random_weights


@pytest.mark.parametrize("name", ["BERT, classes", "Llama, words", "GPT-2, words", "ViT, classes", "T5 encoder"])
def test_structure_ties_and_buffers_are_those_of_a_model_as_it_is_built(name: Any) -> None:
    with without_random_weights():
        bare = CASES[name].make(8, 2)
    model = CASES[name].make(8, 2)
    shapes = [{name: value.shape for name, value in one.named_parameters()} for one in (bare, model)]
    assert shapes[0] == shapes[1]
    buffers = dict(model.named_buffers())
    assert {name for name, _ in bare.named_buffers()} == set(buffers)
    assert all(torch.equal(value, buffers[name]) for name, value in bare.named_buffers())


def test_nothing_random_is_drawn_and_constants_are_filled() -> None:
    state = torch.get_rng_state()
    with without_random_weights():
        model: Any = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Embedding(5, 3, padding_idx=0))
        nn.init.orthogonal_(torch.empty(1, 2, 2)[0].fill_(1.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert model[1].weight.tolist() == [1.0] * 4
    assert model[2].weight[0].tolist() == [0.0] * 3


def test_functions_that_fill_at_random_return_the_tensor() -> None:
    tensor = torch.full((2, 2), 7.0)
    with without_random_weights():
        assert nn.init.xavier_uniform_(tensor) is tensor
        assert nn.init.normal_(tensor=tensor) is tensor
        other = torch.full((2,), 9.0)
        assert nn.init.trunc_normal_(other, mean=0.5) is other  # ends, although it draws until values are in bounds
        assert other.abs().max() <= 2
    assert tensor.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_weights_are_random_again_after_the_context() -> None:
    with without_random_weights():
        pass
    assert not torch.equal(nn.Linear(3, 3).weight, nn.Linear(3, 3).weight)
