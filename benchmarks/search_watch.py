"""What a search costs: samples that the teacher runs on and why, disk, memory, time of trials, where time is spent."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from autodistill.tensors import tensors_in

TEACHER_CACHE = "teacher_cache"
CALLERS = ("batch.py", "models/calls.py", "models/modes.py", "models/taps.py", "distillation/teacher_cache.py")
"""Modules of the library that run the teacher for others."""
NOT_TRAINING = ("held-out evaluation", "latency measurement")
CAUSES = (
    ("autodistill/cli/tasks.py", "held-out evaluation"),
    ("autodistill/metrics/", "latency measurement"),
    ("autodistill/initialization/", "start inside the teacher"),
    ("autodistill/distillation/predicted_cost.py", "prediction of the cost"),
    ("autodistill/models/masks.py", "checks of the set-up"),
    ("autodistill/models/attention.py", "checks of the set-up"),
    ("autodistill/distillation/automatic_mapping.py", "checks of the set-up"),
    ("autodistill/distillation/resolve_plan.py", "checks of the set-up"),
    ("autodistill/distillation/plan_checks.py", "checks of the set-up"),
    ("autodistill/distillation/flash_set.py", "flash distillation"),
    ("autodistill/distillation/flash.py", "flash distillation"),
    ("autodistill/distillation/teacher_fed.py", "flash distillation"),
    ("autodistill/distillation/regular.py", "regular distillation"),
    ("autodistill/integrations/huggingface/trainer_distillation.py", "regular distillation"),
)
"""Parts of the path of a source file, and the cause of a forward pass of the teacher with this file on its stack."""


@dataclass(frozen=True)
class Options:
    """How a job is run.

    Attributes:
        quick: a small version.
        trials: of the sentence encoders' search; None for the template's.
        minutes: of CPU time, after which a search is interrupted.
        profile: sample the stack of the main thread of that search.
        device: of the models.
        directory: for the files of a job.
    """

    quick: bool = False
    trials: int | None = None
    minutes: float | None = None
    profile: bool = False
    device: str = "cpu"
    directory: Path = Path()

    def of(self, usual: int, quick: int) -> int:
        """One of two sizes."""
        return quick if self.quick else usual


class TimeIsUp(KeyboardInterrupt):
    """Interrupts a search, which leaves its current trial to be resumed."""


@contextlib.contextmanager
def interrupted_after(seconds: float | None) -> Iterator[list[bool]]:
    """End the block after this many seconds of CPU time, which depends less on other programs than wall-clock time.

    The list that it yields then contains True. None sets no limit.
    """
    interrupted: list[bool] = []

    def end(number: int, frame: FrameType | None) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds or 0)
    try:
        yield interrupted
    except TimeIsUp:
        interrupted.append(True)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


class TeacherCounter:
    """Counts the forward passes of a teacher and their samples, by cause."""

    def __init__(self) -> None:
        self.samples: Counter[str] = Counter()
        self.forwards: Counter[str] = Counter()

    @contextlib.contextmanager
    def counting(self, teacher: nn.Module) -> Iterator[None]:
        """Count while the block runs."""

        def count(module: nn.Module, arguments: Any, keywords: Any) -> None:
            first = next(iter(tensors_in((arguments, keywords))))
            cause = _cause(sys._getframe(1))
            self.samples[cause] += len(first)
            self.forwards[cause] += 1

        handle = teacher.register_forward_pre_hook(count, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()


def _cause(frame: FrameType | None) -> str:
    files: dict[str, None] = {}
    while frame is not None:
        files[frame.f_code.co_filename] = None
        frame = frame.f_back
    for part, cause in CAUSES:
        if any(part in file for file in files):
            return cause
    own = [file.rsplit("/autodistill/", 1)[1] for file in files if "/autodistill/" in file]
    return next((file for file in own if file not in CALLERS), "outside the library")


class Sampler:
    """Calls a function at intervals, in a thread of its own, while a block runs."""

    def __init__(self, function: Callable[[], None], seconds: float) -> None:
        self._function, self._seconds, self._stop = function, seconds, threading.Event()

    def __enter__(self) -> None:
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(self._seconds):
            self._function()


class StackProfile:
    """The functions that the main thread is in, sampled every 10 ms."""

    def __init__(self) -> None:
        self._thread = threading.main_thread().ident
        self._leaves: Counter[str] = Counter()
        self._inclusive: Counter[str] = Counter()

    def sample(self) -> None:
        """Record the stack of the main thread."""
        frame = sys._current_frames().get(self._thread or 0)
        names = []
        while frame is not None:
            names.append(_function_name(frame))
            frame = frame.f_back
        self._leaves.update(names[:1])
        self._inclusive.update(set(names))

    def to_json(self, most: int = 60) -> dict[str, Any]:
        """The shares of the functions, the largest first."""
        total = max(1, self._leaves.total())

        def shares(counted: Counter[str]) -> dict[str, float]:
            return {name: round(number / total, 4) for name, number in counted.most_common(most)}

        return {"samples": total, "inclusive": shares(self._inclusive), "leaves": shares(self._leaves)}


def _function_name(frame: FrameType) -> str:
    parts = Path(frame.f_code.co_filename).parts
    return f"{'/'.join(parts[-3:])}:{frame.f_code.co_qualname}"


def directory_size(directory: Path) -> int:
    """The bytes of the files below a directory, which other threads may change."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.stat(os.path.join(folder, name)).st_size
    return total


class SearchWatch:
    """Measures one search.

    Args:
        teacher: its teacher.
        search_dir: its directory.
        profile: also sample the stack of the main thread.
    """

    def __init__(self, teacher: nn.Module, search_dir: Path, *, profile: bool = False) -> None:
        self._teacher, self._directory = teacher, search_dir
        self._counter = TeacherCounter()
        self._profile = StackProfile() if profile else None
        self._sizes = {"teacher_cache": 0, "search_directory": 0}
        self._ends: list[tuple[float, float]] = []
        self._trials: list[dict[str, Any]] = []
        self._interrupted: list[bool] = []

    @contextlib.contextmanager
    def running(self, minutes: float | None = None) -> Iterator[None]:
        """Watch while the block runs; interrupt it after this many minutes of CPU time."""
        self._ends.append((time.perf_counter(), time.process_time()))
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._counter.counting(self._teacher))
            stack.enter_context(Sampler(self._measure_disk, 5.0))
            if self._profile is not None:
                stack.enter_context(Sampler(self._profile.sample, 0.01))
            self._interrupted = stack.enter_context(interrupted_after(None if minutes is None else 60 * minutes))
            yield
        self._measure_disk()
        self._total = (time.perf_counter() - self._ends[0][0], time.process_time() - self._ends[0][1])

    def trial_ended(self, search: Any, trial: Any) -> None:
        """A callback of the search."""
        self._ends.append((time.perf_counter(), time.process_time()))
        (wall, cpu), (before_wall, before_cpu) = self._ends[-1], self._ends[-2]
        self._measure_disk()
        self._trials.append(
            {
                "architecture": trial.architecture,
                "state": trial.state,
                "metrics": trial.metrics,
                "wall": wall - before_wall,
                "cpu": cpu - before_cpu,
                "teacher_samples_so_far": self._counter.samples.total(),
            }
        )

    def _measure_disk(self) -> None:
        for name, directory in (
            ("teacher_cache", self._directory / TEACHER_CACHE),
            ("search_directory", self._directory),
        ):
            self._sizes[name] = max(self._sizes[name], directory_size(directory))

    def results(self, training_samples: int) -> dict[str, Any]:
        """What was measured; ratios are to the number of different training samples."""
        samples = self._counter.samples
        training = sum(count for cause, count in samples.items() if cause not in NOT_TRAINING)
        first, *later = self._trials or [{"wall": None, "cpu": None}]
        return {
            "training_samples": training_samples,
            "teacher_samples": dict(samples.most_common()),
            "teacher_forwards": dict(self._counter.forwards.most_common()),
            "training_ratio": training / training_samples,
            "total_ratio": samples.total() / training_samples,
            "largest_teacher_cache_bytes": self._sizes["teacher_cache"],
            "largest_search_directory_bytes": self._sizes["search_directory"],
            "peak_memory_mib": peak_memory_mib(),
            "interrupted": bool(self._interrupted),
            "wall": self._total[0],
            "cpu": self._total[1],
            "trials_ended": len(self._trials),
            "first_trial_wall": first["wall"],
            "first_trial_cpu": first["cpu"],
            "later_trials_cpu": statistics.median(entry["cpu"] for entry in later) if later else None,
            "trials": self._trials,
        } | ({"profile": self._profile.to_json()} if self._profile is not None else {})


def peak_memory_mib() -> float:
    """The highest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def padding_share(batches: Iterator[Any]) -> float | None:
    """The share of padding in the positions of batches with an attention mask; None without one."""
    padding = positions = 0
    for batch in batches:
        mask = batch.content.get("attention_mask") if isinstance(batch.content, Mapping) else None
        if isinstance(mask, torch.Tensor):
            padding += int((mask == 0).sum())
            positions += mask.numel()
    return padding / positions if positions else None
