"""Small facts that a forward of the teacher reveals: found once, kept in memory and on disk."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from autodistill.json_files import decode_json, encode_json, read_json, write_json
from autodistill.tensors import content_hash

logger = logging.getLogger(__name__)

FOLDER = "facts"
"""In the directory of the teacher cache."""

VERSION = 1
"""Of what is kept: raised when a function that finds a fact finds another one."""


_DAMAGE = (ValueError, KeyError, TypeError)


class Facts:
    """Facts in JSON, by all that they depend on.

    A file that is damaged is replaced, with a warning; one that cannot be written is left out, with a warning.

    Args:
        directory: with a file for each fact; it need not exist. None keeps facts in memory only.
        read_only: nothing is written there.

    Examples:
        >>> facts = Facts(None)
        >>> facts.get(("layers", "of BERT"), lambda: 12)
        12
        >>> facts.get(("layers", "of BERT"), lambda: 13)
        12
    """

    def __init__(self, directory: Path | None, *, read_only: bool = False) -> None:
        self._directory = directory
        self._read_only = read_only
        self._warned = False  # that a file cannot be written
        self._memory: dict[tuple[Hashable, ...], Any] = {}

    def get(self, made_of: tuple[Hashable, ...], find: Callable[[], Any], *, on_disk: bool = True) -> Any:
        """A fact, as JSON returns it: tuples are lists.

        Args:
            made_of: everything that the fact depends on, and its name.
            find: returns the fact, which is JSON; called if it is not kept.
            on_disk: False for what depends on something without a reliable hash.
        """
        if made_of not in self._memory:
            is_stored = on_disk and self._directory is not None
            self._memory[made_of] = self._stored(made_of, find) if is_stored else _as_json(find())
        return self._memory[made_of]

    def _stored(self, made_of: tuple[Hashable, ...], find: Callable[[], Any]) -> Any:
        assert self._directory is not None
        path = self._directory / f"{content_hash((VERSION, made_of))}.json"
        try:
            return _read(path)
        except FileNotFoundError:
            pass
        except (OSError, *_DAMAGE):
            logger.warning("the fact about the teacher in %s is damaged; it is found again", path)
        fact = _as_json(find())
        if self._read_only:
            return fact
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            write_json(path, {"fact": fact, "hash": content_hash(encode_json(fact))}, cached=True)
        except OSError as error:
            if not self._warned:
                logger.warning("facts about the teacher are not kept: %s cannot be written (%s)", path, error)
            self._warned = True
        return fact


def _as_json(fact: Any) -> Any:
    return decode_json(encode_json(fact))


def problem_in(path: Path) -> str | None:
    """What is wrong with the file of a fact; None if nothing is.

    Raises:
        OSError: it cannot be read.
    """
    try:
        _read(path)
    except _DAMAGE as error:
        return f"{type(error).__name__}: {error}"
    return None


def _read(path: Path) -> Any:
    """The fact in a file.

    Raises:
        OSError: the file cannot be read.
        ValueError, KeyError, TypeError: it is damaged.
    """
    content = read_json(path)
    if content["hash"] != content_hash(encode_json(content["fact"])):
        raise ValueError("the hash of a fact must be that of its text, but it is another one.")
    return content["fact"]
