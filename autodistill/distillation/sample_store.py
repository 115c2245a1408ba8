"""What the teacher computed for each sample: rows by key, in memory and in append-only files."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from autodistill.files import sync_directory, sync_file
from autodistill.tensor_files import write_tensors
from autodistill.tensors import content_hash, nbytes

logger = logging.getLogger(__name__)

Row = Mapping[str, torch.Tensor]
"""The fields of one sample, as `{"feature": (L, C)}`."""

KEY_BYTES = 16

CHECKSUM_BYTES = 8

SEGMENT_BYTES = 16 * 2**20
"""Pending rows are written when they exceed this size."""

SUFFIX = ".safetensors"

Place = tuple[int, int]
"""The number of a block, and of a row in it."""


class SampleStore:
    """Rows of tensors by key, which several processes can share.

    Rows that were put are pending until they become one segment, a file that never changes. A killed process loses
    pending rows only. Rows that were put or read stay in memory while they fit; the others are read from their
    segment when requested. Whatever is damaged on disk counts as missing, with a warning, and can be put again; what
    cannot be written is kept in memory only.

    All rows of a store have the same fields, types and numbers of axes; the sizes of axes may differ. A row is
    returned to the bit, on the CPU, with its fields in alphabetical order; it may share memory with the store, and must
    not be changed.

    Args:
        directory: of the segments, created when the first one is written; None keeps rows in memory only.
        memory_bytes: the maximum size of the rows in memory, besides up to 16 MiB of pending rows.
        write_through: every `put` writes a segment, which other processes find.

    Examples:
        >>> store = SampleStore(None, memory_bytes=2**20)
        >>> first, second = bytes(16), bytes([1] * 16)
        >>> store.put([first], [{"feature": torch.ones(2, 3)}])
        24
        >>> store.get([first, second])
        [{'feature': tensor([[1., 1., 1.],
                [1., 1., 1.]])}, None]
    """

    def __init__(self, directory: Path | None, *, memory_bytes: int, write_through: bool = False) -> None:
        self._directory = directory
        self._memory_left = memory_bytes
        self._write_through = write_through
        self._blocks: list[_Block | _Segment | None] = []  # None: its rows are missing
        self._index: dict[bytes, Place] = {}
        self._pending: list[tuple[list[bytes], int]] = []  # the keys of a block, and its number
        self._pending_bytes = 0
        self._names: set[str] | None = None  # of the segments in the index; None before the first use
        self._unsynced: list[Path] = []
        self._form: dict[str, tuple[torch.dtype, int]] | None = None
        self._warned_of_writing = False

    def count(self) -> int:
        """The number of rows, including those in segments that other processes have written so far."""
        self._find_segments()
        return sum(self._holds(key) for key in self._index)

    def get(self, keys: Sequence[bytes]) -> list[Row | None]:
        """The rows of some keys, in order; None for those that are missing.

        If one is missing, segments are searched that other processes have written since.
        """
        if not all(map(self._holds, keys)):
            self._find_segments()
        places: dict[int, list[tuple[bytes, int]]] = {}
        for key in keys:
            if self._holds(key):
                block, number = self._index[key]
                places.setdefault(block, []).append((key, number))
        found: dict[bytes, Row] = {}
        for block, numbers in places.items():
            found |= self._read(block, numbers)
        return [found.get(key) for key in keys]

    def put(self, keys: Sequence[bytes], rows: Sequence[Row]) -> int:
        """Store rows, and return the size in bytes of those that are new; a key that is already stored keeps its row.

        Args:
            keys: of 16 bytes each.
            rows: one for each key, on any device.

        Raises:
            ValueError: a key does not have 16 bytes, the numbers of keys and rows differ, or a row has other fields,
                types or numbers of axes than the rows before it.
        """
        if self._names is None:
            self._find_segments()
        new: dict[bytes, Row] = {}
        for key, row in zip(keys, rows, strict=True):
            self._check(key, row)
            if key not in new and not self._holds(key):
                new[key] = row
        if self._directory is None:
            self._keep(new)
        elif new:
            block = self._add(new)
            self._pending.append((list(new), block))
            self._pending_bytes += self._block(block).nbytes
            if self._write_through or self._pending_bytes > SEGMENT_BYTES:
                self._write()
        return sum(map(nbytes, new.values()))

    def flush(self) -> None:
        """Write the pending rows, and wait until all rows that were put are on disk."""
        if self._pending:
            self._write()
        unsynced, self._unsynced = self._unsynced, []
        try:
            for path in unsynced:
                with contextlib.suppress(FileNotFoundError):
                    sync_file(path)
            if unsynced:
                sync_directory(unsynced[0].parent)
        except OSError as error:
            self._warn_of_writing(error)

    def _holds(self, key: bytes) -> bool:
        return key in self._index and self._blocks[self._index[key][0]] is not None

    def _check(self, key: bytes, row: Row) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(
                f"a key must have {KEY_BYTES} bytes, but {key!r} has {len(key)}; use a hash of the sample's content."
            )
        form = {name: (row[name].dtype, row[name].dim()) for name in sorted(row)}
        if self._form is None and form:
            self._form = form
        if form != self._form:
            raise ValueError(
                "the rows of a store must have the same fields, types and numbers of axes, at least one field, but "
                f"{form} follows {self._form}; use another store for them."
            )

    def _add(self, rows: Mapping[bytes, Row]) -> int:
        """Keep rows in memory as one block, and return its number."""
        self._blocks.append(_Block(list(rows.values())))
        self._index |= {key: (len(self._blocks) - 1, number) for number, key in enumerate(rows)}
        return len(self._blocks) - 1

    def _keep(self, rows: Mapping[bytes, Row]) -> None:
        """Keep those rows in memory that fit."""
        fitting: dict[bytes, Row] = {}
        for key, row in rows.items():
            size = nbytes(row)
            if size <= self._memory_left:
                fitting[key] = row
                self._memory_left -= size
        if fitting:
            self._add(fitting)

    def _read(self, block: int, numbers: Sequence[tuple[bytes, int]]) -> dict[bytes, Row]:
        """The undamaged ones of some rows of a block, by their keys."""
        source = self._blocks[block]
        if isinstance(source, _Block):
            return {key: source.row(number) for key, number in numbers}
        assert source is not None
        try:
            if not source.in_memory and source.nbytes <= self._memory_left:
                source.load()
                self._memory_left -= source.nbytes
            rows = source.rows(numbers)
        except (SafetensorError, OSError, ValueError) as error:
            self._blocks[block] = None
            self._discard(source.path, error)
            return {}
        for key, _ in numbers:
            if key not in rows:
                self._index.pop(key, None)
        if not source.in_memory:
            self._keep(rows)
        return rows

    def _write(self) -> None:
        """Write the pending rows as one segment; those that do not fit in memory are then read from it."""
        segment = self._write_segment([(keys, self._block(block)) for keys, block in self._pending])
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        self._blocks.append(segment)
        start = 0
        for keys, block in pending:
            size = self._block(block).nbytes
            if size <= self._memory_left:
                self._memory_left -= size
            else:
                self._blocks[block] = None
                self._index |= {key: (len(self._blocks) - 1, start + number) for number, key in enumerate(keys)}
            start += len(keys)

    def _block(self, number: int) -> _Block:
        block = self._blocks[number]
        assert isinstance(block, _Block)
        return block

    def _write_segment(self, blocks: Sequence[tuple[list[bytes], _Block]]) -> _Segment | None:
        assert self._directory is not None
        rows = {key: block.row(number) for keys, block in blocks for number, key in enumerate(keys)}
        tensors = _tensors(rows)
        path = self._directory / f"{content_hash((tensors['keys'], tensors['checksums']))}{SUFFIX}"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # Two processes may write the same segment at the same time; `flush` syncs it.
            size = write_tensors(path, tensors, cached=True)
        except (SafetensorError, OSError) as error:
            self._warn_of_writing(error)
            return None
        self._unsynced.append(path)
        assert self._names is not None
        self._names.add(path.name)
        return _Segment(path, size, len(rows))

    def _warn_of_writing(self, error: Exception) -> None:
        if not self._warned_of_writing:
            self._warned_of_writing = True
            logger.warning(
                "the teacher's outputs cannot be written to %s (%s); they are kept in memory while they fit, and "
                "recomputed otherwise",
                self._directory,
                error,
            )

    def _status(self, names: Iterable[str]) -> list[tuple[int, str, int]]:
        """When each of some segments was written, its name and its size in bytes."""
        found = []
        for name in names:
            assert self._directory is not None
            with contextlib.suppress(OSError):  # another process may have deleted it
                status = (self._directory / name).stat()
                found.append((status.st_mtime_ns, name, status.st_size))
        return found

    def _find_segments(self) -> None:
        """Add the rows of unknown segments to the index."""
        known = self._names = self._names or set()
        unknown = self._status(name for name in _names_in(self._directory) if name not in known)
        # The newest first: it may repeat rows that are damaged in others.
        for _, name, size in sorted(unknown, reverse=True):
            assert self._directory is not None
            known.add(name)
            path = self._directory / name
            try:
                keys = _read_keys(path)
            except (SafetensorError, OSError, ValueError) as error:
                self._discard(path, error)
                continue
            block = len(self._blocks)
            self._blocks.append(_Segment(path, size, len(keys)))
            self._index |= {key: (block, number) for number, key in enumerate(keys) if not self._holds(key)}

    def _discard(self, path: Path, error: Exception) -> None:
        """Delete a damaged segment; one that another process has deleted needs no warning."""
        assert self._names is not None
        if not isinstance(error, FileNotFoundError):
            logger.warning("the segment %s of teacher outputs is damaged (%s); its rows are recomputed", path, error)
        if isinstance(error, OSError) and not isinstance(error, FileNotFoundError):
            return  # the file may be right: the process may lack permission, or have too many files open
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            self._names.discard(path.name)  # it may be written again


def problem_in(path: Path) -> str | None:
    """What is wrong with a segment; None if nothing is. Every row is checked.

    Raises:
        OSError: it cannot be read.
    """
    try:
        keys = _read_keys(path)
        damaged = _Segment(path, 0, len(keys)).count_damaged(keys)
    except (SafetensorError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return f"{damaged} of {len(keys)} rows have other checksums" if damaged else None


class _Layout:
    """Where each row is in the flat tensors of a block.

    Args:
        shapes: of each field, the shapes of all rows: (rows, axes).
        elements: of each field, the number of elements of all rows.

    Raises:
        ValueError: the shapes contradict the number of elements.
    """

    def __init__(self, shapes: Mapping[str, torch.Tensor], elements: Mapping[str, int]) -> None:
        self.elements = elements
        self._shapes = {name: shape.numpy() for name, shape in shapes.items()}
        self._starts = {name: _starts(name, shape, elements[name]).numpy() for name, shape in shapes.items()}

    def row(self, sources: Mapping[str, Any], number: int) -> Row:
        """A row, from the flat tensors of its fields, or slices of a file."""
        row = {}
        for name, starts in self._starts.items():
            flat = sources[name][starts.item(number) : starts.item(number + 1)]
            row[name] = flat.view(self._shapes[name][number].tolist())
        return row


def _starts(name: str, shapes: torch.Tensor, elements: int) -> torch.Tensor:
    """The first element of each row, and the end of the last one."""
    # Products of 64-bit integers can overflow; in floating point they are exact below 2**53, and never too small.
    sizes = shapes.double()
    if (shapes < 0).any() or (sizes.clamp(min=1).prod(1) >= 2**53).any() or sizes.prod(1).sum() != elements:
        raise ValueError(f"the shapes of {name} do not have {elements} elements together")
    return torch.cat([torch.zeros(1, dtype=torch.int64), shapes.prod(1).cumsum(0)])


class _Block:
    """Rows in memory: the elements of each field are one flat tensor."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._values, shapes = _packed(rows)
        self._layout = _Layout(shapes, {name: flat.numel() for name, flat in self._values.items()})
        self.nbytes = nbytes(self._values)

    def row(self, number: int) -> Row:
        return self._layout.row(self._values, number)


class _Segment:
    """Rows in a file, which may be loaded whole; every row is checked when it is read.

    Methods raise `SafetensorError`, `OSError` or `ValueError` if the file is missing or damaged.

    Args:
        path: of the file.
        nbytes: its size.
        count: its number of rows.
    """

    def __init__(self, path: Path, nbytes: int, count: int) -> None:
        self.path = path
        self.nbytes = nbytes
        self._layout: _Layout | None = None
        self._checksums = b""
        self._values: dict[str, torch.Tensor] | None = None
        self._checked = bytearray(count)  # 1 for the rows in memory that have been checked
        self._warned = False

    @property
    def in_memory(self) -> bool:
        return self._values is not None

    def load(self) -> None:
        """Keep all rows in memory."""
        with _opened(self.path) as file:
            self._read_layout(file)
            self._values = {name: file.get_tensor(f"values.{name}").clone() for name in _fields(file)}

    def rows(self, numbers: Sequence[tuple[bytes, int]]) -> dict[bytes, Row]:
        """The undamaged ones of some rows, by their keys."""
        if self._values is not None:
            return self._undamaged(numbers, self._values)
        with _opened(self.path) as file:
            self._read_layout(file)
            rows = self._undamaged(numbers, _slices(file))
            # A slice is mapped to the file.
            return {key: {name: field.clone() for name, field in row.items()} for key, row in rows.items()}

    def count_damaged(self, keys: Sequence[bytes]) -> int:
        """The number of damaged rows.

        Args:
            keys: of all rows.
        """
        with _opened(self.path) as file:
            self._read_layout(file)
            assert self._layout is not None
            sources = _slices(file)
            return sum(
                not self._is_right(key, number, self._layout.row(sources, number)) for number, key in enumerate(keys)
            )

    def _read_layout(self, file: Any) -> None:
        elements = {name: file.get_slice(f"values.{name}").get_shape()[0] for name in _fields(file)}
        rows = file.get_slice("keys").get_shape()[0]
        if rows != len(self._checked) or (self._layout is not None and self._layout.elements != elements):
            raise ValueError("another file has replaced it")
        if self._layout is None:
            shapes = {name: file.get_tensor(f"shapes.{name}").clone() for name in elements}
            self._layout = _Layout(shapes, elements)
            self._checksums = file.get_tensor("checksums").numpy().tobytes()

    def _undamaged(self, numbers: Sequence[tuple[bytes, int]], sources: Mapping[str, Any]) -> dict[bytes, Row]:
        assert self._layout is not None
        rows = {}
        for key, number in numbers:
            row = self._layout.row(sources, number)
            if self._checked[number] or self._is_right(key, number, row):
                self._checked[number] = self.in_memory
                rows[key] = row
        if len(rows) < len(dict(numbers)) and not self._warned:
            self._warned = True
            logger.warning("rows of the segment %s of teacher outputs are damaged; they are recomputed", self.path)
        return rows

    def _is_right(self, key: bytes, number: int, row: Row) -> bool:
        start = number * CHECKSUM_BYTES
        return _checksum(key, row) == self._checksums[start : start + CHECKSUM_BYTES]


def _tensors(rows: Mapping[bytes, Row]) -> dict[str, torch.Tensor]:
    """The content of a segment."""
    values, shapes = _packed(list(rows.values()))
    checksums = b"".join(_checksum(key, row) for key, row in rows.items())
    return {
        "keys": _matrix(b"".join(rows), KEY_BYTES),
        "checksums": _matrix(checksums, CHECKSUM_BYTES),
        **{f"values.{name}": flat for name, flat in values.items()},
        **{f"shapes.{name}": shape for name, shape in shapes.items()},
    }


def _matrix(data: bytes, width: int) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8).view(-1, width)


def _packed(rows: Sequence[Row]) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """For each field the elements of all rows, a flat copy on the CPU, and the shapes of all rows."""
    names = sorted(rows[0])
    values = {name: torch.cat([row[name].detach().reshape(-1) for row in rows]).cpu() for name in names}
    shapes = {
        name: torch.tensor([list(row[name].shape) for row in rows], dtype=torch.int64).view(len(rows), -1)
        if rows[0][name].dim()
        else torch.empty((len(rows), 0), dtype=torch.int64)
        for name in names
    }
    return values, shapes


def _checksum(key: bytes, row: Row) -> bytes:
    """A hash of a row, of its key, and of the names, types and shapes of its fields in alphabetical order."""
    digest = hashlib.blake2b(key, digest_size=CHECKSUM_BYTES)
    for name, field in row.items():
        digest.update(repr((name, str(field.dtype), tuple(field.shape))).encode())
        digest.update(field.view(-1).view(torch.uint8).numpy().data)
    return digest.digest()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A segment, of which names, types and numbers of rows are right.

    Raises:
        SafetensorError, OSError, ValueError: it is damaged.
    """
    with safe_open(path, framework="pt") as file:
        names = set(file.keys())
        fields = _fields(file)
        expected = {"keys", "checksums", *(f"{kind}.{name}" for kind in ("values", "shapes") for name in fields)}
        if names != expected or not fields:
            raise ValueError(f"it holds {', '.join(sorted(names)) or 'no tensors'}")
        forms = {name: (file.get_slice(name).get_dtype(), file.get_slice(name).get_shape()) for name in names}
        rows = forms["keys"][1][:1]
        right = forms["keys"] == ("U8", [*rows, KEY_BYTES]) and forms["checksums"] == ("U8", [*rows, CHECKSUM_BYTES])
        for name in fields:
            dtype, shape = forms[f"shapes.{name}"]
            right &= dtype == "I64" and len(shape) == 2 and shape[:1] == rows
            right &= len(forms[f"values.{name}"][1]) == 1
        if not right:
            raise ValueError(f"its tensors have the types and shapes {forms}")
        yield file


def _slices(file: Any) -> dict[str, Any]:
    """The flat tensors of a segment by field, of which parts can be read."""
    return {name: file.get_slice(f"values.{name}") for name in _fields(file)}


def _fields(file: Any) -> list[str]:
    return sorted(name.removeprefix("values.") for name in file.keys() if name.startswith("values."))  # noqa: SIM118


def _read_keys(path: Path) -> list[bytes]:
    """The keys of a segment; raises what `_opened` raises."""
    with _opened(path) as file:
        data = file.get_tensor("keys").numpy().tobytes()
    return [data[start : start + KEY_BYTES] for start in range(0, len(data), KEY_BYTES)]


def _names_in(directory: Path | None) -> Iterable[str]:
    """The names of the segments in a directory, which may be missing."""
    if directory is None:
        return []
    try:
        return [name for name in os.listdir(directory) if name.endswith(SUFFIX)]
    except OSError:
        return []
