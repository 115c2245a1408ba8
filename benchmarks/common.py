"""Shared by the benchmarks: description of the machine, interleaved timing, peak memory, tables and result files."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parent / "results"

# The folder of a script is first on the path, where `advisors.py` would hide the package of that name.
if sys.path and Path(sys.path[0] or ".").resolve() == RESULTS.parent:
    sys.path.append(sys.path.pop(0))


def machine() -> dict[str, Any]:
    """Describe the machine and the software of a result."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "load_average_at_start": [round(load, 2) for load in os.getloadavg()],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


@dataclass(frozen=True)
class Timing:
    """Seconds of several repetitions, and the highest increase of resident memory in MiB."""

    wall: list[float]
    cpu: list[float]
    peak_mib: float | None

    @property
    def median(self) -> float:
        """The median wall-clock time."""
        return statistics.median(self.wall)

    @property
    def cpu_median(self) -> float:
        """The median CPU time over all threads, which depends less on other programs on the machine."""
        return statistics.median(self.cpu)

    def per(self, units: float) -> Timing:
        """The times per unit of work."""
        wall, cpu = ([seconds / units for seconds in clock] for clock in (self.wall, self.cpu))
        return Timing(wall, cpu, self.peak_mib)

    def to_json(self) -> dict[str, Any]:
        """The medians and every repetition."""
        return {
            "wall_median": self.median,
            "cpu_median": self.cpu_median,
            "wall": self.wall,
            "cpu": self.cpu,
            "peak_mib": self.peak_mib,
        }


def timed(prepare: Callable[[], Callable[[], Any]]) -> tuple[float, float, float | None]:
    """Wall-clock and CPU seconds of one call of the function that `prepare` returns, and its peak memory."""
    function = prepare()
    taken: list[float] = []

    def run() -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        taken.extend((time.perf_counter() - wall, time.process_time() - cpu))

    peak = peak_memory(run)
    return taken[0], taken[1], peak


def in_turns(variants: Mapping[str, Callable[[], Callable[[], Any]]], repetitions: int) -> dict[str, Timing]:
    """Time each variant `repetitions` times, in alternation, so that noise of the machine affects all of them.

    A variant is a function that prepares a run, untimed, and returns the function that is timed.
    """
    taken: dict[str, list[tuple[float, float, float | None]]] = {name: [] for name in variants}
    for _ in range(repetitions):
        for name, prepare in variants.items():
            taken[name].append(timed(prepare))
    return {name: _timing(rounds) for name, rounds in taken.items()}


def _timing(rounds: Sequence[tuple[float, float, float | None]]) -> Timing:
    peaks = [peak for _, _, peak in rounds if peak is not None]
    return Timing([wall for wall, _, _ in rounds], [cpu for _, cpu, _ in rounds], max(peaks) if peaks else None)


def peak_memory(function: Callable[[], Any]) -> float | None:
    """The highest increase of the resident memory during a call, in MiB; None if the system does not report it."""
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # return freed memory to the system, or it would hide the increase
        Path("/proc/self/clear_refs").write_text("5")  # Linux: resets the high-water mark
    except (OSError, AttributeError):
        function()
        return None
    before = _status("VmRSS")
    function()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field + ":")).split()[1])


def print_table(title: str, headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; numbers are right-aligned."""
    table = Table(*headers, title=title, title_justify="left")
    for index, column in enumerate(table.columns):
        column.justify = "left" if index == 0 else "right"
    for row in rows:
        table.add_row(*map(str, row))
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def read_results(name: str) -> dict[str, Any]:
    """The results that `write_results` wrote last; empty if there are none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def write_results(name: str, results: Mapping[str, Any]) -> Path:
    """Write `benchmarks/results/<name>.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n")
    return path
