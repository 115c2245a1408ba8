"""Hashes of files: whether the files of a folder are those that were written there."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import partial
from pathlib import Path, PurePosixPath

HASH_BYTES = 16

CHANGED = "its content is not what was written: the hashes differ"
"""The problem of a file whose hash is not that of its content."""


def folder_hashes(folder: Path) -> dict[str, str]:
    """The hash of each file below a folder, by its path in the folder.

    Raises:
        OSError: a file cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = (Path(directory) / "notes.txt").write_text("complete")
        ...     folder_hashes(Path(directory))
        {'notes.txt': 'a18523a74c5ef7280ceeead5699da9d8'}
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _hash_of_file(path) for path in files}


def changed_files(folder: Path, hashes: Mapping[str, str]) -> list[str]:
    """The files of a folder that are missing, unreadable, or have other contents than when they were hashed.

    Args:
        folder: the folder, which may hold other files too.
        hashes: what `folder_hashes` returned.

    Returns:
        The end of a sentence for each of them.
    """
    problems = []
    for name, expected in hashes.items():
        if leads_outside(name):
            problems.append(f"{name!r} is not in the folder")
            continue
        try:
            same = _hash_of_file(folder / name) == expected
        except FileNotFoundError:
            problems.append(f"{name} is missing")
        except (OSError, ValueError) as error:  # ValueError: no file can have this name
            problems.append(f"{name} cannot be read ({getattr(error, 'strerror', None) or error})")
        else:
            problems += [] if same else [f"{name} has another content"]
    return problems


def leads_outside(name: str) -> bool:
    """Whether the path of a file in a folder leads out of it; who recorded it may be unknown.

    Examples:
        >>> [leads_outside(name) for name in ("model.safetensors", "below/vocabulary", "../notes", "/dev/zero")]
        [False, False, True, True]
    """
    path = PurePosixPath(name)
    return path.is_absolute() or ".." in path.parts or "\\" in name


def _hash_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=HASH_BYTES)).hexdigest()
