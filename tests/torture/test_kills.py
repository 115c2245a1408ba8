"""Searches that are killed at random moments and between system calls lose nothing, and end as if undisturbed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import strace
from nursery import Nursery, Run
from search_files import decided, differences, is_kept, leftovers, recorded

from autodistill import Trial, TrialState

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(strace.missing() is not None, reason=f"system calls cannot be traced: {strace.missing()}"),
]

SEARCHES = ("promoted", "evolving", "patient")
KILLS = 100
MOST_KILLS_OF_A_SEARCH = 6
MOST_ATTEMPTS = 3
"""To kill before a certain call; after a miss, the calls are counted again, of which some concern other files."""

Kill = Callable[["Undisturbed", Path], Run]
"""Run a search in a directory, and kill it, unless it ends before."""


@dataclass
class Undisturbed:
    """A search that was not killed.

    Args:
        name: of the search.
        outcome: what it decided.
        seconds: how long it took.
        calls: its system calls.
    """

    name: str
    outcome: Any
    seconds: float
    calls: list[strace.Call]


@dataclass
class Campaign:
    """What is counted.

    Args:
        nursery: runs the searches.
        lost: recorded trials that have changed or vanished.
        repeated: evaluations of trials that were complete.
        different: what differs from the undisturbed search, or was left over, by directory.
        searches: how many searches were killed.
        kinds: kills before system calls that would have changed the directory, by kind.
        others: kills before other system calls: those that change nothing in the directory.
        random: kills at random moments.
    """

    nursery: Nursery
    lost: int = 0
    repeated: int = 0
    different: dict[str, list[str]] = field(default_factory=dict)
    searches: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    others: int = 0
    random: int = 0

    def follow(self, run: Callable[[], Run], directory: Path) -> Run:
        """Run or resume a search, and count what it lost or repeated of what was recorded."""
        before = recorded(directory)
        result = run()
        after = {trial.number: trial for trial in recorded(directory)}
        self.lost += sum(not is_kept(trial, after.get(trial.number)) for trial in before)
        for trial in before:
            due = 0 if trial.state is TrialState.COMPLETE else 1  # a trial after flash distillation is finished once
            self.repeated += max(0, result.evaluated.count(shape(trial)) - due)
        return result

    def finish(self, undisturbed: Undisturbed, directory: Path) -> None:
        """Resume a search until it ends, and compare it with the undisturbed one."""
        run = self.follow(partial(self.nursery.run, undisturbed.name, directory), directory)
        found = differences(directory, undisturbed.outcome)
        if run.exit_code != 0:
            found.append(f"it ended with {run.exit_code}, {run.error}")
        if found:
            self.different[directory.name] = found
        self.searches += 1

    def summary(self) -> str:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kinds.items()))
        total = self.random + self.kinds.total() + self.others
        return (
            f"{total} SIGKILLs in {self.searches} searches, {self.random} at random moments, {self.kinds.total()} "
            f"between calls that write (before {kinds}), {self.others} before other calls: {self.lost} lost, "
            f"{self.repeated} repeated, {len(self.different)} different"
        )

    def assert_nothing_happened(self) -> None:
        assert not self.different, "\n".join(f"{name}: {found}" for name, found in self.different.items())
        assert (self.lost, self.repeated) == (0, 0)


def shape(trial: Trial) -> list[Any]:
    """The architecture as the searches report it."""
    return [trial.architecture["width"], trial.architecture["depth"]]


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    with Nursery() as nursery:
        yield nursery


def run_undisturbed(nursery: Nursery, name: str, folder: Path) -> Undisturbed:
    calls = nursery.trace(name, folder / "traced")
    untraced = nursery.run(name, folder / "undisturbed")
    outcome = decided(folder / "undisturbed")
    assert differences(folder / "traced", outcome) == leftovers(folder / "undisturbed") == []
    return Undisturbed(name, outcome, untraced.seconds, calls)


@pytest.fixture(scope="module")
def undisturbed(nursery: Nursery, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Undisturbed]:
    known: dict[str, Undisturbed] = {}

    def find(name: str) -> Undisturbed:
        if name not in known:
            known[name] = run_undisturbed(nursery, name, tmp_path_factory.mktemp(name))
        return known[name]

    return find


def kill_before(campaign: Campaign, call: strace.Call, search: Undisturbed, directory: Path) -> Run:
    """Kill a search instead of a system call, and count the kind of the last call."""
    log = directory.with_suffix(".trace")
    attach = strace.attach(log, [f"{call.name}:signal=KILL:when={call.occurrence}"])
    run = campaign.nursery.run(search.name, directory, attach=attach)
    last = strace.last_call(log)
    if run.killed and last is not None and last.concerns(directory):
        campaign.kinds[last.kind] += 1
    else:  # a resumed search opens other files to read
        campaign.others += run.killed
    return run


def kill_sometime(campaign: Campaign, generator: np.random.Generator, search: Undisturbed, directory: Path) -> Run:
    moment = generator.uniform(0, search.seconds)
    run = campaign.nursery.run(search.name, directory, kill_after=moment)
    campaign.random += run.killed
    return run


def of_random_kind(generator: np.random.Generator, calls: list[strace.Call]) -> strace.Call:
    """A random call: every kind is as likely as any other."""
    kinds = sorted({call.kind for call in calls})
    kind = kinds[generator.integers(len(kinds))]
    return calls_of(kind, calls)[generator.integers(len(calls_of(kind, calls)))]


def calls_of(kind: str, calls: list[strace.Call]) -> list[strace.Call]:
    return [call for call in calls if call.kind == kind]


def test_searches_killed_at_random_lose_and_repeat_nothing(
    nursery: Nursery,
    undisturbed: Callable[[str], Undisturbed],
    tmp_path: Path,
    seed: int,
    report: Callable[[str], None],
) -> None:
    generator = np.random.default_rng(seed)
    campaign = Campaign(nursery)

    def between_calls(search: Undisturbed, directory: Path) -> Run:
        return kill_before(campaign, of_random_kind(generator, search.calls), search, directory)

    def at_random(search: Undisturbed, directory: Path) -> Run:
        return kill_sometime(campaign, generator, search, directory)

    for kill, count in ((between_calls, campaign.kinds.total), (at_random, lambda: campaign.random)):
        while count() < KILLS // 2:
            search = undisturbed(SEARCHES[campaign.searches % len(SEARCHES)])
            directory = tmp_path / f"{search.name}-{campaign.searches:03d}"
            for _ in range(generator.integers(1, MOST_KILLS_OF_A_SEARCH + 1)):
                if count() == KILLS // 2 or not campaign.follow(partial(kill, search, directory), directory).killed:
                    break
            campaign.finish(search, directory)
    report(campaign.summary())
    campaign.assert_nothing_happened()


def kill_at_every_call(
    campaign: Campaign, search: Undisturbed, folder: Path, prepare: Callable[[Path], object] = lambda directory: None
) -> None:
    """Kill a search before each of its calls, in a directory of its own, and resume it until it ends.

    Args:
        campaign: counts.
        search: to be killed.
        folder: for the directories.
        prepare: makes a directory, unless the search does.
    """

    def trace(directory: Path) -> list[strace.Call]:
        prepare(directory)
        return campaign.nursery.trace(search.name, directory)

    calls = trace(folder / "traced")
    kinds = [call.kind for call in calls]
    for number, kind in enumerate(kinds):
        for attempt in range(MOST_ATTEMPTS):
            directory = folder / f"{number:03d}-{kind}-{attempt}"
            if attempt:
                calls = trace(folder / f"{directory.name}-traced")
            prepare(directory)
            hits = campaign.kinds[kind]
            kill = partial(kill_before, campaign, calls[number], search, directory)
            assert campaign.follow(kill, directory).killed
            campaign.finish(search, directory)
            if campaign.kinds[kind] > hits:
                break
    assert campaign.kinds >= Counter(kinds)


def test_search_killed_before_every_system_call_in_turn_ends_as_if_undisturbed(
    nursery: Nursery, undisturbed: Callable[[str], Undisturbed], tmp_path: Path, report: Callable[[str], None]
) -> None:
    campaign = Campaign(nursery)
    kill_at_every_call(campaign, undisturbed("short"), tmp_path)
    report(f"every call in turn: {campaign.summary()}")
    campaign.assert_nothing_happened()


def test_search_killed_again_at_every_system_call_of_its_recovery_ends_as_if_undisturbed(
    nursery: Nursery, undisturbed: Callable[[str], Undisturbed], tmp_path: Path, report: Callable[[str], None]
) -> None:
    search = undisturbed("short")
    killed = tmp_path / "killed"
    place = next(call for call in reversed(search.calls) if call.kind == "rename" and "student" in call.text)
    assert kill_before(Campaign(nursery), place, search, killed).killed  # with a checkpoint and an unfinished student
    campaign = Campaign(nursery)
    kill_at_every_call(campaign, search, tmp_path, lambda directory: shutil.copytree(killed, directory))
    report(f"every call of a recovery in turn: {campaign.summary()}")
    campaign.assert_nothing_happened()
