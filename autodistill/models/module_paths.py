"""Modules by their dotted paths."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from torch import nn

from autodistill.errors import LayerNotFoundError
from search_spaces.checks import did_you_mean


def find_module(model: nn.Module, path: str, owner: str = "model") -> nn.Module:
    """The submodule at `path`; whole components only, so `layer.1` never finds `layer.10`.

    Raises:
        LayerNotFoundError: there is none; the message names the closest existing paths.
    """
    module: nn.Module | None = model
    for name in path.split(".") if path else ():
        module = module._modules.get(name) if module is not None else None
    if module is not None:
        return module
    modules = [name for name, _ in model.named_modules(remove_duplicate=False)]
    children = ", ".join(repr(name) for name, _ in model.named_children()) or "nothing: it has no submodules"
    hint = did_you_mean(path, modules, f"its layers begin with {children}.", similarity=0.5)
    raise LayerNotFoundError(f"the {owner} ({type(model).__name__}) has no layer {path!r}; {hint}")


def has_module(model: nn.Module, path: str) -> bool:
    """Whether the model has a submodule at `path`.

    Examples:
        >>> has_module(nn.Sequential(nn.ReLU()), "0"), has_module(nn.Sequential(nn.ReLU()), "1")
        (True, False)
    """
    return any(name == path for name, _ in model.named_modules(remove_duplicate=False))


def is_inside(path: str, block: str) -> bool:
    """Whether `path` is `block` or inside it.

    Examples:
        >>> is_inside("layer.1.output", "layer.1"), is_inside("layer.10", "layer.1")
        (True, False)
    """
    return not block or path == block or path.startswith(block + ".")


def last_of_their_siblings(paths: Sequence[str]) -> list[str]:
    """The paths followed by a path elsewhere in the model, as the last block of an encoder is by one of its decoder.

    Examples:
        >>> last_of_their_siblings(["encoder.0", "encoder.1", "decoder.0", "decoder.1"])
        ['encoder.1']
    """
    return [path for path, after in itertools.pairwise(paths) if path.rpartition(".")[0] != after.rpartition(".")[0]]
