"""What the driver of a search costs with 1 to 1,000 workers: `OMP_NUM_THREADS=1 python benchmarks/scale.py`.

    python benchmarks/scale.py [--quick | --full] [--advisors NAME ...] [--workers N ...] [--profile] [--table]

The loop, the directory and the advisors are the real ones; trials take simulated time (`scale_simulation.py`):
log-normal with a median of 60 s and a 95th percentile of 180 s, 2% fail, 3% lose their worker and are started again
with half of their work left. A search has max(200, 2 x workers) trials. A row is cut off when the driver
has worked for 25 s since all workers were busy, and then has fewer trials; with `--full` it is not.

The first table is of the driver, whose seconds are CPU time and waiting for the disk: milliseconds of a proposal
(median, 95th percentile, first and last tenth), shares of its time (advisor, directory, rest; and the wait for the
disk, part of the directory's). "Feeds" is the number of workers that one driver keeps busy: the mean seconds of a trial
by the driver's seconds from one start to the next, once all workers are busy; "no disk", if the disk took no time.
Where a driver feeds fewer workers than there are, the idle share of a row that was cut off is that of its beginning,
and it tends to 1 - feeds / workers. A proposal of BO takes longer still until 300 trials are finished.

The second table is of the proposals: 1 minus the hypervolume after equally many trials, relative to that of the whole
space, where the driver takes no time. It is the same in every run. `--quick` takes workers 1, 4 and 64.
"""

from __future__ import annotations

import argparse
import cProfile
import logging
import math
import os
import pstats
import statistics
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
from common import RESULTS, machine, peak_memory, print_table, read_results, write_results  # noqa: E402
from scale_simulation import FAILED, LOST, MEDIAN, SIGMA, Search  # noqa: E402

ADVISORS = ("BO", "TPE", "Random", "Evolution", "LocalSearch")  # not Grid: it is a list
WORKERS = (1, 2, 4, 8, 16, 64, 256, 1000)
QUALITY = (1, 4, 16, 64)  # workers
MARK = 100  # trials after which the proposals are compared
SEEDS = 3
PROFILED = 12  # functions


def measured(advisor: str, workers: int, seconds: float) -> dict[str, Any]:
    """The driver's figures of one search on the disk of temporary files."""
    search = Search(advisor, workers, max(200, 2 * workers), seed=0, seconds=seconds)
    with tempfile.TemporaryDirectory() as folder:
        peak = peak_memory(lambda: search.run(Path(folder) / "search"))
    taken = np.array(search.proposer.seconds)
    steady = taken[workers:] if len(taken) > workers else taken[-1:]
    part = max(1, len(taken) // 10)
    starts = len(search.executor.intervals)
    total, computing = search.executor.cycle()
    mean = statistics.fmean(end - start for start, end in search.executor.intervals)
    return {
        "trials": search.trials,
        "proposals": len(taken),
        "ended": len(search.ended),
        "lost_workers": search.executor.losses,
        "driver_seconds": search.driver,
        "proposals_per_second": len(taken) / search.driver,
        "proposal_median": float(np.median(taken)),
        "proposal_p95": float(np.quantile(taken, 0.95)),
        "proposal_first_tenth": float(np.median(taken[:part])),
        "proposal_last_tenth": float(np.median(taken[-part:])),
        "proposal_all_busy": float(np.mean(steady)),
        "idle": search.idle,
        "cycle": total,
        "cycle_without_disk": computing,
        "feeds": mean / total,
        "feeds_without_disk": mean / computing,
        "shares": search.shares,
        "files_per_second": search.calls["files"] / search.driver,
        "fsyncs_per_second": search.calls["fsyncs"] / search.driver,
        "fsyncs_per_trial": search.calls["fsyncs"] / starts,
        "simulated_seconds": search.executor.now,
        "peak_mib": peak,
    }


def regrets(advisor: str, workers: int, seeds: int) -> list[float]:
    """1 minus the relative hypervolume after `MARK` trials, for each seed."""
    found = []
    for seed in range(seeds):
        search = Search(advisor, workers, MARK, seed, charges=False)
        memory = Path("/dev/shm")
        with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
            search.run(Path(folder) / "search")
        found.append(search.regret())
    return found


def profiled(advisor: str, workers: int, seconds: float) -> list[tuple[str, float]]:
    """The functions in which the driver's CPU time and waiting goes, and their shares."""
    search = Search(advisor, workers, max(200, 2 * workers), seed=0, seconds=seconds)
    profile = cProfile.Profile()
    with tempfile.TemporaryDirectory() as folder:
        profile.runcall(search.run, Path(folder) / "search")
    stats: Any = pstats.Stats(profile)
    own = sorted(stats.stats.items(), key=lambda item: -item[1][2])[:PROFILED]
    return [(f"{Path(file).name}:{line} {name}", entry[2] / stats.total_tt) for (file, line, name), entry in own]


def print_driver(rows: dict[str, dict[str, dict[str, Any]]]) -> None:
    """The speed of the driver, and where its time goes."""
    speed, parts = [], []
    for advisor, found in rows.items():
        for workers, row in found.items():
            names = ("median", "p95", "first_tenth", "last_tenth")
            times = [f"{1000 * row[f'proposal_{name}']:.1f}" for name in names]
            reach = [f"{row[name]:,.0f}" for name in ("feeds", "feeds_without_disk")]
            head = [advisor, workers, f"{row['ended']}/{row['trials']}", f"{row['proposals_per_second']:.1f}"]
            speed.append([*head, *times, f"{row['idle']:.1%}", *reach])
            shares = [f"{share:.0%}" for share in row["shares"].values()]
            rates = [f"{row[name]:,.0f}" for name in ("files_per_second", "fsyncs_per_second")]
            peak = "" if row["peak_mib"] is None else f"{row['peak_mib']:.0f}"
            parts.append([advisor, workers, *shares, *rates, f"{row['fsyncs_per_trial']:.1f}", peak])
    first = ("advisor", "workers")
    headers = (*first, "ended", "prop./s", "ms median", "p95", "first", "last", "idle", "feeds", "no disk")
    print_table("the driver", headers, speed)
    headers = (*first, "advisor", "directory", "rest", "disk", "files/s", "syncs/s", "syncs/start", "peak MiB")
    print_table("the driver's time", headers, parts)


def print_quality(rows: dict[str, dict[str, list[float]]]) -> None:
    lines = []
    for advisor, found in rows.items():
        serial = np.array(found["1"])
        for workers, values in found.items():
            difference = np.array(values) - serial
            shown = f"{difference.mean():+.3f} ({difference.min():+.3f} to {difference.max():+.3f})"
            lines.append([advisor, workers, f"{np.mean(values):.3f}", "" if workers == "1" else shown])
    print_table(
        f"the proposals: 1 - hypervolume after {MARK} trials", ("advisor", "workers", "mean", "minus serial"), lines
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--advisors", nargs="+", choices=ADVISORS, default=list(ADVISORS), help="replaces their stored results only"
    )
    parser.add_argument("--workers", nargs="+", type=int, help=f"default: {' '.join(map(str, WORKERS))}")
    parser.add_argument("--quick", action="store_true", help="workers 1, 4 and 64, one seed, under two minutes")
    parser.add_argument("--full", action="store_true", help="no row is cut off: hours")
    parser.add_argument("--profile", action="store_true", help="only profile the driver with 256 and 1,000 workers")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    parser.add_argument("--results", help="name of the file under benchmarks/results; default: scale, if not --quick")
    return parser.parse_args()


def limit(arguments: argparse.Namespace) -> float:
    """Seconds of the driver's work with all workers busy after which a row is cut off."""
    return math.inf if arguments.full else 5.0 if arguments.quick else 25.0


def profile(arguments: argparse.Namespace, workers: Sequence[int]) -> None:
    for advisor in arguments.advisors:
        for count in workers:
            lines = [[name, f"{share:.1%}"] for name, share in profiled(advisor, count, limit(arguments))]
            print_table(f"{advisor}, {count} workers: the driver's own time by function", ("function", "share"), lines)


def main() -> None:
    arguments = parse()
    if arguments.table:
        found = read_results(arguments.results or "scale")
        print_driver(found["driver"])
        print_quality(found["quality"])
        return
    if os.environ.get("OMP_NUM_THREADS") != "1":
        raise SystemExit("CPU time is that of one thread only with OMP_NUM_THREADS=1: set it.")
    logging.disable(logging.WARNING)  # every failure and loss of a worker is logged
    if arguments.profile:
        profile(arguments, arguments.workers or (256, 1000))
        return
    workers = arguments.workers or ((1, 4, 64) if arguments.quick else WORKERS)
    task = {"median_seconds": MEDIAN, "sigma": SIGMA, "failed": FAILED, "lost": LOST, "mark": MARK}
    date = datetime.now(UTC).isoformat(timespec="minutes")
    name = arguments.results or (None if arguments.quick else "scale")
    results = {"dates": {}, "driver": {}, "quality": {}} | (read_results(name) if name is not None else {})
    results |= {"machine": machine(), "task": task}
    for advisor in arguments.advisors:
        results["dates"][advisor] = date
        driver, quality = (results[part].setdefault(advisor, {}) for part in ("driver", "quality"))
        for count in workers:
            driver[str(count)] = measured(advisor, count, limit(arguments))
            print(advisor, count, driver[str(count)], flush=True)
        for count in () if arguments.quick and advisor == "BO" else QUALITY:
            quality[str(count)] = regrets(advisor, count, 1 if arguments.quick else SEEDS)
        if name is not None:
            write_results(name, results)
    print_driver(results["driver"])
    print_quality({advisor: found for advisor, found in results["quality"].items() if found})
    if name is not None:
        print("written to", RESULTS / f"{name}.json")


if __name__ == "__main__":
    main()
