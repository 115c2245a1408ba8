"""Files of tensors (safetensors), written whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

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
    with replacing(path, cached=cached) as temporary:
        try:
            save_file(dict(tensors), temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:  # of a full disk, too
            raise OSError(f"{path} cannot be written: {error}") from error
        return temporary.stat().st_size
