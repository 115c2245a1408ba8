"""Files and folders on disk: written whole or not at all. JSON has no NaN or infinity."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

TEMPORARY_SUFFIX = ".tmp"
"""The suffix of everything that is being written or removed; a killed process may leave such files."""


# The names of temporary files: of this and of earlier versions, and of `safetensors.torch.save_file`.
_TEMPORARY_NAME = re.compile(r".*" + re.escape(TEMPORARY_SUFFIX) + r"|\.tmp\w{6}")

HASH = "hash"
"""The key of a record under which `write_record` writes the hash of the rest."""

CHANGED = "its content is not what was written: the hashes differ"

_HASH_BYTES = 16

_LARGEST = 2**28

_DEEPEST = 100  # levels of nested JSON: what is deeper exhausts the stack of the functions that copy or write it
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


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


def encode_json(value: Any) -> str:
    """The text of a JSON file.

    Raises:
        ValueError: something in `value` is not JSON, NaN and infinity included; the message says where it is.

    Examples:
        >>> encode_json({"losses": [0.5, float("nan")]})
        Traceback (most recent call last):
        ...
        ValueError: what is recorded must be JSON with finite numbers, but losses[1] is nan.
    """
    problem = _first_problem(value, "")
    if problem is not None:
        raise ValueError(f"what is recorded must be JSON with finite numbers, but {problem}.")
    return json.dumps(value, indent=2, allow_nan=False) + "\n"


def decode_json(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: the text is not JSON; NaN, infinity and numbers beyond the largest float are not. Or it is nested
            more than 100 levels deep.

    Examples:
        >>> decode_json("1e999")
        Traceback (most recent call last):
        ...
        ValueError: 1e999 is beyond the largest float
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    layer = [value]
    for _ in range(_DEEPEST):
        layer = [item for outer in layer for item in _items(outer) if isinstance(item, dict | list)]
        if not layer:
            return value
    raise ValueError(_TOO_DEEP)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: the content is not JSON, or more than 256 MiB, which no record is.
        OSError: the file cannot be read.
    """
    size = path.stat().st_size
    if size > _LARGEST:
        raise ValueError(f"it has {size:,} bytes, and a record at most {_LARGEST:,}")
    return decode_json(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any, *, cached: bool = False) -> None:
    """Write a JSON file by `replacing`.

    Args:
        path: of the file, in a folder that exists.
        value: its content.
        cached: it can be computed again; see `replacing`.

    Raises:
        ValueError: `value` is not JSON.
        OSError: the file cannot be written.
    """
    text = encode_json(value)
    with replacing(path, cached=cached) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Write a JSON file by `replacing`, with a hash of its content.

    Args:
        path: of the file, in a folder that exists.
        record: its content, without the key `HASH`.

    Raises:
        ValueError: `record` is not JSON.
        OSError: the file cannot be written.
    """
    write_json(path, {**record, HASH: _hash_of_record(record)})


def read_record(path: Path) -> Any:
    """The content of a JSON file that `write_record` wrote; a file without a hash is returned as it is.

    Raises:
        ValueError: the content is not JSON, or not what was written.
        OSError: the file cannot be read.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     write_record(Path(directory) / "record.json", {"accuracy": 0.9})
        ...     read_record(Path(directory) / "record.json")
        {'accuracy': 0.9}
    """
    record = read_json(path)
    if isinstance(record, dict) and HASH in record and record.pop(HASH) != _hash_of_record(record):
        raise ValueError(CHANGED)
    return record


def _hash_of_record(record: Mapping[str, Any]) -> str:
    return hashlib.blake2b(encode_json(dict(record)).encode(), digest_size=_HASH_BYTES).hexdigest()


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
        return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=_HASH_BYTES)).hexdigest()


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
        ...     write_json(Path(directory) / "notes.json", {})
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


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _finite(token: str) -> float:
    number = float(token)
    if math.isinf(number):
        raise ValueError(f"{token} is beyond the largest float")
    return number


def _refuse_constant(token: str) -> NoReturn:
    raise ValueError(f"{token} is not JSON")


def _first_problem(value: Any, where: str) -> str | None:
    if isinstance(value, Mapping):
        if not isinstance(value, dict):
            return f"{where or 'it'} is a {type(value).__name__}"
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{where or 'it'} has the key {key!r}, which is no string"
            problem = _first_problem(item, f"{where}.{key}" if where else key)
            if problem is not None:
                return problem
        return None
    if isinstance(value, list | tuple):
        problems = (_first_problem(item, f"{where}[{position}]") for position, item in enumerate(value))
        return next((problem for problem in problems if problem is not None), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"{where or 'it'} is {value}"
    if value is None or isinstance(value, str | int | float | bool):
        return None
    return f"{where or 'it'} is a {type(value).__name__}"


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
