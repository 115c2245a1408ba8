"""Ways to damage a file or a folder, and what a search in the damaged directory still finds."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np

from autodistill.search.trial import Trial

Damage = Callable[[Path, np.random.Generator], object]


def _one_bit(file: Path, rng: np.random.Generator) -> None:
    content = bytearray(file.read_bytes())
    if content:
        content[rng.integers(len(content))] ^= 1 << int(rng.integers(8))
    file.write_bytes(content)


def each_with_one_bit_changed(content: bytes, bits: Iterable[int]) -> Iterator[bytes]:
    """The content with one of these bits changed in one of its bytes, for every byte."""
    for position in range(len(content)):
        for bit in bits:
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            yield bytes(changed)


def _folder(file: Path, rng: np.random.Generator) -> None:
    file.unlink()
    file.mkdir()


FILE_DAMAGES: dict[str, Damage] = {
    "one bit": _one_bit,
    "noise": lambda file, rng: file.write_bytes(rng.bytes(max(1, file.stat().st_size))),
    "half": lambda file, rng: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file, rng: os.truncate(file, 0),
    "deleted": lambda file, rng: file.unlink(),
    "a folder": _folder,
    "unreadable": lambda file, rng: file.chmod(0),
}

FOLDER_DAMAGES: dict[str, Damage] = {
    "deleted": lambda folder, rng: shutil.rmtree(folder),
    "unreadable": lambda folder, rng: folder.chmod(0),
    "read-only": lambda folder, rng: folder.chmod(0o500),
}

_OTHER_USER = 65_534


@contextlib.contextmanager
def bound_by_permissions(folder: Path) -> Iterator[None]:
    """Within the context this process is bound by permissions, also if it runs as root; it owns the folder."""
    if os.name != "posix" or os.geteuid() != 0:
        yield
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, _OTHER_USER, _OTHER_USER, follow_symlinks=False)
    os.seteuid(_OTHER_USER)
    try:
        yield
    finally:
        os.seteuid(0)


def make_readable(folder: Path) -> None:
    """Restore the permissions of everything below a folder."""
    folder.chmod(0o700)
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            make_readable(path)
        else:
            path.chmod(0o600)


def kind_of(path: Path) -> str:
    """What a file or folder of a search directory is: its relative path without numbers and hashes.

    Names of files of tensors are hashes or blocks, but for those of a student and of regular distillation.
    """
    parts = ["N" if part.isdecimal() else part for part in path.parts]
    if path.suffix == ".safetensors" and path.stem not in ("model", "regular"):
        parts[-1] = "*.safetensors"
    elif parts[0] == "teacher_cache" and path.suffix == ".json":
        parts[-1] = "*.json"
    return "/".join("HASH" if len(part) == 32 else part for part in parts)


def results_of(trial: Trial) -> tuple[object, ...]:
    """What is the same in every search that tries the architecture of a trial to the same end."""
    return trial.metrics, trial.after_flash, trial.student, trial.details.get("distillation")
