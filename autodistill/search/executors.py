"""Executors run trials: `submit(function, spec, *args) -> Future`, as in `concurrent.futures.Executor`.

Here are those that run trials in this process. Those that run them in others are made in `autodistill.search.workers`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from autodistill.errors import SearchStoppedError
from autodistill.search.run_trial import TrialSpec, run_trial
from autodistill.search.trial import Trial

if TYPE_CHECKING:
    from autodistill.processes import Processes

T = TypeVar("T")


class WorkerLostError(Exception):
    """The process of a trial was lost: killed, out of memory, or with its computer."""


class WorkerInterruptedError(Exception):
    """The process of a trial was asked to end, and did so in order."""


class WorkersFailedError(SearchStoppedError):
    """No worker can run any trial; the message explains why."""


class Executor(Protocol):
    """What a search needs of an executor."""

    @property
    def slots(self) -> int:
        """How many trials may run at the same time."""

    @property
    def shares_disk(self) -> bool:
        """Whether the function certainly sees the search directory."""

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run the function with these arguments, now or later, in this or another process.

        The future may hold a `WorkerLostError` or a `WorkerInterruptedError`, after which the trial is started again;
        a `WorkersFailedError` stops the search.
        """

    def interrupt(self) -> None:
        """Ask what still runs to end at the next safe moment, and wait until it has, for a while at most."""


class SerialExecutor:
    """Runs what is submitted in this thread, before `submit` returns; nothing is ever left to be interrupted.

    An `Exception` is stored in the future. Any other `BaseException`, such as an interrupt by the user, is raised.

    Examples:
        >>> SerialExecutor().submit(max, 1, 2).result()
        2
    """

    slots = 1
    shares_disk = True

    def interrupt(self) -> None:
        """Nothing."""

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run the function."""
        future: Future[T] = Future()
        try:
            future.set_result(function(*args))
        except Exception as error:
            future.set_exception(error)
        return future


class GroupExecutor(SerialExecutor):
    """The executor of process 0 of several that train together: all processes run what it runs.

    The others call `follow`. Every message is a mapping with one key: `trial`, `best` or `stopped`.

    Args:
        processes: all of them, of which this one is number 0.
    """

    def __init__(self, processes: Processes) -> None:
        self._processes = processes

    def submit(self, function: Callable[..., T], /, *args: Any) -> Future[T]:
        """Run `run_trial` on its two arguments in all processes."""
        _, trial = args
        self._processes.broadcast({"trial": trial.to_json()})
        return super().submit(function, *args)

    def end(self, best: Any) -> None:
        """End `follow` in the other processes, which then return the best architecture."""
        self._processes.broadcast({"best": best})

    def stop(self, error: Exception) -> None:
        """Stop the other processes with an error, as this process stops."""
        self._processes.broadcast({"stopped": f"{type(error).__name__}: {error}"})


def follow(processes: Processes, spec: TrialSpec) -> Any:
    """Run the trials that process 0 runs, until it ends the search.

    Args:
        processes: all of them, of which this one is not number 0.
        spec: what the trials have in common.

    Returns:
        The best architecture.

    Raises:
        SearchStoppedError: process 0 stopped.
    """
    while "trial" in (message := processes.broadcast()):
        with contextlib.suppress(Exception):  # process 0 records what fails
            run_trial(spec, Trial.from_json(message["trial"]))
    if "stopped" in message:
        raise SearchStoppedError(f"all processes stop where process 0 does, and it did: {message['stopped']}")
    return message["best"]
