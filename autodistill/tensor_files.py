"""Files of tensors (safetensors), written whole or not at all, and with a hash that is verified when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from autodistill.file_hashes import CHANGED
from autodistill.files import problem_of, replacing
from autodistill.tensors import content_hash

HASH = "content_hash"
"""The key of the metadata for the hash of tensors and other metadata."""


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    cached: bool = False,
) -> int:
    """Write a file of tensors by `autodistill.files.replacing`.

    Args:
        path: of the file, in a folder that exists.
        tensors: by name, contiguous, none sharing memory with another.
        metadata: of the file's header.
        cached: the file can be computed again; see `replacing`.

    Returns:
        The size of the file, in bytes.

    Raises:
        OSError: the file cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     write_tensors(Path(directory) / "some.safetensors", {"weight": torch.ones(2)})
        80
    """
    # Not `save_file`: it has temporary files of its own, which a killed process leaves under any name.
    content = save(dict(tensors), None if metadata is None else dict(metadata))
    with replacing(path, cached=cached) as temporary:
        temporary.write_bytes(content)
    return len(content)


def write_hashed_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    *,
    cached: bool = False,
) -> int:
    """Like `write_tensors`, with a hash of tensors and metadata in the header."""
    return write_tensors(path, tensors, {**(metadata or {}), HASH: _hash(tensors, metadata or {})}, cached=cached)


def read_hashed_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors and the metadata of a file that `write_hashed_tensors` wrote, as they were written.

    Raises:
        ValueError: the file is damaged, or has no hash.
        OSError: it cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     path = Path(directory) / "some.safetensors"
        ...     _ = write_hashed_tensors(path, {"weight": torch.ones(2)}, {"epoch": "3"})
        ...     read_hashed_tensors(path)
        ({'weight': tensor([1., 1.])}, {'epoch': '3'})
    """
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            metadata = dict(file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    if HASH not in metadata:
        raise ValueError("it has no hash: an earlier version wrote it")
    if metadata.pop(HASH) != _hash(tensors, metadata):
        raise ValueError(CHANGED)
    return tensors, metadata


def problem_in(path: Path) -> str | None:
    """What is wrong with a file that `write_hashed_tensors` wrote; None if nothing is.

    Raises:
        OSError: it cannot be read.
    """
    return problem_of(read_hashed_tensors, path)


def _hash(tensors: Mapping[str, torch.Tensor], metadata: Mapping[str, str]) -> str:
    return content_hash([{name: part[name] for name in sorted(part)} for part in (tensors, metadata)])
