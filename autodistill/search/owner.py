"""The process that holds a search directory, as its `owner.json` names it; it may have been killed since."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from autodistill.json_files import read_json
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

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"
