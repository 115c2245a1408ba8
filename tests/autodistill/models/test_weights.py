"""Every kind of module returns its weights as (outputs, inputs) and accepts them in that form."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autodistill.errors import LayerNotFoundError
from autodistill.models.weights import (
    Affine,
    Part,
    has,
    left_out,
    locate,
    norm_of,
    parameters,
    read,
    write,
    write_norm,
)


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 6)
        self.plain = nn.Linear(3, 6, bias=False)
        self.conv1d = Conv1D(6, 3)
        self.patches = nn.Conv2d(2, 6, 4, 4)
        self.table = nn.Embedding(5, 6)
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.vector = nn.Parameter(torch.randn(6))
        self.attention = nn.MultiheadAttention(6, 2)
        self.norm = nn.LayerNorm(6)
        self.rms = nn.RMSNorm(6)
        self.activation = nn.ReLU()


PATHS = {
    "linear": (6, 3),
    "plain": (6, 3),
    "conv1d": (6, 3),
    "patches": (6, 32),
    "table": (6, 5),
    "token": (6, 1),
    "vector": (6, 1),
    "attention.in_proj": (18, 6),
    "attention.out_proj": (6, 6),
}


@pytest.mark.parametrize(("path", "shape"), PATHS.items())
def test_written_weights_are_read_back_unchanged(path, shape):
    model = Model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = read(model, path)
    assert given.weight.shape == shape
    assert given.weight.dtype == torch.float64
    bias = torch.randn(shape[0]).double() if given.bias is not None else None
    write(model, path, Affine(given.weight * 2, bias))
    again = read(model, path)
    assert torch.equal(again.weight, given.weight * 2)
    if bias is not None:
        torch.testing.assert_close(again.bias, bias, atol=1e-6, rtol=1e-6)
    touched = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert touched == {name for name in before if name.startswith(path.replace("in_proj", "in_proj_"))}


@torch.no_grad()
@pytest.mark.parametrize("path", ["linear", "conv1d"])
def test_the_weight_read_computes_what_the_module_does(path):
    model, x = Model().double(), torch.randn(4, 3).double()
    given = read(model, path)
    torch.testing.assert_close(x @ given.weight.T + given.bias, model.get_submodule(path)(x))


@torch.no_grad()
def test_the_weight_of_a_convolution_over_patches_computes_what_it_does():
    model, images = Model().double(), torch.randn(4, 2, 4, 4).double()
    given = read(model, "patches")
    torch.testing.assert_close(images.flatten(1) @ given.weight.T + given.bias, model.patches(images).flatten(1))


def test_a_table_has_a_column_for_each_row():
    model = Model()
    torch.testing.assert_close(read(model, "table").weight[:, 2].float(), model.table.weight[2].detach())
    torch.testing.assert_close(read(model, "token").weight[:, 0].float(), model.token[0, 0].detach())


@pytest.mark.parametrize("path", ["attention.in_proj", "conv1d"])
def test_a_part_is_read_and_written_alone(path):
    model = Model()
    whole = read(model, path)
    second = Part(path, 1, 3)
    size = len(whole.weight) // 3
    given = read(model, second)
    assert torch.equal(given.weight, whole.weight[size : 2 * size])
    assert torch.equal(given.bias, whole.bias[size : 2 * size])
    write(model, second, Affine(given.weight + 1, given.bias + 1))
    after = read(model, path)
    torch.testing.assert_close(after.weight[size : 2 * size], whole.weight[size : 2 * size] + 1, atol=1e-6, rtol=1e-6)
    for rows in (slice(size), slice(2 * size, None)):
        assert torch.equal(after.weight[rows], whole.weight[rows])
        assert torch.equal(after.bias[rows], whole.bias[rows])


def test_a_bias_that_the_module_does_not_have_is_left_out():
    model = Model()
    assert read(model, "plain").bias is None
    write(model, "plain", Affine(torch.ones(6, 3).double(), torch.ones(6).double()))
    assert (model.plain.weight == 1).all()


def test_the_parameters_are_the_models_own():
    model = Model()
    assert parameters(model, "linear") == [model.linear.weight, model.linear.bias]
    assert parameters(model, "attention.in_proj") == [model.attention.in_proj_weight, model.attention.in_proj_bias]
    assert parameters(model, "token") == [model.token]


def test_norms_without_bias_have_one_of_zero():
    model = Model()
    write_norm(model, "norm", torch.full((6,), 2.0), torch.full((6,), 3.0))
    write_norm(model, "rms", torch.full((6,), 2.0), torch.full((6,), 3.0))
    assert [part.tolist() for part in norm_of(model, "norm")] == [[2.0] * 6, [3.0] * 6]
    assert [part.tolist() for part in norm_of(model, "rms")] == [[2.0] * 6, [0.0] * 6]


@pytest.mark.parametrize("path", ["nowhere", "linear.nowhere", "nowhere.at.all", "activation"])
def test_a_path_without_a_weight_is_named(path):
    assert not has(Model(), path)
    with pytest.raises(LayerNotFoundError) as error:
        read(Model(), path)
    assert str(error.value) == f"the model must have a weight at {path!r}, but has none; fix the table of its family."


def test_a_module_that_is_none_or_an_identity_is_left_out():
    model = nn.Sequential(nn.Linear(2, 2), nn.Identity())
    model.table = None
    assert [left_out(model, path) for path in ("1", "table", "0", "missing", "missing.table")] == [
        True,
        True,
        False,
        False,
        False,
    ]


@pytest.mark.parametrize("spec", [*PATHS, Part("linear", 1, 3), Part("linear", 1, 3, by_head=True, channels=1)])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_located_rows_are_those_that_are_read(spec, device):
    model = Model()
    rows = locate(model.to(device), spec).rows
    assert rows.device.type == "cpu"
    model = Model()
    found = locate(model, spec)
    assert torch.equal(found.rows, rows)
    weight = found.weight.detach()
    matrix = weight.reshape(-1, weight.shape[-1]).T if found.transposed else weight.flatten(1)
    assert torch.equal(matrix[rows].double(), read(model, spec).weight)
    assert (found.bias is None) == (read(model, spec).bias is None)
