"""Short forms of the campaigns, which need no `strace`: a forked search that meets its end at some change of its files.

The operations that Python announces to audit hooks (open, rename, remove, mkdir, rmdir) are those at which it ends.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_files import decided, differences, is_kept, recorded
from torture_searches import short

from autodistill import SearchDirectoryError, SearchResult, SearchStoppedError

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks"),
    pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning"),  # the threads of libraries do nothing
]

CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir")
FINISHED, STOPPED, OTHERWISE = 0, 1, 2
FULL = os.strerror(errno.ENOSPC)

Act = Callable[[int], None]
"""Receives the number of a change that is about to happen, from 1."""


def at_every_change(directory: Path, act: Act) -> None:
    """Call a function before every change in a directory, from now to the end of this process."""
    changes = iter(range(1, sys.maxsize))

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event not in CHANGES or not str(arguments[0]).startswith(str(directory)):
            return
        if event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        act(next(changes))

    sys.addaudithook(watch)


def run(directory: Path, act: Act) -> int:
    """Run or resume a search in a process of its own, and return its exit code."""
    process = os.fork()
    if process:
        return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    code = OTHERWISE
    try:
        at_every_change(directory, act)
        short(directory, lambda **event: None)
        code = FINISHED
    except (SearchStoppedError, SearchDirectoryError) as error:
        code = STOPPED if FULL in str(error) else OTHERWISE
    finally:
        os._exit(code)


def never(number: int) -> None:
    """Nothing happens at a change."""


def die_at(last: int) -> Act:
    def die(number: int) -> None:
        if number == last:
            os.kill(os.getpid(), signal.SIGKILL)

    return die


def full_from(first: int) -> Act:
    def fail(number: int) -> None:
        if number >= first:
            raise OSError(errno.ENOSPC, FULL)

    return fail


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, int]]:
    """What a search decides, and how often it changes its directory."""
    directory = tmp_path_factory.mktemp("undisturbed")
    read, write = os.pipe()

    def count(number: int) -> None:
        os.write(write, b".")

    assert run(directory / "search", count) == FINISHED
    os.close(write)
    with os.fdopen(read, "rb") as changes:
        yield decided(directory / "search"), len(changes.read())


def test_search_killed_again_and_again_loses_nothing(tmp_path: Path, undisturbed: tuple[Any, int]) -> None:
    outcome, changes = undisturbed
    generator = np.random.default_rng(0)
    kills = 0
    directory = tmp_path / "search"
    while True:
        before = recorded(directory)
        code = run(directory, die_at(int(generator.integers(1, changes // 3))))
        after = {trial.number: trial for trial in recorded(directory)}
        assert all(is_kept(trial, after.get(trial.number)) for trial in before)
        if code == FINISHED:
            break
        assert code == -signal.SIGKILL
        kills += 1
    assert kills >= 5
    assert differences(directory, outcome) == []


def test_search_on_a_full_disk_stops_and_resumes(tmp_path: Path, undisturbed: tuple[Any, int]) -> None:
    outcome, changes = undisturbed
    for first in sorted(np.random.default_rng(0).choice(np.arange(1, changes), 8, replace=False)):
        directory = tmp_path / str(first)
        assert run(directory, full_from(first)) == STOPPED
        assert not (directory / "search.json").exists() or SearchResult.load(directory).failed == []
        assert run(directory, never) == FINISHED
        assert differences(directory, outcome) == []
