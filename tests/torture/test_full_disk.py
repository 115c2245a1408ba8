"""Searches whose disk is full or faulty stop with one clear message, and end as if undisturbed once it is not."""

from __future__ import annotations

import errno
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strace
from nursery import Nursery, Run
from search_files import decided, differences, recorded

from autodistill import SearchResult

pytestmark = pytest.mark.slow

TRACED = pytest.mark.skipif(strace.missing() is not None, reason=f"system calls cannot be traced: {strace.missing()}")
ENDS = ("SearchStoppedError", "SearchDirectoryError")
FAULTS_OF_KIND = {"unlink": errno.EIO, "rmdir": errno.EIO, "fsync": errno.EIO}
"""The fault of the kinds that need no space; that of the others is a full disk."""

OTHER_FAULTS = (errno.EIO, errno.EDQUOT, errno.EROFS, errno.EACCES)
OF_OPEN_FILES = ("write", "fsync")
"""The kinds that meet no lack of permission."""

MOST_ATTEMPTS = 3
"""To let a certain call fail; after a miss, the calls are counted again, of which some concern other files."""

STAYS_FULL = ("write", "pwrite64", "mkdir")
"""The system calls that fail until there is space again."""


@dataclass
class Campaign:
    """What is counted.

    Args:
        nursery: runs the searches.
        outcome: what an undisturbed search decides.
        calls: of an undisturbed search, in order, those that change its directory.
        name: of the search.
        ends: how often a search ended with which error, or finished in spite of its faults.
        faults: by name.
        kinds: of the system calls that failed first.
        lost: recorded trials that have changed or vanished.
        different: what was wrong, by directory.
    """

    nursery: Nursery
    outcome: Any
    calls: list[strace.Call] = field(default_factory=list)
    name: str = "short"
    ends: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    different: dict[str, list[str]] = field(default_factory=dict)

    def disturbed(self, run: Run, directory: Path, fault: int) -> list[str]:
        """What is wrong with the end of a search that met a fault."""
        self.ends["finished" if run.error is None else run.error[0]] += 1
        wrong = [f"trial {trial.number} failed: {trial.error}" for trial in failed(directory)]
        if run.error is None and run.exit_code == 0:
            return wrong
        kind, message = run.error or (f"exit code {run.exit_code}", "")
        if kind not in ENDS or os.strerror(fault) not in message or "\n" in message:
            wrong.append(f"it ended with {kind}: {message}")
        return wrong

    def finish(self, directory: Path, label: str, wrong: list[str]) -> None:
        """Resume the search on a disk without faults, and compare."""
        before = recorded(directory)
        run = self.nursery.run(self.name, directory)
        after = recorded(directory)
        kept = {trial.number: trial.after_flash or trial.metrics for trial in after}
        self.lost += sum(kept.get(trial.number) != (trial.after_flash or trial.metrics) for trial in before)
        wrong = wrong + differences(directory, self.outcome)
        if run.exit_code != 0:
            wrong.append(f"it then ended with {run.exit_code}, {run.error}")
        if wrong:
            self.different[label] = wrong

    def summary(self) -> str:
        finished = self.ends["finished"]
        stopped = ", ".join(f"{count} {name}" for name, count in sorted(self.ends.items()) if name != "finished")
        injected = ", ".join(f"{count} {name}" for name, count in sorted((self.faults + self.kinds).items()))
        return (
            f"{self.ends.total()} searches{f' ({injected})' if injected else ''}: {self.ends.total() - finished} "
            f"stopped with a message ({stopped}), {finished} finished in spite of it, {self.lost} lost, "
            f"{len(self.different)} different"
        )

    def assert_nothing_happened(self) -> None:
        assert not self.different, "\n".join(f"{name}: {found}" for name, found in self.different.items())
        assert self.lost == 0


def failed(directory: Path) -> list[Any]:
    return SearchResult.load(directory).failed if (directory / "search.json").exists() else []


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("undisturbed") / "search"
    assert nursery.run("short", directory).exit_code == 0
    return directory


@pytest.fixture(scope="module")
def calls(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> list[strace.Call]:
    """The system calls of an undisturbed search that change its directory, in order."""
    return nursery.trace("short", tmp_path_factory.mktemp("traced") / "search")


Injections = Callable[[int, list[strace.Call], int], list[str]]
"""The position of a call, all calls, and the fault it meets -> what `strace` injects."""


def inject(campaign: Campaign, number: int, directory: Path, injections: Injections, fault: int) -> None:
    """Run a search in which one of its calls fails, and resume it without faults."""
    for attempt in range(MOST_ATTEMPTS):
        if attempt:
            campaign.calls = campaign.nursery.trace(campaign.name, directory.with_name(f"{directory.name}-traced"))
        directory = directory.with_name(f"{directory.name}-{attempt}")
        log = directory.with_suffix(".trace")
        attach = strace.attach(log, injections(number, campaign.calls, fault))
        run = campaign.nursery.run(campaign.name, directory, attach=attach)
        kind = campaign.calls[number].kind
        failed_calls = [call for call in strace.calls(log) if call.injected]
        if failed_calls and failed_calls[0].kind == kind and failed_calls[0].concerns(directory):
            break
    else:
        pytest.fail(f"no {kind} has failed in {directory}")
    campaign.faults[errno.errorcode[fault]] += 1
    campaign.kinds[f"at {kind}"] += 1
    campaign.finish(directory, directory.name, campaign.disturbed(run, directory, fault))


def once(number: int, calls: list[strace.Call], fault: int) -> list[str]:
    """One call fails."""
    return [f"{calls[number].name}:error={errno.errorcode[fault]}:when={calls[number].occurrence}"]


def from_then_on(number: int, calls: list[strace.Call], fault: int) -> list[str]:
    """From one call on, all that need space fail; their numbers count calls that concern other files, too."""
    first: dict[str, int] = {}
    for call in calls[number:]:
        first.setdefault(call.name, call.occurrence)
    return [f"{name}:error={errno.errorcode[fault]}:when={first[name]}+" for name in STAYS_FULL if name in first]


@TRACED
def test_search_in_which_every_system_call_fails_in_turn_stops_with_a_message_and_resumes(
    nursery: Nursery,
    undisturbed: Path,
    calls: list[strace.Call],
    tmp_path: Path,
    seed: int,
    report: Callable[[str], None],
) -> None:
    campaign = Campaign(nursery, decided(undisturbed), calls)
    generator = np.random.default_rng(seed)
    for number, call in enumerate(calls):
        fault = FAULTS_OF_KIND.get(call.kind, errno.ENOSPC)
        inject(campaign, number, tmp_path / f"{number:03d}-{call.kind}", once, fault)
    for number in generator.choice(len(calls), 40, replace=False):
        fault = OTHER_FAULTS[generator.integers(3 if calls[number].kind in OF_OPEN_FILES else 4)]
        directory = tmp_path / f"{number:03d}-{calls[number].kind}-{errno.errorcode[fault]}"
        inject(campaign, number, directory, once, fault)
    report(f"one system call fails: {campaign.summary()}")
    campaign.assert_nothing_happened()


@TRACED
def test_search_whose_disk_stays_full_from_any_system_call_on_stops_with_a_message_and_resumes(
    nursery: Nursery, undisturbed: Path, calls: list[strace.Call], tmp_path: Path, report: Callable[[str], None]
) -> None:
    campaign = Campaign(nursery, decided(undisturbed), calls)
    for number, call in enumerate(calls):
        if call.name in STAYS_FULL:
            inject(campaign, number, tmp_path / f"{number:03d}", from_then_on, errno.ENOSPC)
    report(f"the disk stays full from a system call on: {campaign.summary()}")
    campaign.assert_nothing_happened()


# --- a real disk ------------------------------------------------------------------------------------------------------

KIB = 2**10
SMALLEST = 4 * KIB


class SmallDisk:
    """A mounted file system in memory, of a size in bytes; unmounted at the end."""

    def __init__(self, path: Path, size: int) -> None:
        self.path, self.size = path, size

    def __enter__(self) -> SmallDisk:
        self.path.mkdir()
        mount(self.size, str(self.path))
        return self

    def grow(self, size: int) -> None:
        mount(size, str(self.path), "remount,")

    def __exit__(self, *exception: object) -> None:
        subprocess.run(["umount", "--lazy", str(self.path)], check=True)


def mount(size: int, path: str, options: str = "") -> None:
    command = ["mount", "-t", "tmpfs", "-o", f"{options}size={size}", "tmpfs", path]
    subprocess.run(command, check=True, capture_output=True, text=True)


def mounted(path: Path) -> str | None:
    """Why no file system can be mounted; None if it can."""
    try:
        with SmallDisk(path, SMALLEST):
            return None
    except FileNotFoundError as error:
        return str(error)
    except subprocess.CalledProcessError as error:
        return str(error.stderr).strip()


def used(directory: Path) -> int:
    """The space of a directory on a file system in memory, which has whole pages."""
    return sum(-(-path.stat().st_size // SMALLEST) * SMALLEST for path in directory.rglob("*") if path.is_file())


def test_search_on_a_small_disk_stops_with_a_message_and_resumes_when_there_is_space(
    nursery: Nursery, undisturbed: Path, tmp_path: Path, report: Callable[[str], None]
) -> None:
    problem = mounted(tmp_path / "trial")
    if problem is not None:
        pytest.skip(f"a small disk cannot be mounted: {problem}")
    campaign = Campaign(nursery, decided(undisturbed))
    largest = used(undisturbed) + 8 * SMALLEST  # for unfinished files
    sizes = range(SMALLEST, largest + SMALLEST, SMALLEST)
    for size in sizes:
        with SmallDisk(tmp_path / f"{size}", size) as disk:
            directory = disk.path / "search"
            wrong = campaign.disturbed(nursery.run("short", directory), directory, errno.ENOSPC)
            disk.grow(2 * largest)
            campaign.finish(directory, f"{size // KIB} KiB", wrong)
    report(f"disks of {sizes[0] // KIB} to {sizes[-1] // KIB} KiB: {campaign.summary()}")
    campaign.assert_nothing_happened()
