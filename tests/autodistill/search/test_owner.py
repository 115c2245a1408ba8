"""The process that holds a search directory, as its file names it."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from directory_cases import opened

from autodistill.search.owner import Owner

RECORD: dict[str, Any] = {"process": 12, "host": "node-3", "since": "2026-01-02T03:04:05+01:00"}


def test_owner_of_a_directory_that_is_held_is_this_process(tmp_path: Path) -> None:
    with opened(tmp_path):
        owner = Owner.of(tmp_path)
        assert owner is not None
        assert (owner.process, owner.host) == (os.getpid(), platform.node())
        assert str(owner) == f"process {os.getpid()} on {platform.node()}"


def test_owner_is_read_with_its_time_in_utc(tmp_path: Path) -> None:
    (tmp_path / "owner.json").write_text(json.dumps(RECORD))
    owner = Owner.of(tmp_path)
    assert owner == Owner(12, "node-3", datetime(2026, 1, 2, 2, 4, 5, tzinfo=UTC))


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        *(
            json.dumps(RECORD | change)
            for change in (
                {"process": -1},
                {"process": 0},
                {"process": True},
                {"process": 10**400},
                {"process": "1"},
                {"host": 3},
                {"since": 3},
                {"since": "0001-01-01T00:00:00+05:00"},
            )
        ),
    ],
)
def test_owner_is_unknown_without_a_valid_file(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "owner.json").write_text(content)
    assert Owner.of(tmp_path) is None
