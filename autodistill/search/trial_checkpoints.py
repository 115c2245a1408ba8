"""The checkpoints of a trial: each start has a folder of its own, and begins with what earlier ones have left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from autodistill.files import is_temporary
from autodistill.search.layout import CHECKPOINT, checkpoint_directory


def take_over(trial: Path, start: int) -> Path:
    """The folder of the checkpoints of one start: that of the last one renamed, with what older ones have besides.

    Every file is complete, since it is written whole or not at all, and stands for itself. Of two with one name the
    later start's counts.

    Args:
        trial: the folder of the trial.
        start: the number of the start; the first one has nothing to take over.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     first = take_over(Path(directory), 1)
        ...     first.mkdir(parents=True)
        ...     _ = (first / "regular.safetensors").write_bytes(b"")
        ...     [file.name for file in take_over(Path(directory), 2).iterdir()], first.exists()
        (['regular.safetensors'], False)
    """
    folder = checkpoint_directory(trial, start)
    earlier = _starts_before(trial, start)
    if earlier:
        os.replace(earlier.pop(), folder)
    for older in reversed(earlier):  # which a worker that was given up has written since
        for file in older.iterdir():
            if file.is_file() and not is_temporary(file.name) and not (folder / file.name).exists():
                os.replace(file, folder / file.name)
        shutil.rmtree(older, ignore_errors=True)
    return folder


def _starts_before(trial: Path, start: int) -> list[Path]:
    """The folders of earlier starts, in order."""
    if start <= 1:
        return []
    try:
        folders = [folder for folder in (trial / CHECKPOINT).iterdir() if folder.name.isdecimal()]
    except FileNotFoundError:
        return []
    return sorted((folder for folder in folders if int(folder.name) < start), key=lambda folder: int(folder.name))
