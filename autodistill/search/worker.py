"""A worker: a process in which trials run, one at a time. It learns the settings of a search once, and keeps them.

What is sent and what comes back are bytes, so that an engine has nothing to pickle but functions of this package.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import platform
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from autodistill.errors import TrialError, text_of
from autodistill.interrupts import interruptible
from autodistill.search.executors import WorkersFailedError
from autodistill.search.run_trial import Outcome, TrialSpec, run_trial, written_files
from autodistill.search.trial import Trial, read_trial
from autodistill.transport import pack, unpack

Process = tuple[str, int]
"""The computer and the number of a process."""


def this_process() -> Process:
    """The computer and the number of this process."""
    return platform.node(), os.getpid()


@dataclass(frozen=True)
class Task:
    """What a worker is asked to do.

    Args:
        key: of the settings of the search, the first argument of the function.
        function: of a module, called with the settings and the arguments.
        arguments: of the function, after the settings.
        driver: the process that asks.
        timeout: the process ends itself after so many seconds; None never.
    """

    key: str
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    driver: Process
    timeout: float | None = None


class Ending(StrEnum):
    """How a task ended."""

    RETURNED = "returned"
    RAISED = "raised"
    INTERRUPTED = "interrupted"
    UNKNOWN = "unknown"  # the worker does not know the settings


class _Known:
    """The settings that this worker knows: those of one search, since they hold its teacher."""

    def __init__(self) -> None:
        self.key: str | None = None
        self.spec: TrialSpec | None = None
        self.folder: tempfile.TemporaryDirectory[str] | None = None  # removed with this object
        self.at_work = threading.Lock()

    def learn(self, key: str, content: bytes, *, shares_disk: bool) -> None:
        self.key = self.spec = self.folder = None  # the earlier teacher leaves its memory first
        spec: TrialSpec = unpack(content)
        spec.framework.place()
        self.folder = None if shares_disk else tempfile.TemporaryDirectory(prefix="autodistill-")
        spec.training.place(None if self.folder is None else Path(self.folder.name))
        self.key, self.spec = key, spec


_known = _Known()


def work(task: Task, content: bytes | None) -> bytes:
    """Do a task in this process.

    Args:
        task: of a driver, which is another process.
        content: the packed settings; None if the worker should know them.

    Returns:
        An `Ending`, with what the function returned or raised; packed.
    """
    if not _known.at_work.acquire(blocking=False):
        return _packed(Ending.RAISED, WorkersFailedError(_ONE_AT_A_TIME))
    try:
        if task.driver == this_process():
            return _packed(Ending.RAISED, WorkersFailedError(_OWN_PROCESS))
        if _known.key != task.key and content is None:
            return _packed(Ending.UNKNOWN)
        with interruptible():
            return _packed(Ending.RETURNED, _call(task, content))
    except KeyboardInterrupt:
        return _packed(Ending.INTERRUPTED)
    except Exception as error:
        error.add_note("".join(traceback.format_exception(error)))  # which pickling loses
        return _packed(Ending.RAISED, error)
    finally:
        _known.at_work.release()


_ONE_AT_A_TIME = (
    "a worker must run one trial at a time, since trials share the random state and the threads of their process, but "
    "it received two; start workers with one task each (dask: threads_per_worker=1)."
)
_OWN_PROCESS = (
    "trials must run in other processes than the search, whose random state and threads they would change, but the "
    "executor runs them in threads of this one; take one of processes (dask: Client(processes=True))."
)


def run_sent_trial(spec: TrialSpec, trial: Trial) -> Outcome:
    """Run a trial in a worker: in its folder if the worker sees it, else in a temporary one, whose files are returned.

    Args:
        spec: the settings of the search.
        trial: with its folder on the disk of the driver.
    """
    if shares_disk(trial):
        return run_trial(spec, trial)
    with tempfile.TemporaryDirectory() as folder:
        elsewhere = replace(trial, directory=Path(folder))
        outcome = run_trial(spec, elsewhere)
        return replace(outcome, files=written_files(elsewhere, student=True))


def shares_disk(trial: Trial) -> bool:
    """Whether this process sees the folder of a trial as the driver wrote it."""
    if trial.directory is None:
        return True
    try:
        found = read_trial(trial.directory)
    except (OSError, ValueError):
        return False
    return found is not None and found.started_at == trial.started_at


def _call(task: Task, content: bytes | None) -> Any:
    if _known.key != task.key:
        assert content is not None
        _learn(task, content)
    with _ending_after(task.timeout):
        return task.function(_known.spec, *task.arguments)


def _learn(task: Task, content: bytes) -> None:
    trials = [argument for argument in task.arguments if isinstance(argument, Trial)]
    try:
        _known.learn(task.key, content, shares_disk=all(map(shares_disk, trials)))
    except Exception as error:  # of any kind: it stems from modules that the worker imports
        raise WorkersFailedError(
            "workers must be able to read what they are sent, such as model_builder and the data, but "
            f"{platform.node()} is not: {text_of(error)}; install there what it needs, or define it in the program "
            "itself."
        ) from error


@contextlib.contextmanager
def _ending_after(seconds: float | None) -> Iterator[None]:
    """If the context takes longer than this, write the stacks of all threads to standard error, and end the process.

    Not by a thread of Python: a hook may hold the interpreter.
    """
    if seconds is None:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or sys.stderr)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _packed(ending: Ending, value: Any = None) -> bytes:
    try:
        content = pack((ending, value))
        unpack(content)
    except Exception:  # an error that only this process can represent
        content = pack((ending, TrialError(text_of(value) if isinstance(value, Exception) else repr(value))))
    return content
