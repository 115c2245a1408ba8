"""The process that holds a search directory, as its `owner.json` names it."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autodistill.files import read_json
from autodistill.search.layout import OWNER_FILE

_LARGEST_PROCESS = 2**31 - 1


@dataclass(frozen=True)
class Owner:
    """The process that took the lock of a search directory last.

    Args:
        process: its number.
        host: the name of its computer.
        since: when it took the lock, in UTC.
    """

    process: int
    host: str
    since: datetime

    @classmethod
    def of(cls, search_dir: Path) -> Owner | None:
        """The owner of a search directory; None if nobody has held it since it was released, or this is not known."""
        try:
            record = read_json(search_dir / OWNER_FILE)
            process, host, since = record["process"], record["host"], datetime.fromisoformat(record["since"])
            since = since.astimezone(UTC)
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return None
        if type(process) is not int or not 0 < process <= _LARGEST_PROCESS or not isinstance(host, str):
            return None
        return cls(process, host, since)

    @classmethod
    def at_work(cls, search_dir: Path) -> Owner | None:
        """The process that is at work on a search; None if there is none."""
        owner = cls.of(search_dir)
        return None if owner is None or owner.is_gone else owner

    @property
    def is_gone(self) -> bool:
        """Whether its process has ended without releasing the directory; False if that cannot be found out.

        It cannot for a process on another computer. A process that has its number by now is taken for it.
        """
        if self.host != platform.node() or os.name != "posix":
            return False
        try:
            os.kill(self.process, 0)  # sends no signal
        except ProcessLookupError:
            return True
        except PermissionError:  # it is another user's
            pass
        return False

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"
