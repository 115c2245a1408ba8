"""Reads and writes weights by name, for every kind of module, as float64 matrices (outputs, inputs)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autodistill.errors import ConfigurationError, LayerNotFoundError


@dataclass(frozen=True)
class Part:
    """One of several linear maps that share a weight, stacked along the outputs.

    Args:
        path: of the module, or e.g. `"attention.in_proj"` for the parameters `in_proj_weight` and `in_proj_bias`.
        index: which of them.
        of: how many there are.
        by_head: whether each head's outputs are stacked (GPT-NeoX), rather than those of all heads.
        channels: of a head, where `by_head` is set; tables leave it out.

    Raises:
        ConfigurationError: the index is out of range.
    """

    path: str
    index: int = 0
    of: int = 1
    by_head: bool = field(default=False, repr=False)
    channels: int = field(default=1, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.of:
            raise ConfigurationError(
                f"the index of a part must be 0 to {self.of - 1}, since {self.path!r} holds {self.of}, but is "
                f"{self.index}; count from 0."
            )


@dataclass
class Affine:
    """A linear map and its bias, float64.

    Args:
        weight: (outputs, inputs); for a table of vectors, (channels, rows).
        bias: (outputs,), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None


def join(*names: str) -> str:
    """A dotted path; empty names are left out.

    Examples:
        >>> join("", "encoder", "layer.0")
        'encoder.layer.0'
    """
    return ".".join(name for name in names if name)


def part(spec: str | Part) -> Part:
    """The part that `spec` names; a path alone means the whole weight."""
    return spec if isinstance(spec, Part) else Part(spec)


def has(model: nn.Module, spec: str | Part) -> bool:
    """Whether a model has this weight."""
    try:
        return _parameters(model, part(spec).path)[0] is not None
    except LayerNotFoundError:
        return False


def left_out(model: nn.Module, spec: str | Part) -> bool:
    """Whether a model has nothing at a path that its class knows: None, or an identity."""
    owner, _, name = part(spec).path.rpartition(".")
    try:
        parent = model.get_submodule(owner)
    except AttributeError:
        return False
    return hasattr(parent, name) and isinstance(getattr(parent, name), nn.Identity | None)


def has_bias(model: nn.Module, spec: str | Part) -> bool:
    """Whether a map or a norm has a bias."""
    return len(parameters(model, spec)) > 1


def takes_in_constants(model: nn.Module, spec: str | Part) -> bool:
    """Whether a vector can be added to all of its outputs: to its bias, or to the rows of a table."""
    path = part(spec).path
    is_map = any(path == name and not isinstance(module, nn.Embedding) for name, module in model.named_modules())
    return not is_map or has_bias(model, spec)


def parameters(model: nn.Module, spec: str | Part) -> list[nn.Parameter]:
    """Its parameters: the weight, and the bias if any."""
    weight, bias, _ = _parameters(model, part(spec).path)
    return [parameter for parameter in (weight, bias) if parameter is not None]


def shape(model: nn.Module, spec: str | Part) -> tuple[int, int]:
    """(outputs, inputs) of the map at a path, for a model on any device, including `meta`.

    Raises:
        LayerNotFoundError: there is none.
    """
    chosen = part(spec)
    weight, _, transposed = _parameters(model, chosen.path)
    outputs, inputs = _matrix(weight.detach(), transposed).shape
    return outputs // chosen.of, inputs


def read(model: nn.Module, spec: str | Part) -> Affine:
    """The map at a path, on the CPU.

    Raises:
        LayerNotFoundError: there is none.
    """
    chosen = part(spec)
    weight, bias, transposed = _parameters(model, chosen.path)
    rows = _rows(chosen, weight, transposed)
    matrix = _matrix(weight.detach(), transposed)[rows].double().cpu()
    return Affine(matrix, bias.detach()[rows].double().cpu() if bias is not None else None)


@torch.no_grad()
def write(model: nn.Module, spec: str | Part, affine: Affine) -> None:
    """Set the map at a path; a bias that the module lacks is ignored, one that `affine` lacks is set to zero."""
    chosen = part(spec)
    weight, bias, transposed = _parameters(model, chosen.path)
    rows = _rows(chosen, weight, transposed)
    matrix = _matrix(weight.detach(), transposed)
    matrix[rows] = affine.weight.to(matrix)
    weight.copy_((matrix.T if transposed else matrix).reshape(weight.shape))  # in case the matrix is not a view
    if bias is not None:
        bias[rows] = affine.bias.to(bias) if affine.bias is not None else 0.0


@dataclass(frozen=True)
class Located:
    """Where a map is in a model.

    Attributes:
        weight: the parameter that holds it.
        bias: the parameter that holds its bias, or None.
        transposed: whether the weight is stored as (inputs, outputs), or (rows, channels).
        rows: of the matrix (outputs, inputs), those of the map: all of them, unless several maps share the weight.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None
    transposed: bool
    rows: torch.Tensor


def locate(model: nn.Module, spec: str | Part) -> Located:
    """Where the map at a path is.

    Raises:
        LayerNotFoundError: there is none.
    """
    chosen = part(spec)
    weight, bias, transposed = _parameters(model, chosen.path)
    rows = _rows(chosen, weight, transposed)
    return Located(weight, bias, transposed, torch.arange(len(_matrix(weight.detach(), transposed)))[rows])


def norm_of(model: nn.Module, path: str) -> tuple[torch.Tensor, torch.Tensor]:
    """The gain and the bias of a norm, (channels,) each; a missing bias is zero."""
    affine = _parameters(model, path)
    gain = affine[0].detach().double().cpu()
    return gain, affine[1].detach().double().cpu() if affine[1] is not None else torch.zeros_like(gain)


@torch.no_grad()
def write_norm(model: nn.Module, path: str, gain: torch.Tensor, bias: torch.Tensor) -> None:
    """Set the gain and the bias of a norm."""
    weight, bias_parameter, _ = _parameters(model, path)
    weight.copy_(gain)
    if bias_parameter is not None:
        bias_parameter.copy_(bias)


def _rows(chosen: Part, weight: torch.Tensor, transposed: bool) -> slice | torch.Tensor:
    rows = len(_matrix(weight.detach(), transposed))
    if chosen.by_head:
        by_head = torch.arange(rows).reshape(-1, chosen.of, chosen.channels)
        return by_head[:, chosen.index].flatten()
    size = rows // chosen.of
    return slice(chosen.index * size, (chosen.index + 1) * size)


def _matrix(weight: torch.Tensor, transposed: bool) -> torch.Tensor:
    """The weight as (outputs, inputs): a view, if its memory layout allows one."""
    if transposed:
        return weight.reshape(-1, weight.shape[-1]).T
    return weight.flatten(1) if weight.dim() > 1 else weight[None]


def _parameters(model: nn.Module, path: str) -> tuple[nn.Parameter, nn.Parameter | None, bool]:
    """The weight and the bias at a path, and whether the weight is stored as (inputs, outputs), or (rows, channels)."""
    owner, _, name = path.rpartition(".")
    try:
        parent = model.get_submodule(owner)
    except AttributeError:
        raise _not_found(path) from None
    found = getattr(parent, name, None) if name else parent
    if isinstance(found, nn.Parameter):
        return found, None, True
    if isinstance(found, nn.Module):
        weight, bias = getattr(found, "weight", None), getattr(found, "bias", None)
        transposed = isinstance(found, nn.Embedding | Conv1D)
    else:
        weight, bias, transposed = getattr(parent, name + "_weight", None), getattr(parent, name + "_bias", None), False
    if not isinstance(weight, torch.Tensor):  # a parametrized weight is a tensor
        raise _not_found(path)
    return cast("nn.Parameter", weight), bias if isinstance(bias, nn.Parameter) else None, transposed


def _not_found(path: str) -> LayerNotFoundError:
    return LayerNotFoundError(f"the model must have a weight at {path!r}, but has none; fix the table of its family.")
