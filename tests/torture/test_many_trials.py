"""A search of 2,000 trials holds and takes as much for its last trial as for its first ones, but for the records."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from growth import Growth, use_empty_temporary_folder
from torch import nn
from toy_search import make_config, make_search, make_teacher

from autodistill import AutoDistillation, SearchResult

pytestmark = pytest.mark.slow

TRIALS = 2000
EVERY = 250
SPACE = {"layers": list(range(1, 13)), "width": list(range(1, 17)), "heads": [1, 2, 4, 8], "ratio": [1, 2, 3, 4]}

BYTES_OF_A_RECORD = 10
"""Bytes of memory for each byte of a trial's record, at most: a value of it, some 20 bytes of JSON, is an object and an
entry in a dict, some 100 bytes; the architecture is held twice, as recorded and as the space writes it; and each trial
has an observation and a few entries in indices."""


@pytest.fixture(autouse=True)
def _empty_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_empty_temporary_folder(monkeypatch, tmp_path / "temporary")


class Student(nn.Linear):
    """A layer that knows its architecture, and whose score follows from it."""

    def __init__(self, architecture: dict[str, int]) -> None:
        super().__init__(1, 1)
        self.score = -sum((value - 3) ** 2 for value in architecture.values())


def search_trivially(directory: Path, seen: Growth) -> None:
    AutoDistillation(
        Student,
        {"search": {"search_space": SPACE, "search_algorithm": "Random", "metrics": ["score"], "max_trials": TRIALS}},
        train_func=lambda student: student,
        eval_func=lambda student: {"score": student.score},
        search_dir=directory,
        device="cpu",
        show_progress_bar=False,
        callbacks=[seen],
    ).search_loop()


def milliseconds(seen: Growth, number: int) -> float:
    """The CPU time of a trial: the least of the 20 around it, as other programs and the disk disturb it."""
    return 1000 * min(seen.seconds[max(number - 10, 0) : number + 10])


def per_trial(totals: list[int], every: int) -> float:
    """The growth of a total for each trial: the median of intervals, as the interpreter doubles tables now and then."""
    return float(np.median(np.diff(totals))) / every


def test_two_thousand_trials_hold_no_more_than_their_records(tmp_path: Path, report: Callable[[str], None]) -> None:
    seen = Growth(EVERY)
    search_trivially(tmp_path / "timed", seen)
    traced = Growth(EVERY)
    tracemalloc.start()
    try:
        search_trivially(tmp_path / "traced", traced)
    finally:
        tracemalloc.stop()
    assert len(seen.held) == TRIALS // EVERY
    assert set(seen.held) == {seen.held[0]}
    assert set(traced.held) == {traced.held[0]}
    assert seen.held[0].temporary_files == 0
    record = (tmp_path / "timed" / "trials" / f"{TRIALS // 2:06d}" / "trial.json").stat().st_size
    growth = per_trial(traced.allocated, EVERY)
    held = seen.held[-1]
    report(
        f"{TRIALS:,} trivial trials: {growth:,.0f} bytes of memory per trial (record: {record}; resident memory "
        f"{seen.resident[0] >> 20} MiB after {EVERY}, {seen.resident[-1] >> 20} MiB at the end), handles "
        f"({held.handles}), threads ({held.threads}) and temporary files ({held.temporary_files}) do not change; CPU "
        f"time of a trial {milliseconds(seen, 10):.1f} ms at 10, {milliseconds(seen, TRIALS - 1):.1f} ms at {TRIALS:,}"
    )
    assert growth < BYTES_OF_A_RECORD * record


def test_three_hundred_distillations_leave_nothing_behind(tmp_path: Path, report: Callable[[str], None]) -> None:
    teacher = make_teacher()
    seen = Growth(25, teacher)
    space = {"width": [4, 8, 12], "depth": [1, 2, 3], "variant": list(range(40))}
    agent = make_search(
        tmp_path / "search",
        make_config(search_space=space, max_trials=300),
        teacher_model=teacher,
        keep="pareto",
        callbacks=[seen],
    )
    build = agent.model_builder
    agent.model_builder = lambda architecture: build({name: architecture[name] for name in ("width", "depth")})
    tracemalloc.start()
    try:
        agent.search_loop()
    finally:
        tracemalloc.stop()
    assert len(SearchResult.load(tmp_path / "search").completed) == 300
    assert set(seen.held) == {seen.held[0]}
    held = seen.held[-1]
    assert (held.hooks, held.temporary_files) == (0, 0)
    record = (tmp_path / "search" / "trials" / "000150" / "trial.json").stat().st_size
    growth = per_trial(seen.allocated, 25)
    report(
        f"300 distillations: {growth:,.0f} bytes of memory per trial (record: {record}), handles ({held.handles}), "
        f"threads ({held.threads}), tensors ({held.tensors}) and hooks on the teacher ({held.hooks}) do not change"
    )
    assert growth < BYTES_OF_A_RECORD * record
