"""How far one driver reaches: the real loop, directory and advisors, with simulated trials, for 1 to 1,000 workers.

    python benchmarks/scale.py [--quick | --full] [--workers 1 16 ...] [--advisors BO Random ...]

No student is trained. A trial takes a log-normal time with a median of 60 s (sigma 0.67: one in twenty takes three
times as long), fails in 2 of 100 cases, and in 3 of 100 its worker is lost at a random moment, after which it is
started again with the rest of its time. Its value is that of a function over 100,000 architectures, of which the best
is known. The clock is simulated: it goes to the end of the next trial, and forward by the CPU time that the driver
really takes to record it and to propose the next one, while free workers wait. So the share of time that workers are
idle is what a driver of this machine causes.

Reported for each advisor and number of workers: trials per CPU second of the driver, its milliseconds per trial in the
advisor (and for the last proposals), in the directory, and in the rest; the idle share; operations on the disk per
trial; and the distance of the best value from the optimum after 60 and 200 trials, as a share of the median's. `--full`
continues to 1,000 workers, and profiles the driver there.
"""

from __future__ import annotations

import argparse
import cProfile
import heapq
import io
import logging
import math
import os
import pstats
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import machine, print_table, write_results
from functions import ORDERED, problem
from torch import nn

from advisors import Advisor, create_advisor
from autodistill.config.search import SearchConfig
from autodistill.frameworks.pytorch import PyTorchFramework
from autodistill.processes import ALONE
from autodistill.search.directory import SearchDirectory
from autodistill.search.executors import WorkerLostError
from autodistill.search.loop import Limits, Policy, SearchLoop
from autodistill.search.progress import NoProgress
from autodistill.search.proposals import Proposals
from autodistill.search.run_trial import Outcome, TrialSpec
from autodistill.search.trial import Trial
from autodistill.search.untrained_bounds import UntrainedBounds
from autodistill.training import FunctionTraining

MEDIAN, SIGMA, FAILS, LOST = 60.0, 0.67, 0.02, 0.03
COMPARED = (60, 200)
"""The numbers of measured trials after which searches are compared."""

WORKERS = (1, 2, 4, 8, 16, 64, 256)
MANY = (1000,)
ADVISORS = ("BO", "TPE", "Evolution", "LocalSearch", "Random")


@dataclass
class SimulatedWorkers:
    """An executor of simulated trials, and the clock.

    Args:
        slots: the number of workers.
        value: of an architecture.
        seed: of times, failures and losses.
    """

    slots: int
    value: Callable[[Trial], float]
    seed: int
    shares_disk: bool = False
    clock: float = 0.0
    busy: float = 0.0
    idle: float = 0.0
    _free_since: list[float] = field(default_factory=list)
    _ends: list[tuple[float, int, Future[Outcome], Trial, bool]] = field(default_factory=list)
    _remaining: dict[int, float] = field(default_factory=dict)
    _submitted: int = 0
    _marked: float = field(default_factory=time.process_time)

    def __post_init__(self) -> None:
        self._free_since = [0.0] * self.slots

    def advance(self) -> None:
        """Let the clock go on by what the driver has worked since the last time."""
        now = time.process_time()
        self.clock += now - self._marked
        self._marked = now

    def submit(self, function: Any, spec: TrialSpec, trial: Trial) -> Future[Outcome]:
        """Start a simulated trial on a free worker."""
        self.advance()
        self.idle += self.clock - self._free_since.pop(0)
        self._submitted += 1
        random = np.random.default_rng((self.seed, trial.number, trial.starts))
        seconds = self._remaining.pop(trial.number, MEDIAN * math.exp(SIGMA * random.standard_normal()))
        lost = bool(random.random() < LOST)
        if lost:
            share = float(random.random())
            self._remaining[trial.number] = seconds * (1 - share)
            seconds *= share
        future: Future[Outcome] = Future()
        heapq.heappush(self._ends, (self.clock + seconds, self._submitted, future, trial, lost))
        self.busy += seconds
        return future

    def end_next(self) -> None:
        """Let the clock go to the end of the next trial, and end it."""
        self.advance()
        end, _, future, trial, lost = heapq.heappop(self._ends)
        self._free_since.append(end)
        self.clock = max(self.clock, end)
        if lost:
            future.set_exception(WorkerLostError("its worker was lost"))
        elif np.random.default_rng((self.seed, trial.number)).random() < FAILS:
            future.set_exception(RuntimeError("a simulated failure"))
        else:
            future.set_result(Outcome({"error": self.value(trial)}))

    def interrupt(self) -> None:
        """Nothing runs."""


class SimulatedLoop(SearchLoop):
    """Waits for simulated trials."""

    executor: SimulatedWorkers

    def _record_next(self) -> tuple[Trial, Exception | None]:
        self.executor.end_next()
        return super()._record_next()


@dataclass
class Times:
    """CPU seconds of parts of the driver's work, and its operations on the disk."""

    seconds: dict[str, float] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    proposals: list[float] = field(default_factory=list)

    @contextmanager
    def watching(self, advisor: Advisor) -> Iterator[None]:
        """Measure within the context."""
        with (
            patch.object(advisor, "suggest", self._timed("advisor", advisor.suggest)),
            patch.object(SearchDirectory, "_write", self._timed("directory", SearchDirectory._write)),
            patch.object(os, "fsync", self._counted("fsync", os.fsync)),
            patch.object(os, "replace", self._counted("rename", os.replace)),
        ):
            yield

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*arguments: Any, **named: Any) -> Any:
            began = time.process_time()
            try:
                return function(*arguments, **named)
            finally:
                taken = time.process_time() - began
                self.seconds[name] = self.seconds.get(name, 0.0) + taken
                if name == "advisor":
                    self.proposals.append(taken)

        return timed

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            self.counts[name] = self.counts.get(name, 0) + 1
            return function(*arguments)

        return counted


def search(advisor_name: str, workers: int, trials: int, seed: int) -> dict[str, Any]:
    """One simulated search."""
    task = problem("smooth", ORDERED, seed)
    table = task.objectives[0]
    executor = SimulatedWorkers(workers, lambda trial: float(table[task.position(trial.architecture)]), seed)
    config = SearchConfig(
        search_space=ORDERED, metrics=[{"name": "error", "greater_is_better": False}], max_trials=trials, seed=seed
    )
    framework = PyTorchFramework(lambda architecture: nn.Identity(), None, seed, torch.device("cpu"))
    training = FunctionTraining(lambda student: None)
    spec = TrialSpec(framework, training, ORDERED, config.metrics, seed, ALONE, saves_students=False)
    advisor, times, order = create_advisor(advisor_name, ORDERED), Times(), []
    description = {"metrics": [metric.to_json() for metric in config.metrics], "seed": seed}
    policy = Policy("none", max_retries=10, max_consecutive_failures=10**9)
    began = time.process_time()
    with (
        tempfile.TemporaryDirectory() as path,
        times.watching(advisor),
        SearchDirectory.open(path, description, ORDERED) as directory,
    ):
        proposals = Proposals(config, advisor)
        loop = SimulatedLoop(directory, spec, proposals, UntrainedBounds(), executor, policy, NoProgress())
        order += [task.position(trial.architecture) for trial in loop.run(Limits(trials)) if trial.metrics]
    cpu = time.process_time() - began
    return {
        "advisor": advisor_name,
        "workers": workers,
        "seed": seed,
        "trials": trials,
        "cpu": cpu,
        "advisor_cpu": times.seconds["advisor"],
        "directory_cpu": times.seconds["directory"],
        "rest_cpu": cpu - times.seconds["advisor"] - times.seconds["directory"],
        "proposal_median": statistics.median(times.proposals),
        "proposal_last": statistics.median(times.proposals[-50:]),
        "idle_share": executor.idle / (executor.idle + executor.busy),
        "simulated_minutes": executor.clock / 60,
        "operations": times.counts,
        "regret": [float(task.regret(order)[min(count, len(order)) - 1]) for count in COMPARED],
    }


def trials_for(workers: int) -> int:
    """At least those that are compared, which are not all that are tried, and some more than there are workers."""
    return max(220, int((1.2 if workers >= MANY[0] else 2) * workers))


def table(rows: list[dict[str, Any]]) -> None:
    """Print a line for each advisor and number of workers, with the means over seeds."""
    lines = []
    for advisor, workers in dict.fromkeys((row["advisor"], row["workers"]) for row in rows):
        group = [row for row in rows if (row["advisor"], row["workers"]) == (advisor, workers)]

        def mean(key: str, group: list[dict[str, Any]] = group) -> float:
            return statistics.mean(row[key] for row in group)

        trials = mean("trials")
        milliseconds = [1e3 * mean(key) / trials for key in ("advisor_cpu", "directory_cpu", "rest_cpu")]
        operations = (statistics.mean(row["operations"][name] for row in group) for name in ("fsync", "rename"))
        regrets = zip(*(row["regret"] for row in group), strict=True)
        lines.append(
            [
                advisor,
                workers,
                f"{trials:.0f}",
                f"{trials / mean('cpu'):.1f}",
                *(f"{value:.1f}" for value in milliseconds),
                f"{1e3 * mean('proposal_last'):.0f}",
                f"{mean('idle_share'):.1%}",
                " + ".join(f"{count / trials:.1f}" for count in operations),
                ", ".join(f"{statistics.mean(values):.3f}" for values in regrets),
            ]
        )
    headers = ["advisor", "workers", "trials", "trials/s", "advisor ms", "directory ms", "rest ms", "last ms", "idle"]
    print_table("one driver, simulated trials of 60 s", [*headers, "fsync + rename", "regret at 60, 200"], lines)


def profile(advisor: str, workers: int, trials: int) -> list[str]:
    """Where the driver spends its time: the functions with the most time of their own and in all."""
    profiler = cProfile.Profile()
    profiler.runcall(search, advisor, workers, trials, 0)
    text = io.StringIO()
    pstats.Stats(profiler, stream=text).sort_stats("tottime").print_stats(12)
    return [line.strip() for line in text.getvalue().splitlines() if line.strip()][-13:]


def main() -> None:
    """Run the searches, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two advisors, three numbers of workers, one seed")
    parser.add_argument("--full", action="store_true", help="to 1,000 workers, with a profile")
    parser.add_argument("--workers", nargs="+", type=int)
    parser.add_argument("--advisors", nargs="+", default=None)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    workers = arguments.workers or ((1, 4, 64) if arguments.quick else WORKERS + (MANY if arguments.full else ()))
    advisors = arguments.advisors or (("BO", "Random") if arguments.quick else ADVISORS)
    seeds = 1 if arguments.quick else arguments.seeds
    logging.disable(logging.WARNING)  # each loss and failure is one
    rows = []
    for advisor in advisors:
        for count in workers:
            for seed in range(seeds if count < WORKERS[-1] else 1):
                rows.append(search(advisor, count, trials_for(count), seed))
                print(f"{advisor}, {count} workers, seed {seed}: {rows[-1]['cpu']:.0f} CPU s", flush=True)
    table(rows)
    results: dict[str, Any] = {"machine": machine(), "date": datetime.now(UTC).date().isoformat(), "rows": rows}
    results["peak_memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.full:
        results["profiles"] = {advisor: profile(advisor, MANY[0], trials_for(MANY[0])) for advisor in ("BO", "Random")}
        for advisor, lines in results["profiles"].items():
            print(f"\nThe driver with {MANY[0]} workers, {advisor}:", *lines, sep="\n  ")
    if not arguments.quick:
        write_results("scale", results)


if __name__ == "__main__":
    main()
