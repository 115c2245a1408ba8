"""What the process holds while the trials of a search go by, and what each trial takes: callbacks that look."""

from __future__ import annotations

import gc
import os
import tempfile
import threading
import time
import tracemalloc
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn


@dataclass(frozen=True)
class Held:
    """What the process holds after a trial, none of which may grow."""

    handles: int
    threads: int
    temporary_files: int
    hooks: int
    tensors: int


@dataclass
class Growth:
    """A callback that looks at the process at regular numbers of trials, and measures the CPU time from trial to trial.

    Args:
        every: number of trials.
        module: its hooks are counted.
    """

    every: int
    module: nn.Module = field(default_factory=nn.Identity)
    held: list[Held] = field(default_factory=list)
    allocated: list[int] = field(default_factory=list)  # bytes, if tracemalloc is on
    resident: list[int] = field(default_factory=list)  # bytes
    seconds: list[float] = field(default_factory=list)  # CPU time of each trial but the first
    _since: float | None = None

    def __call__(self, search, trial):
        if self._since is not None:
            self.seconds.append(time.process_time() - self._since)
        if (trial.number + 1) % self.every == 0:
            gc.collect()
            self.held.append(self._held(search.search_dir))
            self.allocated.append(tracemalloc.get_traced_memory()[0])
            self.resident.append(_resident())
        self._since = time.process_time()

    def _held(self, search_dir):
        return Held(
            handles=len(os.listdir("/dev/fd")),
            threads=threading.active_count(),
            temporary_files=len([*Path(tempfile.gettempdir()).iterdir(), *Path(search_dir).rglob("*.tmp*")]),
            hooks=sum(map(_hooks, self.module.modules())),
            tensors=sum(issubclass(type(found), torch.Tensor) for found in gc.get_objects()),
        )


def use_empty_temporary_folder(monkeypatch, path):
    """Let temporary files be created in a new folder, so that those of other processes are not counted."""
    path.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(path))


def _hooks(module):
    return sum(len(value) for name, value in vars(module).items() if name.endswith("_hooks"))


def _resident():
    """Bytes of memory of the process; 0 where the system does not say."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0


class Calls:
    """A callback that counts the calls of functions, trial by trial.

    Args:
        monkeypatch: pytest's.
        functions: pairs of an owner and the name of its function.
    """

    def __init__(self, monkeypatch, *functions):
        self.by_trial = []
        self._counted = Counter()
        for owner, name in functions:
            self._watch(monkeypatch, owner, name)

    def _watch(self, monkeypatch, owner, name):
        original = getattr(owner, name)

        def watched(*arguments, **named):
            self._counted[name] += 1
            return original(*arguments, **named)

        monkeypatch.setattr(owner, name, watched)

    def __call__(self, search, trial):
        self.by_trial.append(self._counted.copy())
        self._counted.clear()
