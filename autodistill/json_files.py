"""JSON files, written whole or not at all, and with a hash that is verified when they are read. No NaN or infinity."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from autodistill.file_hashes import CHANGED, HASH_BYTES
from autodistill.files import replacing

HASH = "hash"
"""The key of a record under which `write_record` writes the hash of the rest."""

_LARGEST = 2**28  # bytes

_DEEPEST = 100  # levels of nested JSON: what is deeper exhausts the stack of the functions that copy or write it
_TOO_DEEP = f"it is nested more than {_DEEPEST} levels deep"


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
    return hashlib.blake2b(encode_json(dict(record)).encode(), digest_size=HASH_BYTES).hexdigest()


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
