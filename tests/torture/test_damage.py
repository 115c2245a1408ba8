"""Every file and folder of a search directory, one at a time, damaged in each way, then read, exported and resumed.

A damage may cost what it damaged. It must never end in an error that the project does not raise on purpose, in a wrong
metric or weight, or in the loss of more than one trial.
"""

from __future__ import annotations

import os
import tempfile
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from damage import kind_of
from damaged_search import DamagedSearch


@pytest.fixture
def open_directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A working directory that other users can reach: a process of root must become another one to meet permissions."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        monkeypatch.chdir(folder)
        yield
        monkeypatch.chdir("/")


@pytest.mark.usefixtures("open_directory")
def test_one_damage_of_each_kind_of_file_has_no_wrong_result() -> None:
    search = DamagedSearch()
    kinds: dict[str, list[tuple[Path, str]]] = defaultdict(list)
    for path, name in search.cases():
        kinds[kind_of(path)].append((path, name))
    for number, cases in enumerate(kinds.values()):
        search.check(*cases[number % len(cases)], seed=number)
    assert {outcome for _, _, outcome in search.outcomes} > {"unchanged", "recovered", "student refused"}


@pytest.mark.slow
@pytest.mark.usefixtures("open_directory")
def test_no_damage_has_a_wrong_result(seed: int, report: Callable[[str], None]) -> None:
    search = DamagedSearch()
    cases = search.cases()
    for number, (path, name) in enumerate(cases):
        search.check(path, name, seed + number)
    totals: Counter[str] = Counter()
    damages: dict[tuple[str, str], list[str]] = defaultdict(list)
    for (kind, name, outcome), count in search.outcomes.items():
        totals[outcome] += count
        damages[kind, outcome].append(name if count == 1 else f"{name} {count}x")
    report(f"damage: {len(cases)} damages of {len({path for path, _ in cases})} files and folders: {dict(totals)}")
    for (kind, outcome), names in sorted(damages.items()):
        report(f"  {kind:45} {outcome:15} {', '.join(names)}")
    assert sum(totals.values()) == len(cases)
