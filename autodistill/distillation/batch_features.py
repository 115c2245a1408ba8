"""Features of batches: kept in memory and in files, within limits."""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path
from typing import NamedTuple

import torch

from autodistill.files import delete_leftovers
from autodistill.models.taps import Tap
from autodistill.tensor_files import read_hashed_tensors, write_hashed_tensors
from autodistill.tensors import content_hash, nbytes

logger = logging.getLogger(__name__)

FEATURE = "feature"
"""The name of a file's one tensor."""

_LONGEST_WRITE = 3600.0
"""Seconds after which a temporary file is none that another process is writing."""

HEADER = 192
"""The maximum overhead of a file beyond its one feature, in bytes."""


class FeatureKey(NamedTuple):
    """What a feature depends on.

    Attributes:
        computed_by: hashes of the teacher and how it runs.
        batch: the hash of the batch.
        tap: of the teacher.
    """

    computed_by: tuple[str, ...]
    batch: str
    tap: Tap

    @property
    def file(self) -> str | None:
        """The name of its file; None if its tap has a function, which has no reliable hash."""
        if callable(self.tap.process):
            return None
        fingerprint, *rest = self.computed_by
        return f"{content_hash((fingerprint, self.batch, self.tap.path, self.tap.process, *rest))}.safetensors"


class BatchFeatures:
    """Keeps features of batches by all that they depend on.

    A file that is damaged is removed, with a warning; what cannot be written is kept in memory only.

    Args:
        directory: of the files, which other things may share; None keeps features in memory only.
        memory_bytes: the maximum size in memory; features beyond it are read from their files.
        disk_bytes: the maximum size of the directory. Files that this object has not used are removed for new ones,
            those used longest ago first.
        read_only: nothing is written to the directory, nor removed from it.

    Examples:
        >>> features = BatchFeatures(None, memory_bytes=100, disk_bytes=0)
        >>> key = FeatureKey(("teacher",), "batch", Tap("layer"))
        >>> features.put(key, torch.ones(2))
        >>> features.get(key), features.holds(key._replace(batch="other"))
        (tensor([1., 1.]), False)
    """

    def __init__(
        self, directory: Path | None, *, memory_bytes: float, disk_bytes: float, read_only: bool = False
    ) -> None:
        self._directory = directory
        self._memory_left = memory_bytes
        self._disk_bytes = disk_bytes
        self._read_only = read_only
        self._memory: dict[FeatureKey, torch.Tensor] = {}
        self._disk_used = 0 if directory is None else _size_of(directory, clean_up=not read_only)
        self._used: set[Path] = set()
        self._damaged: set[Path] = set()
        self._is_full = False  # of files that this object has used
        self._warned = False  # that a file cannot be written

    @property
    def on_disk(self) -> bool:
        """Whether there is a directory."""
        return self._directory is not None

    def get(self, key: FeatureKey) -> torch.Tensor | None:
        """A feature; None if it is not kept."""
        if key in self._memory:
            return self._memory[key]
        path = self._path(key)
        if path is None or not path.exists():
            return None
        try:
            feature = _read(path)
        except (OSError, KeyError, ValueError):
            logger.warning("the cached teacher feature %s is damaged; it is recomputed", path)
            self._damaged.add(path)
            if not self._read_only:
                with contextlib.suppress(OSError):
                    path.unlink(missing_ok=True)
            return None
        self._use(path)
        self._remember(key, feature)
        return feature

    def holds(self, key: FeatureKey) -> bool:
        """Whether a feature is kept."""
        path = self._path(key)
        return key in self._memory or (path is not None and path not in self._damaged and path.exists())

    def put(self, key: FeatureKey, feature: torch.Tensor, *, in_memory: bool = True, on_disk: bool = True) -> None:
        """Keep a feature, as far as the limits allow.

        Args:
            key: what it depends on.
            feature: the feature.
            in_memory: False for one that is read later, if ever.
            on_disk: False for one that is not worth a file.
        """
        if in_memory or self._directory is None:
            self._remember(key, feature)
        path, size = self._path(key), nbytes(feature) + HEADER
        if path is None or not on_disk or not self._make_room(size):
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            stored = feature.cpu().contiguous()
            self._disk_used += write_hashed_tensors(path, {FEATURE: stored}, cached=True)
            self._used.add(path)
            self._damaged.discard(path)
        except OSError as error:
            if not self._warned:
                logger.warning("the teacher's features are not kept on disk: %s", error)
            self._warned = True

    def displace(self, size: int) -> None:
        """Count a file of something more valuable in the directory, for which features make room."""
        self._disk_used += size
        if self._directory is not None:
            self._make_room(0, displacing_used=True)

    def _remember(self, key: FeatureKey, feature: torch.Tensor) -> None:
        size = nbytes(feature)
        if size <= self._memory_left:
            self._memory[key] = feature
            self._memory_left -= size

    def _path(self, key: FeatureKey) -> Path | None:
        name = key.file
        return None if self._directory is None or name is None else self._directory / name

    def _use(self, path: Path) -> None:
        """Note that a file is used, for other processes by its time: the files used last are removed last."""
        if path not in self._used and not self._read_only:
            self._used.add(path)
            with contextlib.suppress(OSError):  # in another user's directory
                os.utime(path)

    def _make_room(self, size: int, *, displacing_used: bool = False) -> bool:
        """Remove files, those used longest ago first, until the directory has room; whether it has."""
        if self._read_only:
            return False
        if self._disk_used + size <= self._disk_bytes:
            return True
        if self._is_full and not displacing_used:
            return False
        for is_used, _, path in self._files():
            if self._disk_used + size <= self._disk_bytes or (is_used and not displacing_used):
                break
            with contextlib.suppress(OSError):  # another process may have removed it
                freed = path.stat().st_size
                path.unlink()
                self._disk_used -= freed
        self._is_full = self._disk_used + size > self._disk_bytes
        return not self._is_full

    def _files(self) -> list[tuple[bool, int, Path]]:
        """The files: whether this object has used them, and when they were used last; in this order."""
        assert self._directory is not None
        found = []
        for path in self._directory.glob("[0-9a-f]*.safetensors"):  # other names are other things, which are small
            with contextlib.suppress(FileNotFoundError):
                found.append((path in self._used, path.stat().st_mtime_ns, path))
        return sorted(found)


def _size_of(directory: Path, *, clean_up: bool) -> int:
    """The size of all files in a directory in bytes; what killed processes left is removed, or counted."""
    if clean_up:
        with contextlib.suppress(OSError):
            delete_leftovers(directory, older_than=_LONGEST_WRITE)
    size = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # another process may have removed it
                size += Path(folder, name).stat().st_size
    return size


def _read(path: Path) -> torch.Tensor:
    """The feature in a file.

    Raises:
        OSError: the file cannot be read.
        KeyError, ValueError: it is damaged.
    """
    return read_hashed_tensors(path)[0][FEATURE]
