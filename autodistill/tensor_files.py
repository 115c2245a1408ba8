"""Files of tensors (safetensors), written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save

from autodistill.files import replacing


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
