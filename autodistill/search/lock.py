"""The lock of a search directory: it must be available for this search, and one process holds it at a time."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from autodistill.errors import SearchDirectoryError
from autodistill.files import TEMPORARY_SUFFIX, read_json, write_json
from autodistill.search.layout import LOCK_FILE, OWNER_FILE, SEARCH_FILE, TEACHER_CACHE, ensure_no_links, holds_search
from autodistill.search.trial import now

# What a directory may hold before it holds a search: the first process to open it may have been killed.
_BEFORE_A_SEARCH = {LOCK_FILE, OWNER_FILE, TEACHER_CACHE}  # the cache is filled when a student is trained alone


def prepare(path: Path) -> None:
    """Create the directory if it does not exist.

    Raises:
        SearchDirectoryError: it is a file, cannot be created, or holds something other than a search, or links.
    """
    if path.exists() and not path.is_dir():
        raise SearchDirectoryError(f"search_dir must be a directory, but {path} is a file; name another path.")
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)
        entries = {entry.name for entry in path.iterdir()}
    ensure_no_links(path)
    if holds_search(path):
        return
    foreign = sorted(name for name in entries - _BEFORE_A_SEARCH if not name.endswith(TEMPORARY_SUFFIX))
    if foreign:
        shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise SearchDirectoryError(
            f"search_dir must be new, empty or hold a search, but {path} holds {shown} and no {SEARCH_FILE}; "
            "name another path."
        )


def hold(path: Path) -> FileLock:
    """Hold the directory until the lock is released or this process ends, for whatever reason.

    Raises:
        SearchDirectoryError: it is held already, or not writable.
    """
    lock = FileLock(path / LOCK_FILE, blocking=False)
    try:
        with writing(path):
            lock.acquire()
    except Timeout:
        try:
            owner = read_json(path / OWNER_FILE)
            holder = f"process {owner['process']} on {owner['host']} has been since {owner['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            holder = "another process is"
        raise SearchDirectoryError(
            f"one process at a time works on a search, but {holder} at work on {path}; wait for it or stop it."
        ) from None
    with writing(path):
        write_json(
            path / OWNER_FILE,
            {"process": os.getpid(), "host": platform.node(), "since": now().isoformat(timespec="seconds")},
        )
    return lock


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `SearchDirectoryError` for a disk that is full, read-only or missing."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise SearchDirectoryError(f"search_dir must be writable, but {path} is not: {error}") from error
