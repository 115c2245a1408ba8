"""A folder on any file system that fsspec reaches: an object store such as S3, a network share, memory.

Workers on other computers keep checkpoints and students there, while they write to a local folder.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import uuid
from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

from autodistill.errors import ConfigurationError, StorageError, text_of
from autodistill.files import is_temporary, replacing

logger = logging.getLogger(__name__)

Seen = dict[Path, tuple[int, int]]
"""The time of the last change and the size of files."""

_OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "adl", "oss"}
"""Where there are no folders, and a file that is written appears only when it is complete."""

_EXTRAS = {"s3": "s3", "s3a": "s3"}
"""The extra of this project that installs what a protocol needs."""


class RemoteFiles:
    """A folder of files, to and from which local folders are copied. It can be sent to other processes.

    Args:
        url: of the folder, such as `s3://bucket/searches/digits`.
        options: of fsspec for this file system; credentials belong into the environment of the workers.

    Examples:
        >>> import tempfile
        >>> remote = RemoteFiles("memory://example")
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     _ = (Path(directory) / "notes.txt").write_text("complete")
        ...     remote.upload(Path(directory), "folder")
        ...     _ = remote.download("folder", Path(directory) / "copy")
        ...     (Path(directory) / "copy" / "notes.txt").read_text(), remote.names("folder")
        ('complete', ['notes.txt'])
    """

    def __init__(self, url: str, options: Mapping[str, Any] | None = None) -> None:
        self.url = url
        self._options = dict(options or {})

    def __getstate__(self) -> dict[str, Any]:
        """Without the connection."""
        return {"url": self.url, "_options": self._options}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemoteFiles) and self.__getstate__() == other.__getstate__()

    def __hash__(self) -> int:
        return hash(self.url)

    @cached_property
    def _place(self) -> tuple[Any, str]:
        """The file system, and the path of the folder there."""
        system, root = fsspec.core.url_to_fs(self.url, **self._options)
        return system, root.rstrip("/")

    @property
    def _is_object_store(self) -> bool:
        return self.url.partition("://")[0] in _OBJECT_STORES

    def check(self) -> None:
        """Write a file there, read it, and remove it.

        Raises:
            ConfigurationError: the file system is not known, cannot be reached, or is read-only.
        """
        name = f"{uuid.uuid4().hex}.check"
        try:
            system, _ = self._place
            if not self._is_object_store:  # where this would create a bucket
                system.makedirs(self._path(""), exist_ok=True)
            system.pipe_file(self._path(name), b"written")
            if system.cat_file(self._path(name)) != b"written":
                raise OSError("a file that was written holds something else")
            system.rm_file(self._path(name))
        except Exception as error:  # of any library
            raise ConfigurationError(
                f"storage must be a folder that can be written and read, but {self.url} is not: {text_of(error)}; "
                f"{self._remedy(error)}."
            ) from error

    def _remedy(self, error: Exception) -> str:
        protocol = self.url.partition("://")[0]
        if isinstance(error, ImportError):
            extra = _EXTRAS.get(protocol)
            return f'pip install "autodistill-nas[{extra}]"' if extra else "install the library that it names"
        if isinstance(error, ValueError):
            return "take a URL of a file system of fsspec, such as s3://bucket/folder"
        return "check the URL, the credentials and the network"

    def upload(self, source: Path, target: str) -> None:
        """Copy a local file, or all files of a folder, each of which appears whole or not at all.

        Raises:
            StorageError: a file cannot be written.
        """
        files = [source] if source.is_file() else [file for file in sorted(source.rglob("*")) if file.is_file()]
        for file in files:
            name = file.relative_to(source).as_posix()
            self._upload(file, target if name == "." else f"{target}/{name}")

    def _upload(self, file: Path, target: str) -> None:
        with self._reported(f"write {target}"):
            system, _ = self._place
            path = self._path(target)
            if self._is_object_store:
                system.put_file(str(file), path)
                return
            system.makedirs(path.rpartition("/")[0], exist_ok=True)
            unfinished = f"{path}.{uuid.uuid4().hex}.tmp"
            system.put_file(str(file), unfinished)
            system.mv(unfinished, path)

    def download(self, source: str, target: Path) -> bool:
        """Copy a folder to a local one, which replaces what is there, completely or not at all.

        Returns:
            Whether there is anything.

        Raises:
            StorageError: a file cannot be read.
        """
        with self._reported(f"read {source}"):
            system, _ = self._place
            system.invalidate_cache()  # others write there
            path = self._path(source)
            found = [file for file in system.find(path) if not is_temporary(file.rpartition("/")[2])]
            if not found:
                return False
            base = system._strip_protocol(path)
            with replacing(target) as temporary:
                for file in found:
                    local = temporary / PurePosixPath(file).relative_to(base)
                    local.parent.mkdir(parents=True, exist_ok=True)
                    system.get_file(file, str(local))
            return True

    def names(self, folder: str) -> list[str]:
        """The names of the files and folders in a folder; none if it does not exist.

        Raises:
            StorageError: it cannot be read.
        """
        with self._reported(f"list {folder}"):
            system, _ = self._place
            system.invalidate_cache()
            try:
                entries = system.ls(self._path(folder), detail=False)
            except FileNotFoundError:
                return []
            base = system._strip_protocol(self._path(folder))
            names = (entry.rstrip("/") for entry in entries)
            return sorted(name.rpartition("/")[2] for name in names if name != base and not is_temporary(name))

    def remove(self, path: str) -> None:
        """Remove a file or a folder, if it exists.

        Raises:
            StorageError: it cannot be removed.
        """
        with self._reported(f"remove {path}"), contextlib.suppress(FileNotFoundError):
            system, _ = self._place
            system.invalidate_cache()
            system.rm(self._path(path), recursive=True)

    @contextlib.contextmanager
    def mirroring(
        self,
        source: Path,
        target: str,
        *,
        seen: Seen | None = None,
        excluded: Collection[str] = (),
        seconds: float = 10.0,
    ) -> Iterator[None]:
        """Within the context, new and changed files below a local folder are copied, and once more at its end.

        Args:
            source: which need not exist yet.
            target: the folder there.
            seen: files that are not copied unless they change.
            excluded: names of folders that are left out.
            seconds: between two looks.

        Raises:
            StorageError: a file cannot be written at the end of the context.
        """
        mirror = _Mirror(self, source, target, dict(seen or {}), excluded)
        ended = threading.Event()
        thread = threading.Thread(target=mirror.run, args=(ended, seconds), daemon=True)
        thread.start()
        try:
            yield
        except BaseException:
            ended.set()
            thread.join()
            with contextlib.suppress(StorageError):  # the first error counts
                mirror.copy()
            raise
        ended.set()
        thread.join()
        mirror.copy()

    def _path(self, relative: str) -> str:
        parts = PurePosixPath(relative).parts
        if relative.startswith("/") or ".." in parts:
            raise ValueError(f"a path must be inside of the folder, but got {relative!r}.")
        return "/".join((self._place[1], *parts))

    @contextlib.contextmanager
    def _reported(self, action: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of any library
            raise StorageError(
                f"the storage {self.url} must be available, but cannot {action}: {text_of(error)}"
            ) from error


def files_seen(folder: Path) -> Seen:
    """All files below a folder as they are now, by their paths in it."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder): _state(file) for file in files}


def _state(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size


class _Mirror:
    """Copies what is new."""

    def __init__(self, remote: RemoteFiles, source: Path, target: str, seen: Seen, excluded: Collection[str]) -> None:
        self._remote = remote
        self._source = source
        self._target = target
        self._seen = seen
        self._excluded = set(excluded)
        self._reported = False

    def run(self, ended: threading.Event, seconds: float) -> None:
        """Copy again and again, until the end."""
        while not ended.wait(seconds):
            try:
                self.copy()
            except StorageError as error:
                if not self._reported:
                    logger.warning("%s; this is tried again", error)
                self._reported = True

    def copy(self) -> None:
        """Copy all new and changed files."""
        for file in sorted(self._source.rglob("*")) if self._source.exists() else ():
            relative = file.relative_to(self._source)
            if self._excluded.intersection(relative.parts) or any(map(is_temporary, relative.parts)):
                continue
            with contextlib.suppress(FileNotFoundError):  # it was replaced or removed meanwhile
                state = _state(file)
                if file.is_file() and self._seen.get(relative) != state:
                    self._remote.upload(file, f"{self._target}/{relative.as_posix()}")
                    self._seen[relative] = state
