"""The repeated blocks of a model, and the modules outside them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.models.module_paths import find_module, is_inside

SMALLEST_ROW = 1 / 20
"""The smallest size of a further row of blocks, in parameters of the largest row."""


def block_rows(model: nn.Module) -> list[list[str]]:
    """The paths of the model's blocks, row by row in the model's order: of an encoder, of a decoder, of a second tower.

    A row consists of sibling modules of one class: the children of one `ModuleList` (one child is enough: a model of
    depth 1) or of one `Sequential` (at least two; consecutive ones, if there are any). Containers without a forward of
    their own are not blocks, since they are never called.

    The row with the most parameters is always one. The others neither contain a block of it nor are inside one, have
    at least a twentieth of its parameters, and consist of modules with several weight matrices each: lists of single
    convolutions or of output layers are not rows of blocks.

    Raises:
        ConfigurationError: the model has no such container.

    Examples:
        >>> block_rows(nn.Transformer(8, 2, 2, 1, 8, batch_first=True))
        [['encoder.layers.0', 'encoder.layers.1'], ['decoder.layers.0']]
    """
    rows = [_largest_row(model)]
    smallest = SMALLEST_ROW * _size(model, rows[0])
    for paths in sorted(_siblings(model), key=lambda paths: -_size(model, paths)):
        apart = not any(is_inside(a, b) or is_inside(b, a) for row in rows for a in row for b in paths)
        if (
            apart
            and _size(model, paths) >= smallest
            and all(has_several_matrices(find_module(model, path)) for path in paths)
        ):
            rows.append(paths)
    order = {path: index for index, (path, _) in enumerate(model.named_modules())}
    return sorted(rows, key=lambda row: order[row[0]])


def _largest_row(model: nn.Module) -> list[str]:
    candidates = list(_siblings(model))
    if not candidates:
        raise ConfigurationError(
            "automatic mapping needs a ModuleList or Sequential of similar blocks, "
            f"but {type(model).__name__} has none; pass block_names and layer_mappings_for_knowledge_transfer."
        )
    return max(candidates, key=lambda paths: _size(model, paths))


def _size(model: nn.Module, paths: Iterable[str]) -> int:
    """The number of parameters in these modules."""
    return sum(p.numel() for path in paths for p in find_module(model, path).parameters())


def has_several_matrices(module: nn.Module) -> bool:
    """Whether a module holds at least two weight matrices, as a block does, but a single layer does not.

    Examples:
        >>> has_several_matrices(nn.Linear(2, 2)), has_several_matrices(nn.Bilinear(2, 2, 2)), has_several_matrices(
        ...     nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        ... )
        (False, False, True)
    """
    return sum(parameter.dim() > 1 for parameter in module.parameters()) > 1


def _can_be_called(module: nn.Module) -> bool:
    return getattr(module.forward, "__func__", module.forward) is not nn.Module.forward


def _siblings(model: nn.Module) -> Iterator[list[str]]:
    for path, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        children = [
            (type(child), f"{path}.{name}" if path else name)
            for name, child in module.named_children()
            if any(True for _ in child.parameters()) and _can_be_called(child)
        ]
        by_class: dict[type, list[str]] = {}
        for kind, name in children:
            by_class.setdefault(kind, []).append(name)
        if isinstance(module, nn.ModuleList):
            yield from by_class.values()
            continue
        runs = [[name for _, name in run] for _, run in itertools.groupby(children, key=lambda child: child[0])]
        # a first and a last layer of the same class around the blocks are not blocks
        yield from [run for run in runs if len(run) > 1] or [paths for paths in by_class.values() if len(paths) > 1]


def outside_of(model: nn.Module, blocks: Sequence[str]) -> list[str]:
    """The largest modules that hold parameters but none of these blocks.

    Examples:
        >>> inner = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        >>> outside_of(nn.Sequential(nn.Linear(2, 2), inner), ["1.0"])
        ['0', '1.2']
    """
    found: list[str] = []
    for name, module in model.named_modules():
        holds = any(block == name or block.startswith(name + ".") or not name for block in blocks)
        below = any(name.startswith(other + ".") for other in (*found, *blocks))
        if not holds and not below and any(True for _ in module.parameters()):
            found.append(name)
    return found


def sibling_blocks(model: nn.Module, path: str) -> list[str]:
    """The blocks in the same row as the one at `path`, in the model's order.

    They are the modules with parameters whose paths differ from `path` only in numbers, and which are of the same class
    or in the same `ModuleList`.
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    whole_list = isinstance(modules.get(path.rpartition(".")[0]), nn.ModuleList)
    return [
        name
        for name, module in modules.items()
        if re.sub(r"\d+", "0", name) == re.sub(r"\d+", "0", path)
        and (whole_list or type(module) is type(modules[path]))
        and any(True for _ in module.parameters())
    ]
