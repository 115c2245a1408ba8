"""A search whose trials take simulated time: the real loop, directory and advisors, and workers that are a queue.

The simulated clock advances to the end of the next trial. What the driver does between two ends is real work: its
seconds are added to the clock, and meanwhile no worker receives a trial. They are the CPU time of the process, and what
it waits for the disk in `os.fsync`; so other programs on the machine hardly count.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from functions import MIXED, Problem, problem

from advisors.base import Advisor, Observation
from advisors.registry import create_advisor
from autodistill.config.search import SearchConfig
from autodistill.errors import TrialError
from autodistill.metrics.metric import Metric
from autodistill.processes import Processes
from autodistill.search.directory import SearchDirectory
from autodistill.search.executors import WorkerLostError
from autodistill.search.layout import checkpoint_directory
from autodistill.search.loop import Limits, Policy, SearchLoop
from autodistill.search.progress import NoProgress
from autodistill.search.proposals import Proposals
from autodistill.search.run_trial import Outcome, TrialSpec
from autodistill.search.trial import Trial
from autodistill.search.untrained_bounds import UntrainedBounds
from search_spaces import Architecture

MEDIAN = 60.0  # seconds of a trial
SIGMA = 0.668  # of the logarithm: the 95th percentile is three times the median
FAILED, LOST = 0.02, 0.03  # shares of the starts
LEFT = 0.5  # of the work of a start whose worker is lost, after its checkpoint

METRICS = (Metric("first", greater_is_better=False), Metric("second", greater_is_better=False))


class Meter:
    """The driver's seconds by phase; `paused` while the simulation itself works.

    Time counts for the innermost phase.
    """

    def __init__(self) -> None:
        self._phases = ["rest"]
        self.reset()

    def reset(self) -> None:
        """Forget what has been counted."""
        self.seconds: Counter[str] = Counter()
        self.calls: Counter[str] = Counter()
        self.waited = 0.0  # for the disk; part of the seconds
        self._last = self._now()

    def _now(self) -> float:
        return time.process_time() + self.waited

    @property
    def total(self) -> float:
        """The driver's seconds so far."""
        self._charge()
        return sum(seconds for phase, seconds in self.seconds.items() if phase != "paused")

    def _charge(self) -> None:
        now = self._now()
        self.seconds[self._phases[-1]] += now - self._last
        self._last = now

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """What happens within belongs to this phase."""
        self._charge()
        self._phases.append(name)
        try:
            yield
        finally:
            self._charge()
            self._phases.pop()

    @contextlib.contextmanager
    def watching_disk(self) -> Iterator[None]:
        """Count the files that the driver replaces and syncs, and the time that it waits for them."""
        with (
            patch("os.fsync", self._watched("fsyncs", os.fsync)),
            patch("os.replace", self._watched("files", os.replace)),
        ):
            yield

    def _watched(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*arguments: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments)
            finally:
                self.calls[name] += 1
                self.waited += max(0.0, time.perf_counter() - wall - time.process_time() + cpu)

        return watched


@dataclass
class SimulatedExecutor:
    """Workers whose trials end on a simulated clock.

    Args:
        slots: the number of workers.
        outcome: `architecture -> metrics`.
        seed: of durations, failures and losses; they depend on the trial and its start, not on the order of events.
        meter: of the driver.
        charges: whether the driver's work takes time; otherwise the simulation is the same in every run.
    """

    slots: int
    outcome: Callable[[Architecture], Mapping[str, float]]
    seed: int
    meter: Meter
    charges: bool = True
    now: float = 0.0
    last_start: float = 0.0  # of a new trial
    last_driver: tuple[float, float] = (0.0, 0.0)  # seconds of the driver's work when that started, and of its waiting
    last_index: int = 0  # of that, among all starts
    busy_after: tuple[float, float] = (0.0, 0.0)  # the same when every worker had a trial
    intervals: list[tuple[float, float]] = field(default_factory=list)  # in which a worker had a trial
    losses: int = 0
    _running: list[tuple[float, int, Trial, Future[Outcome], str]] = field(default_factory=list)
    _left: dict[int, float] = field(default_factory=dict)  # share of the work of trials whose worker was lost
    _charged: float = 0.0
    _submitted: int = 0

    def _advance(self) -> None:
        """Add to the clock what the driver has worked since the last time."""
        total = self.meter.total
        if self.charges:
            self.now += total - self._charged
        self._charged = total

    def submit(self, function: Callable[..., Any], /, spec: TrialSpec, trial: Trial) -> Future[Outcome]:
        """Note when the trial will end, and how."""
        self._advance()
        with self.meter.phase("paused"):
            rng = np.random.default_rng([self.seed, trial.number, trial.starts])
            seconds = MEDIAN * float(np.exp(SIGMA * np.random.default_rng([self.seed, trial.number]).standard_normal()))
            seconds *= self._left.get(trial.number, 1.0)
            kind = float(rng.random())
            ending = "failed" if kind < FAILED else "lost" if kind < FAILED + LOST else "complete"
            if ending != "complete":
                seconds *= float(rng.random())
            if ending == "lost":
                self._left[trial.number] = LEFT * self._left.get(trial.number, 1.0)
            future: Future[Outcome] = Future()
            heapq.heappush(self._running, (self.now + seconds, self._submitted, trial, future, ending))
            self._submitted += 1
            self.intervals.append((self.now, self.now + seconds))
            self._note_start(trial)
        return future

    def _note_start(self, trial: Trial) -> None:
        count = len(self.intervals)
        if count == self.slots:
            self.busy_after = self._charged, self.meter.waited
        if trial.starts == 1:
            self.last_start, self.last_index = self.now, count
            self.last_driver = self._charged, self.meter.waited

    def deliver(self) -> None:
        """End the trial that ends next, once the driver waits for it."""
        self._advance()
        with self.meter.phase("paused"):
            end, _, trial, future, ending = heapq.heappop(self._running)
            self.now = max(self.now, end)
            if ending == "complete":
                future.set_result(Outcome(dict(self.outcome(trial.architecture))))
            elif ending == "failed":
                future.set_exception(TrialError("a simulated failure"))
            else:
                assert trial.directory is not None
                self.losses += 1
                folder = checkpoint_directory(trial.directory, trial.starts)
                folder.mkdir(parents=True)
                (folder / "state").touch()
                future.set_exception(WorkerLostError("a simulated preemption"))

    def interrupt(self) -> None:
        """Nothing: what runs is forgotten."""

    def has_been_busy_for(self, seconds: float) -> bool:
        """Whether the driver has worked for so long since every worker had a trial, and started one."""
        return self.last_index > self.slots and self.last_driver[0] - self.busy_after[0] > seconds

    def cycle(self) -> tuple[float, float]:
        """The driver's seconds from one start to the next while all workers are busy, and those without the disk."""
        starts = self.last_index - self.slots
        total, waited = (
            (after - before) / starts for before, after in zip(self.busy_after, self.last_driver, strict=True)
        )
        return total, total - waited

    def idle(self) -> float:
        """The share of the workers' time without a trial, from the beginning to the start of the last new trial."""
        busy = sum(max(0.0, min(end, self.last_start) - start) for start, end in self.intervals)
        return 1 - busy / (self.slots * self.last_start) if self.last_start else 0.0


class _Loop(SearchLoop):
    """A loop that lets the simulation go on where it would wait for a worker."""

    executor: SimulatedExecutor

    def _record_next(self) -> tuple[Trial, Exception | None]:
        self.executor.deliver()
        return super()._record_next()


class _Directory(SearchDirectory):
    """A directory whose changes are a phase of the driver."""

    meter: Meter

    def _create(self, trial: Trial) -> Trial:
        with self.meter.phase("directory"):
            return super()._create(trial)

    def _write(self, trial: Trial) -> None:
        with self.meter.phase("directory"):
            super()._write(trial)


class _Advisor(Advisor):
    """An advisor whose proposals are a phase of the driver, with the seconds of each."""

    def __init__(self, advisor: Advisor, meter: Meter) -> None:
        super().__init__(advisor.space)
        self._advisor = advisor
        self._meter = meter
        self.seconds: list[float] = []

    def suggest(self, history: Sequence[Observation], *, seed: int) -> Architecture:
        with self._meter.phase("advisor"):
            before = self._meter.total
            proposed = self._advisor.suggest(history, seed=seed)
            self.seconds.append(self._meter.total - before)
        return proposed


class _Framework:
    """Students that are nothing."""

    def isolated(self, *, verified: bool = False) -> AbstractContextManager[None]:
        return nullcontext()

    def build(self, architecture: Architecture) -> None: ...

    def check_teacher(self) -> None: ...


class _Training:
    keeps_size = False

    def prepare(self, report: Any) -> None: ...

    def check(self, student: Any) -> None: ...


@dataclass
class Search:
    """One search, simulated by `run`.

    Args:
        advisor: its name.
        workers: that run trials at the same time.
        trials: after which it ends.
        seed: of the instance, of the proposals and of the durations.
        charges: whether the driver's work takes time.
        seconds: of the driver's work once all workers are busy, after which the search is cut off.
    """

    advisor: str
    workers: int
    trials: int
    seed: int
    charges: bool = True
    seconds: float = float("inf")

    @cached_property
    def problem(self) -> Problem:
        """Two functions over 98,304 architectures."""
        return problem("smooth", MIXED, self.seed, "two metrics")

    def run(self, path: Path) -> None:
        """Run the search in a new directory."""
        self.meter = Meter()
        self.executor = SimulatedExecutor(self.workers, self._outcome, self.seed, self.meter, self.charges)
        config = SearchConfig(search_space=MIXED, metrics=METRICS, seed=self.seed, search_algorithm=self.advisor)
        description = {"metrics": [{"name": m.name, "greater_is_better": False} for m in METRICS], "seed": self.seed}
        self.proposer = _Advisor(create_advisor(self.advisor, MIXED), self.meter)
        spec = TrialSpec(_Framework(), _Training(), MIXED, METRICS, self.seed, Processes(), saves_students=False)  # type: ignore[arg-type]
        policy = Policy("pareto", max_retries=3, max_consecutive_failures=10**6)
        self.ended: list[Trial] = []
        with self.meter.watching_disk(), _Directory.open(path, description, MIXED) as directory:
            directory.meter = self.meter
            parts = (Proposals(config, self.proposer), UntrainedBounds(), self.executor, policy, NoProgress())
            self.loop = _Loop(directory, spec, *parts)
            trials = self.loop.run(Limits(self.trials))
            self.meter.reset()  # what came before is no part of a trial
            for trial in trials:
                self.ended.append(trial)
                if self.executor.has_been_busy_for(self.seconds):
                    break
            self.driver = self.meter.total
            self.shares = {name: self.meter.seconds[name] / self.driver for name in ("advisor", "directory", "rest")}
            self.shares["waiting"] = self.meter.waited / self.driver
            self.calls = dict(self.meter.calls)
            self.idle = self.executor.idle()
            trials.close()

    def _outcome(self, architecture: Architecture) -> dict[str, float]:
        position = self.problem.position(architecture)
        tables = self.problem.objectives
        return {metric.name: float(table[position]) for metric, table in zip(METRICS, tables, strict=True)}

    def regret(self) -> float:
        """1 minus the hypervolume of the trials that ended, relative to that of the whole space."""
        found = [self.problem.position(trial.architecture) for trial in self.ended if trial.metrics]
        return 1 - self.problem.hypervolume(found)
