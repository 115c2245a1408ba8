"""JSON on disk: written whole or not at all, and never with NaN or infinity, which are not JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

TEMPORARY_SUFFIX = ".tmp"


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
        ValueError: the text is not JSON; NaN and infinity are not.
    """
    return json.loads(text, parse_constant=_refuse_constant)


def read_json(path: Path) -> Any:
    """The value of a JSON file.

    Raises:
        ValueError: the content is not JSON.
        OSError: the file cannot be read.
    """
    return decode_json(path.read_text(encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file: whoever reads it, and whenever the writer is killed, finds the old one or the new one whole.

    Raises:
        ValueError: `value` is not JSON.
        OSError: the file cannot be written.
    """
    os.replace(stage_json(path, value), path)
    sync_directory(path.parent)


def stage_json(path: Path, value: Any) -> Path:
    """Write the temporary file that is to become `path`, and see it onto the disk."""
    text = encode_json(value)
    staged = path.with_name(path.name + TEMPORARY_SUFFIX)
    with open(staged, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return staged


def sync_directory(path: Path) -> None:
    """See a directory's entries onto the disk, where the system can."""
    if os.name != "posix":
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
