"""Files of tensors (safetensors), written whole or not at all."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file

from autodistill.files import TEMPORARY_SUFFIX


def write_tensors(path: Path, tensors: Mapping[str, torch.Tensor]) -> int:
    """Write a file: whoever reads it, and whenever a writer is killed, finds the old one or a new one whole.

    Several processes may write the same file at once.

    Args:
        path: of the file, in a folder that is there.
        tensors: by name, contiguous.

    Returns:
        The size of the file, in bytes.

    Raises:
        OSError: the file cannot be written.
    """
    staged = path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")
    save_file(dict(tensors), staged)
    size = staged.stat().st_size
    os.replace(staged, path)
    return size
