"""Nested structures of tensors: what modules receive and return, and what a data loader yields."""

from __future__ import annotations

import enum
import functools
import hashlib
import json
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

import numpy as np
import torch

Leaf = TypeVar("Leaf")


class Container(enum.Enum):
    """The kind of a container: how its elements are read, and how it is rebuilt from elements."""

    SEQUENCE = enum.auto()
    NAMED_TUPLE = enum.auto()
    MAPPING = enum.auto()


@functools.cache
def container_kind(cls: type) -> Container | None:
    """What kind of container the instances of a class are; None for leaves.

    Containers are tuples, lists and mappings; Hugging Face's `BatchEncoding` and `ModelOutput` are mappings.

    Examples:
        >>> container_kind(torch.Size), container_kind(torch.Tensor)
        (<Container.SEQUENCE: 1>, None)
    """
    if issubclass(cls, tuple | list):
        return Container.NAMED_TUPLE if hasattr(cls, "_fields") else Container.SEQUENCE
    return Container.MAPPING if issubclass(cls, Mapping) else None


def elements(structure: Any) -> Collection[Any] | None:
    """The elements of a container, in order; None for a leaf.

    Examples:
        >>> list(elements({"a": 1, "b": 2})), elements(torch.ones(2))
        ([1, 2], None)
    """
    kind = container_kind(structure.__class__)
    if kind is None:
        return None
    return structure.values() if kind is Container.MAPPING else structure  # type: ignore[no-any-return]


def nodes(structure: Any) -> list[Any]:
    """The structure and everything in it: containers before their elements, in order."""
    found = [structure]
    for element in elements(structure) or ():
        found += nodes(element)
    return found


def map_leaves(function: Callable[[Leaf], Any], structure: Any, cls: type[Leaf]) -> Any:
    """Apply `function` to every leaf of class `cls` in nested containers, which keep their types.

    Examples:
        >>> map_leaves(lambda number: number + 1, {"a": (1, 2.5)}, int)
        {'a': (2, 2.5)}
    """
    kind = container_kind(structure.__class__)
    if kind is None:
        return function(structure) if isinstance(structure, cls) else structure
    if kind is Container.MAPPING:
        # The constructors of Hugging Face's BatchEncoding and ModelOutput take a dictionary.
        return type(structure)({key: map_leaves(function, value, cls) for key, value in structure.items()})
    mapped = [map_leaves(function, element, cls) for element in structure]
    return type(structure)(*mapped) if kind is Container.NAMED_TUPLE else type(structure)(mapped)


def map_tensors(function: Callable[[torch.Tensor], Any], structure: Any) -> Any:
    """Apply `function` to every tensor in nested containers, which keep their types.

    Examples:
        >>> map_tensors(lambda t: t.sum().item(), {"a": (torch.ones(3), 2)})
        {'a': (3.0, 2)}
    """
    return map_leaves(function, structure, torch.Tensor)


def tensors_in(structure: Any) -> Iterator[torch.Tensor]:
    """Every tensor in nested containers, in order."""
    return (node for node in nodes(structure) if isinstance(node, torch.Tensor))


def to_device(structure: Any, device: torch.device) -> Any:
    """The structure with every tensor on `device`."""
    return map_tensors(lambda tensor: tensor.to(device, non_blocking=True), structure)


def nbytes(structure: Any) -> int:
    """The size of a structure's tensors in bytes."""
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors_in(structure))


def identical(left: Any, right: Any) -> bool:
    """Whether two structures agree in form, types, shapes and every bit of their numbers (NaN equals the same NaN)."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        if left is right:
            return True
        if left.dtype != right.dtype or left.shape != right.shape or left.device != right.device:
            return False
        return bool(torch.equal(_bits(left), _bits(right)))
    if isinstance(left, np.ndarray) and isinstance(right, np.ndarray):
        if left.dtype != right.dtype or left.shape != right.shape:
            return False
        return bool(left.tolist() == right.tolist() if left.dtype.hasobject else left.tobytes() == right.tobytes())
    if type(left) is not type(right):
        return False
    left_elements, right_elements = elements(left), elements(right)
    if left_elements is None or right_elements is None:
        return bool(left == right)
    if container_kind(left.__class__) is Container.MAPPING and list(left) != list(right):
        return False
    same_length = len(left_elements) == len(right_elements)
    return same_length and all(map(identical, left_elements, right_elements))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().resolve_conj().resolve_neg().contiguous()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.view(torch.uint8) if tensor.dim() else tensor.reshape(1).view(torch.uint8)


def checksum(tensor: torch.Tensor) -> int:
    """The CRC-32 of a tensor's bytes: faster than `content_hash`, for finding changes that are made by mistake.

    Examples:
        >>> checksum(torch.zeros(2)) == checksum(torch.zeros(2)), checksum(torch.zeros(2)) == checksum(-torch.zeros(2))
        (True, False)
    """
    return zlib.crc32(_bits(tensor.cpu()).numpy().data)


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
    elif (parts := elements(structure)) is None:
        digest.update(f"{type(structure).__name__}{structure!r}".encode())
    elif container_kind(structure.__class__) is Container.MAPPING:
        digest.update(f"mapping{len(parts)}".encode())
        for key, part in zip(structure, parts, strict=True):
            digest.update(json.dumps(str(key)).encode())
            _feed(digest, part)
    else:
        digest.update(f"sequence{len(parts)}".encode())
        for part in parts:
            _feed(digest, part)
