"""The lock of a search directory: it must be available for this search, and one process holds it at a time."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from autodistill.errors import SearchDirectoryError
from autodistill.files import TEMPORARY_SUFFIX
from autodistill.json_files import write_json
from autodistill.search.layout import LOCK_FILE, OWNER_FILE, SEARCH_FILE, TEACHER_CACHE, ensure_no_links, holds_search
from autodistill.search.owner import Owner
from autodistill.search.trial import now

_PATIENCE = 0.3
"""Seconds after which a lock that another process holds is refused."""

_WITHOUT_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}

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


class DirectoryLock:
    """Holds a directory until `release`, or until this process ends, for whatever reason.

    Args:
        path: of the directory.

    Raises:
        SearchDirectoryError: it is held already, not writable, or on a file system without locks.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path / LOCK_FILE, timeout=_PATIENCE)
        try:
            with writing(path), _supported(path):
                self._lock.acquire()
        except Timeout:
            raise SearchDirectoryError(
                f"one process at a time works on a search, but {_holder(path)} at work on {path}; wait for it or stop "
                "it."
            ) from None
        owner = {"process": os.getpid(), "host": platform.node(), "since": now().isoformat(timespec="seconds")}
        try:
            with writing(path):
                self._identity = _identity(path / LOCK_FILE)
                write_json(path / OWNER_FILE, owner)
        except BaseException:
            self._lock.release()
            raise

    def verify(self) -> None:
        """Ensure that no other process can hold the directory too.

        Raises:
            SearchDirectoryError: the file of the lock was removed or replaced, so that another process may hold it.
        """
        try:
            is_the_same = _identity(self._path / LOCK_FILE) == self._identity
        except OSError:
            is_the_same = False
        if not is_the_same and not holds_search(self._path):
            raise SearchDirectoryError(
                f"a search directory must stay in place while a search runs, but {self._path} was removed; restore it, "
                "or start again."
            )
        if not is_the_same:
            raise SearchDirectoryError(
                f"{LOCK_FILE} must stay in place while a search runs, but that in {self._path} was removed or "
                "replaced; ensure that no other process is at work there, then resume the search."
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.release()

    def release(self) -> None:
        """Let others hold the directory."""
        try:
            if self._lock.is_locked:
                with contextlib.suppress(OSError, SearchDirectoryError):
                    self.verify()  # otherwise the owner is another process
                    (self._path / OWNER_FILE).unlink(missing_ok=True)
        finally:
            self._lock.release()


def is_held(path: Path) -> bool:
    """Whether a process holds a directory. Where this process may not lock it, `owner.json` decides.

    To find out, this process holds it for a moment, for which `DirectoryLock` waits.
    """
    if not (path / LOCK_FILE).exists():
        return False
    try:
        with FileLock(path / LOCK_FILE, blocking=False):
            return False
    except Timeout:
        return True
    except OSError:
        return Owner.of(path) is not None


def _identity(file: Path) -> tuple[int, int]:
    """What distinguishes a file from others of its name, as long as it is open."""
    status = file.stat()
    return status.st_dev, status.st_ino


def _holder(path: Path) -> str:
    owner = Owner.of(path)
    return "another process is" if owner is None else f"{owner} is, since {owner.since:%Y-%m-%d %H:%M} UTC,"


@contextlib.contextmanager
def _supported(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _WITHOUT_LOCKS:
            raise
        raise SearchDirectoryError(
            f"search_dir must be on a file system with locks, but that of {path} provides none ({error.strerror}); "
            "take a local directory, or start the lock service of the network file system."
        ) from error


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raise `SearchDirectoryError` for a disk that is full, read-only or missing."""
    try:
        yield
    except Timeout:
        raise
    except OSError as error:
        raise SearchDirectoryError(f"search_dir must be writable, but {path} is not: {error}") from error
