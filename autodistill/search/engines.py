"""Engines: what runs functions in other processes. None of them is our own.

`LocalProcesses` uses loky; `autodistill.integrations.ray_engine` Ray; `GivenExecutor` any object with the contract of
`concurrent.futures.Executor`, such as that of dask, of mpi4py, or of an adapter.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Protocol, TypeVar

from loky import ProcessPoolExecutor

T = TypeVar("T")

GRACE = 60.0
"""Seconds that a local worker has to write a checkpoint when it is asked to end."""


class Engine(Protocol):
    """Runs functions of a module in other processes.

    Attributes:
        shares_disk: whether workers certainly see the search directory.
    """

    shares_disk: bool

    @property
    def slots(self) -> int:
        """How many functions may run at the same time."""

    def share(self, content: bytes) -> Any:
        """A handle of content that `submit` passes to many calls; None if the engine has no store for it.

        The called function receives the content itself.
        """

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Call the function with these arguments in a free process.

        Raises:
            BrokenExecutor: the engine can run nothing any more.
        """

    def is_lost(self, error: BaseException) -> bool:
        """Whether the error of a future reports that the process of this one call was lost."""

    def interrupt(self) -> None:
        """Ask what runs to end at the next safe moment, and wait until it has, for a while at most."""

    def close(self) -> None:
        """End all processes that the engine has started."""


@dataclass
class _Slot:
    """A process, which is started with the first call and again after it was lost.

    Attributes:
        environment: variables of the process.
        executor: loky's, of one worker; None while there is no process.
        pipe: to the process, which ends itself when the other end is closed.
        call: that runs.
    """

    environment: dict[str, str]
    executor: ProcessPoolExecutor | None = None
    pipe: Connection | None = None
    call: Future[Any] | None = None

    def start(self) -> ProcessPoolExecutor:
        """Start the process, unless it runs; it imports what this one has imported meanwhile."""
        if self.executor is None:
            context = multiprocessing.get_context("spawn")
            theirs, self.pipe = context.Pipe(duplex=False)
            self.executor = ProcessPoolExecutor(
                1, timeout=None, env=self.environment, initializer=_begin, initargs=(theirs,)
            )
            self.executor.submit(_import, [name for name in _SLOW_IMPORTS if name in sys.modules])
        return self.executor

    def submit(self, function: Callable[..., T], *args: Any) -> Future[T]:
        self.call = self.start().submit(function, *args)
        return self.call

    def end(self) -> None:
        """End the process: in order if nothing runs, else by a signal."""
        executor, pipe, self.executor, self.pipe = self.executor, self.pipe, None, None
        if executor is not None:
            executor.shutdown(wait=True, kill_workers=self.call is not None and not self.call.done())
        if pipe is not None:
            pipe.close()


@dataclass
class LocalProcesses:
    """Processes on this computer: for each slot an executor of loky with one worker.

    If the process of one slot is killed, only its trial is run again: an executor with several workers would break for
    all of them. The processes end when that of the search does, also if it is killed.

    Args:
        slots: the number of processes.
        threads: that each of them uses.
        devices: the values of CUDA_VISIBLE_DEVICES, in turns for the slots; none leaves it as it is.

    Examples:
        >>> with contextlib.closing(LocalProcesses(2, threads=1)) as engine:
        ...     engine.submit(max, 1, 2).result()
        2
    """

    slots: int
    threads: int
    devices: Sequence[str] = ()
    shares_disk: bool = True
    _slots: list[_Slot] = field(init=False, repr=False)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._slots = [_Slot(self._environment(index)) for index in range(self.slots)]

    def _environment(self, index: int) -> dict[str, str]:
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(self.threads))
        device = {"CUDA_VISIBLE_DEVICES": self.devices[index % len(self.devices)]} if self.devices else {}
        # loky would restart a worker whose memory has grown by 300 MB, as that of one does which receives a teacher.
        return threads | device | {"LOKY_MAX_MEMORY_LEAK_SIZE": "1e18"}

    def start(self) -> None:
        """Start the processes, which takes seconds, before anything is submitted."""
        for slot in self._slots:
            slot.start()

    def share(self, content: bytes) -> None:
        """There is no store: each process receives it once."""

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Call the function in a free process."""
        with self._lock:
            slot = next((slot for slot in self._slots if slot.call is None or slot.call.done()), None)
            if slot is None:
                raise RuntimeError(f"all {self.slots} processes are at work: wait for a future before the next call.")
            try:
                return slot.submit(function, *args)
            except BrokenExecutor:  # its process was killed, in its last call or since
                slot.end()
                return slot.submit(function, *args)

    def is_lost(self, error: BaseException) -> bool:
        """Whether a process was killed."""
        return isinstance(error, BrokenExecutor)

    def interrupt(self) -> None:
        """Ask the processes to end, each after a checkpoint if it trains."""
        running = [slot for slot in self._slots if slot.call is not None and not slot.call.done()]
        for slot in running:
            with contextlib.suppress(OSError):  # it has ended
                assert slot.pipe is not None
                slot.pipe.send(_END)
        until = time.monotonic() + GRACE
        for slot in running:
            with contextlib.suppress(Exception):
                assert slot.call is not None
                slot.call.exception(max(0.0, until - time.monotonic()))

    def close(self) -> None:
        """End all processes, whatever they do."""
        for slot in self._slots:
            slot.end()


@dataclass
class GivenExecutor:
    """An executor of the user, which also ends it.

    Args:
        executor: with `submit(function, *args) -> Future`. One that starts a process for each call, such as a job, has
            the attribute `reuses_processes = False`: it receives the settings of the search with each call.
        slots: how many calls it runs at the same time.

    Examples:
        >>> from loky import ProcessPoolExecutor
        >>> with ProcessPoolExecutor(1) as executor:
        ...     GivenExecutor(executor, slots=1).submit(max, 1, 2).result()
        2
    """

    executor: Any
    slots: int
    shares_disk: bool = False
    _calls: set[Future[Any]] = field(init=False, repr=False, default_factory=set)

    def share(self, content: bytes) -> bytes | None:
        """The content itself if no process knows it from an earlier call; there is no store that all executors have."""
        return None if getattr(self.executor, "reuses_processes", True) else content

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Call the function in a process of the executor."""
        call: Future[T] = self.executor.submit(function, *args)
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        return call

    def is_lost(self, error: BaseException) -> bool:
        """Whether it is one of the errors by which libraries report the loss of a process."""
        return any(kind.__name__ in LOST for kind in type(error).__mro__)

    def interrupt(self) -> None:
        """Cancel what has not begun: an executor has no way to interrupt the rest."""
        for call in list(self._calls):
            call.cancel()

    def close(self) -> None:
        """Nothing: the user ends the executor."""


LOST = {
    "KilledWorker",  # dask
    "UncompletedJobError",  # submitit
    "WorkerCrashedError",  # Ray, and those below
    "NodeDiedError",
    "LocalRayletDiedError",
    "OutOfMemoryError",
}
"""The names of the errors by which libraries report that the process of one call was lost."""

_END = "end"

_SLOW_IMPORTS = ("torch", "transformers", "autodistill.search.worker")


def _import(names: Sequence[str]) -> None:
    """In a new process: import modules that take long."""
    for name in names:
        importlib.import_module(name)


def _begin(pipe: Connection) -> None:
    """In a new process: end with that of the search, and leave interrupts from the keyboard to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_watch, args=(pipe,), daemon=True).start()


def _watch(pipe: Connection) -> None:
    while True:
        try:
            pipe.recv()
        except (EOFError, OSError):
            os._exit(1)
        os.kill(os.getpid(), signal.SIGTERM)
