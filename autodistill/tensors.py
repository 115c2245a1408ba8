"""Nested structures of tensors: what modules take, return, and what a data loader yields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch


def map_tensors(function: Callable[[torch.Tensor], Any], structure: Any) -> Any:
    """Apply `function` to every tensor of nested tuples, lists and mappings, keeping their types.

    Examples:
        >>> map_tensors(lambda t: t.sum().item(), {"a": (torch.ones(3), 2)})
        {'a': (3.0, 2)}
    """
    if isinstance(structure, torch.Tensor):
        return function(structure)
    if isinstance(structure, tuple) and hasattr(structure, "_fields"):
        return type(structure)(*(map_tensors(function, item) for item in structure))
    if isinstance(structure, tuple | list):
        return type(structure)(map_tensors(function, item) for item in structure)
    if isinstance(structure, Mapping):
        # Hugging Face's BatchEncoding and ModelOutput are mappings whose constructors take one.
        return type(structure)({key: map_tensors(function, value) for key, value in structure.items()})  # type: ignore[call-arg]
    return structure


def tensors_in(structure: Any) -> Iterator[torch.Tensor]:
    """Every tensor of nested tuples, lists and mappings, in order."""
    if isinstance(structure, torch.Tensor):
        yield structure
    elif isinstance(structure, tuple | list):
        for item in structure:
            yield from tensors_in(item)
    elif isinstance(structure, Mapping):
        for value in structure.values():
            yield from tensors_in(value)


def to_device(structure: Any, device: torch.device) -> Any:
    """The structure with every tensor on `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), structure)


def nbytes(structure: Any) -> int:
    """Bytes that the tensors of a structure take."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(structure))


def identical(left: Any, right: Any) -> bool:
    """Whether two structures agree in form, types, shapes and every bit of their tensors (NaN equals the same NaN)."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left is right:
            return True
        if left.dtype != right.dtype or left.shape != right.shape or left.device != right.device:
            return False
        return bool(torch.equal(_bits(left), _bits(right)))
    if type(left) is not type(right):
        return False
    if isinstance(left, tuple | list):
        return len(left) == len(right) and all(identical(a, b) for a, b in zip(left, right, strict=True))
    if isinstance(left, Mapping):
        return list(left) == list(right) and all(identical(left[key], right[key]) for key in left)
    return bool(left == right)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)


def content_hash(structure: Any) -> str:
    """A hash of everything in a structure: types, shapes and values.

    Examples:
        >>> content_hash((torch.zeros(2), "a")) == content_hash((torch.zeros(2), "a"))
        True
        >>> content_hash(torch.zeros(2)) == content_hash(torch.zeros(1, 2))
        False
    """
    digest = hashlib.blake2b(digest_size=16)
    _feed(digest, structure)
    return digest.hexdigest()


def _feed(digest: hashlib.blake2b, structure: Any) -> None:
    if isinstance(structure, torch.Tensor):
        digest.update(f"tensor{structure.dtype}{tuple(structure.shape)}".encode())
        digest.update(_bits(structure.cpu()).numpy().data)
    elif isinstance(structure, np.ndarray) and not structure.dtype.hasobject:
        digest.update(f"array{structure.dtype.str}{structure.shape}".encode())
        digest.update(structure.tobytes())
    elif isinstance(structure, tuple | list):
        digest.update(f"sequence{len(structure)}".encode())
        for item in structure:
            _feed(digest, item)
    elif isinstance(structure, Mapping):
        digest.update(f"mapping{len(structure)}".encode())
        for key, value in structure.items():
            digest.update(json.dumps(str(key)).encode())
            _feed(digest, value)
    else:
        digest.update(f"{type(structure).__name__}{structure!r}".encode())
