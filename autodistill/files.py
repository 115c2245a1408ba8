"""Files and folders on disk: written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

TEMPORARY_SUFFIX = ".tmp"
"""The suffix of everything that is being written or removed; a killed process may leave such files."""


# The names of temporary files: of this and of earlier versions, and of `safetensors.torch.save_file`.
_TEMPORARY_NAME = re.compile(r".*" + re.escape(TEMPORARY_SUFFIX) + r"|\.tmp\w{6}")


@contextlib.contextmanager
def replacing(path: Path, *, cached: bool = False) -> Iterator[Path]:
    """A temporary path next to `path` for a new file or folder, renamed to `path` when the context ends.

    A reader finds either the complete old content or the complete new content, even if the writer is killed or
    the power fails; when a folder is replaced, or replaces something, neither exists for a moment. If the context
    raises, `path` is unchanged. The temporary name is random: nobody can place a link there through which another file
    would be written, and no file of the user has it. What a killed writer of the same path left is removed.

    Args:
        path: of the file or folder, in a folder that exists; previous content is replaced.
        cached: for a file that can be recomputed and that its reader checks, as in a cache of thousands. Several
            processes may write it at the same time, and it is not synced to disk: a sync takes about 40 ms for 9 MB,
            four times as long as writing. After a power failure it may be missing or truncated.

    Raises:
        OSError: it cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     with replacing(Path(directory) / "notes.txt") as temporary:
        ...         _ = temporary.write_text("complete")
        ...     [(file.name, file.read_text()) for file in Path(directory).iterdir()]
        [('notes.txt', 'complete')]
    """
    if not cached:  # several processes write the files of a cache
        _delete_leftovers(path)
    temporary = _temporary(path)
    try:
        yield temporary
        if not cached:
            _sync_all(temporary)
        old = _move_away(path) if temporary.is_dir() or path.is_dir() else None
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            _delete(temporary)
        raise
    if not cached:
        sync_directory(path.parent)
    if old is not None:
        _delete(old)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it exists; a process that is killed meanwhile leaves no part of it at `path`.

    Raises:
        OSError: it cannot be removed.
    """
    _delete(_move_away(path))


def move(source: Path, target: Path) -> None:
    """Move a file or folder that is on disk to another path, where it replaces what is there.

    Raises:
        OSError: it cannot be moved.
    """
    old = _move_away(target)
    os.replace(source, target)
    sync_directory(target.parent)
    _delete(old)


def sync_directory(path: Path) -> None:
    """Wait until a directory's entries are on disk, if the operating system supports that."""
    if os.name == "posix":
        sync_file(path)


def _sync_all(path: Path) -> None:
    """Wait until a file, or a folder with everything in it, is on disk."""
    if not path.is_dir():
        return sync_file(path)
    for folder, _, names in os.walk(path):
        for name in names:
            sync_file(Path(folder, name))
        sync_directory(Path(folder))


def sync_file(path: Path) -> None:
    """Wait until a file's content is on disk.

    Raises:
        OSError: it does not exist, or cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def delete_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Delete everything below a folder that a killed process was writing or removing.

    Args:
        folder: which nobody else writes to; if others do, `older_than` must be given.
        older_than: seconds since the last change; younger files may still be written by another process.

    Raises:
        OSError: something cannot be deleted.
    """
    latest = time.time() - older_than
    for entry in leftovers(folder):
        if entry.lstat().st_mtime <= latest:
            _delete(entry)


def leftovers(folder: Path) -> Iterator[Path]:
    """The files and folders below a folder that a process is writing or removing, or was when it was killed."""
    for path, folders, names in os.walk(folder):
        yield from (Path(path, name) for name in [*folders, *names] if is_temporary(name))
        folders[:] = [name for name in folders if not is_temporary(name)]


def is_temporary(name: str) -> bool:
    """Whether a name is that of a file or folder that is being written or removed."""
    return _TEMPORARY_NAME.fullmatch(name) is not None


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{uuid.uuid4().hex}{TEMPORARY_SUFFIX}")


def _delete_leftovers(path: Path) -> None:
    """Delete what earlier writers of `path` left; nothing else has a name of this form."""
    form = re.compile(re.escape(path.name) + r"\.[0-9a-f]{32}" + re.escape(TEMPORARY_SUFFIX))
    for entry in list(path.parent.iterdir()):
        if form.fullmatch(entry.name):
            _delete(entry)


def _move_away(path: Path) -> Path:
    """Rename what is at `path`, if anything, and return its new path."""
    old = _temporary(path)
    with contextlib.suppress(FileNotFoundError):
        os.replace(path, old)
    return old


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_or_device(folder: Path) -> Path | None:
    """Something below a folder that is neither a file nor a folder, such as a symbolic link or a pipe; None if not.

    Links lead out of the folder, and reading a pipe may never end.

    Raises:
        OSError: a folder cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     (Path(directory) / "notes.txt").touch()
        ...     link_or_device(Path(directory))
        ...     (Path(directory) / "link").symlink_to("/")
        ...     link_or_device(Path(directory)).name
        'link'
    """
    folders = [folder]
    while folders:
        with contextlib.suppress(FileNotFoundError), os.scandir(folders.pop()) as entries:  # its owner may remove it
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(Path(entry.path))
                elif not entry.is_file(follow_symlinks=False):
                    return Path(entry.path)
    return None


def problem_of(read: Callable[[Path], object], path: Path) -> str | None:
    """What is wrong with the content of a file, as reading it reports by a `ValueError`; None if nothing is.

    Raises:
        OSError: the file cannot be read.

    Examples:
        >>> problem_of(lambda path: int(path.name), Path("12")), problem_of(lambda path: int(path.name), Path("x"))
        (None, "invalid literal for int() with base 10: 'x'")
    """
    try:
        read(path)
    except ValueError as error:
        return str(error)
    return None


def directory_problem(path: Any) -> str | None:
    """Why a path cannot be that of a directory, existing or not, as the end of a sentence; None if it can.

    Examples:
        >>> directory_problem(3)
        'must be the path of a directory, but got 3'
        >>> directory_problem(f"{__file__}/runs") == f"must be a directory, but {__file__} is a file"
        True
    """
    if not isinstance(path, str | Path) or not str(path).strip():
        return f"must be the path of a directory, but got {path!r}"
    file = next((part for part in (Path(path), *Path(path).parents) if part.is_file()), None)
    return None if file is None else f"must be a directory, but {file} is a file"
