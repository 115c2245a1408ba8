"""Checks that the table of a family describes all that the two models compute; each yields a sentence for a mistake.

A start inside the teacher reads and writes the weights that the table names. It is wrong without any error if a model
computes something else with them, or besides them: adapters that are not merged, parametrizations, quantised layers, a
second row of blocks.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from autodistill.initialization.pairing import Pairing
from autodistill.models.blocks import has_several_matrices
from autodistill.models.modes import evaluating
from autodistill.models.module_paths import is_inside
from autodistill.models.weights import join, shape

SUFFIXES = ("", ".weight", ".bias", "_weight", "_bias")
"""How the names of parameters continue the path of a weight in a table."""

REMEDY = (
    "merge adapters (merge_and_unload() of peft), remove parametrizations "
    "(torch.nn.utils.parametrize.remove_parametrizations), dequantize quantised layers (dequantize()), extend the "
    "table, or leave init out"
)

ALLOWED_ERROR = 0.05
"""The relative error of a linear map that may be rounding, in half precision too."""


def coverage_problems(pair: Pairing[Any]) -> Iterator[str]:
    """The table must describe all blocks of the student, and all that the named modules of both models compute."""
    yield from _other_rows(pair)
    yield from _prompts(pair)
    for owner, model in pair.models.by_owner.items():
        yield from [*_unnamed_weights(pair, owner)] or _wrapped_modules(pair, owner, model)


def _other_rows(pair: Pairing[Any]) -> Iterator[str]:
    """The student's blocks must be those of the table: others would stay random, and read or feed the ones that are."""
    covered = join(pair.base_paths.student, pair.family.blocks)
    rows = rows_outside(pair.student, covered)
    if rows:
        yield (
            f"init='teacher' writes one row of blocks, {covered!r}, but the student also has repeated blocks at "
            f"{_first(rows)}, which would stay random although the two depend on each other; use a student without "
            "them (only the encoder, or only one tower), or leave init out."
        )


def rows_outside(model: nn.Module, covered: str) -> list[str]:
    """The paths of the containers of repeated blocks that are neither at the path `covered` nor inside it.

    Blocks are children of a `ModuleList`, or at least two of one class in a `Sequential`, that hold at least two
    matrices each; a head of a few linear layers is not a row of blocks.

    Examples:
        >>> layer = nn.TransformerEncoderLayer(8, 2)
        >>> def tower():
        ...     return nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        >>> towers = nn.ModuleDict({"text": tower(), "image": tower()})
        >>> rows_outside(towers, "text.layers")
        ['image.layers']
    """
    found: list[str] = []
    for path, module in model.named_modules():
        if any(is_inside(path, other) for other in (covered, *found) if other) or not path:
            continue
        blocks = [type(child) for child in module.children() if has_several_matrices(child) and any(child.children())]
        repeated = len(blocks) > len(set(blocks)) if isinstance(module, nn.Sequential) else bool(blocks)
        if isinstance(module, nn.ModuleList | nn.Sequential) and repeated:
            found.append(path)
    return found


def _prompts(pair: Pairing[Any]) -> Iterator[str]:
    """Adapters that extend the inputs of the base model have no weights in it."""
    for owner, model in pair.models.by_owner.items():
        active = (getattr(module, "active_peft_config", None) for module in model.modules())
        if any(getattr(config, "is_prompt_learning", False) for config in active):
            yield (
                f"init='teacher' writes weights of blocks, but the {owner} has trained prompts, which no weight of a "
                "student contains; use a teacher whose adapter can be merged, or leave init out."
            )


def _unnamed_weights(pair: Pairing[Any], owner: str) -> Iterator[str]:
    """Every weight inside the blocks must be named."""
    blocks = pair.base_models.by_owner[owner].get_submodule(pair.family.blocks)
    known = {path + suffix for path in pair.family.in_blocks for suffix in SUFFIXES}
    names = (name.partition(".")[2] for name, _ in blocks.named_parameters(remove_duplicate=False))
    unnamed = [name for name in dict.fromkeys(names) if not _named(name, known)]
    if unnamed:
        yield (
            f"init='teacher' knows what blocks compute by the weights that the table of their family names, but those "
            f"of the {owner} also have {_first(unnamed)}; {REMEDY}."
        )


def _wrapped_modules(pair: Pairing[Any], owner: str, model: nn.Module) -> Iterator[str]:
    """A module that the table names must compute a linear map, or a norm, of its own weight and bias."""
    modules = _named_modules(pair, owner, model)
    wrapped = [path for path, module in modules.items() if not _is_plain(module)]
    if wrapped:
        kinds = ", ".join(sorted({type(modules[path]).__name__ for path in wrapped}))
        yield (
            "init='teacher' reads the weight and the bias of the modules that the table of a family names, so these "
            f"must compute a linear map or a norm of them and nothing else, but {_first(wrapped)} of the {owner} "
            f"({kinds}) {'do' if len(wrapped) > 1 else 'does'} not; {REMEDY}."
        )


def _named_modules(pair: Pairing[Any], owner: str, model: nn.Module) -> dict[str, nn.Module]:
    """The modules that the table names, by path."""
    family, path = pair.family, pair.base_paths.by_owner[owner]
    blocks, inside, outside = join(path, family.blocks), set(family.in_blocks), set(family.outside_blocks(path))
    return {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if name in outside
        or (is_inside(name, blocks) and _named(name.removeprefix(f"{blocks}.").partition(".")[2], inside))
    }


def _named(name: str, known: set[str]) -> bool:
    """Whether a name within a block is known, with or without the numbers of its modules."""
    return not known.isdisjoint((name, re.sub(r"\b\d+\.", "", name)))


def _is_plain(module: nn.Module) -> bool:
    weight = getattr(module, "weight", None)
    if weight is None:  # a container, such as the user's own head
        return True
    own = {name for name, _ in module.named_parameters()}
    if not isinstance(weight, nn.Parameter) or "weight" not in own or not own <= {"weight", "bias"}:
        return False
    if not weight.is_floating_point():
        return False
    return weight.is_meta or weight.dim() != 2 or isinstance(module, nn.Embedding) or _is_linear(module, weight)


@torch.no_grad()
def _is_linear(module: nn.Module, weight: nn.Parameter) -> bool:
    """Whether a module computes W x + b, by one vector."""
    _, inputs = shape(module, "")
    try:
        vector = torch.linspace(-1, 1, inputs).to(weight)
        matrix = weight.T if isinstance(module, Conv1D) else weight
        expected = nn.functional.linear(vector, matrix, getattr(module, "bias", None)).double()
        with evaluating(module):
            found = module(vector[None])[0].double()
    except (RuntimeError, TypeError, ValueError):  # types of quantised weights with kernels of their own
        return False
    return float((found - expected).abs().max()) <= ALLOWED_ERROR * float(expected.abs().max()) + 1e-6


def _first(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (", …" if len(names) > 3 else "")
