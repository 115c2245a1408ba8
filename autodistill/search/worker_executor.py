"""The executor that runs trials in workers, through an engine."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass, field, replace
from functools import partial
from hashlib import sha256
from typing import Any

from autodistill.errors import TrialError, text_of
from autodistill.search.engines import Engine
from autodistill.search.executors import WorkerInterruptedError, WorkerLostError, WorkersFailedError
from autodistill.search.run_trial import TrialSpec, run_trial
from autodistill.search.stored_trial import run_stored_trial
from autodistill.search.worker import Ending, Task, run_sent_trial, this_process, work
from autodistill.training import NoReport
from autodistill.transport import pack, unpack

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Sent:
    """The settings of a search as they are sent: packed once, and again only if they change."""

    spec: TrialSpec
    key: str
    content: bytes
    handle: Any  # in the engine's store; None if it has none


@dataclass
class WorkerExecutor:
    """Runs functions of the settings of a search in workers, which learn the settings once.

    Args:
        engine: runs the workers.
        trial_timeout: a worker whose trial runs for more than so many seconds is ended; None never.
    """

    engine: Engine
    trial_timeout: float | None = None
    _sent: _Sent | None = field(default=None, init=False, repr=False)

    @property
    def slots(self) -> int:
        """How many trials may run at the same time."""
        return self.engine.slots

    @property
    def shares_disk(self) -> bool:
        """Whether workers certainly see the search directory."""
        return self.engine.shares_disk

    def submit(self, function: Callable[..., Any], /, spec: TrialSpec, *args: Any) -> Future[Any]:
        """Call the function with the settings and these arguments in a worker.

        Raises:
            WorkersFailedError: the engine is broken.
        """
        sent = self._packed(spec)
        limit = self.trial_timeout if function in (run_trial, run_stored_trial) else None
        function = run_sent_trial if function is run_trial else function
        call = _Call(self.engine, sent, Task(sent.key, function, args, this_process(), limit))
        call.start(sent.handle)
        return call.future

    def _packed(self, spec: TrialSpec) -> _Sent:
        spec = replace(spec, report=_NO_REPORT)
        if self._sent is None or self._sent.spec != spec:
            content = pack(spec.for_another_process(with_files=not self.engine.shares_disk))
            self._sent = _Sent(spec, sha256(content).hexdigest(), content, self.engine.share(content))
            logger.info("each worker receives %.1f MB: models, data and hooks", len(content) / 1e6)
        return self._sent

    def interrupt(self) -> None:
        """Ask what runs to end at the next safe moment."""
        self.engine.interrupt()

    def close(self) -> None:
        """End the workers that were started for this search."""
        self.engine.close()


_NO_REPORT = NoReport()


@dataclass
class _Call:
    """One task, from the first time that it is sent until its end is known."""

    engine: Engine
    sent: _Sent
    task: Task
    future: Future[Any] = field(default_factory=Future)

    def start(self, content: Any) -> None:
        """Send the task, with the settings or, if the worker is expected to know them, without."""
        began = time.monotonic()
        try:
            call = self.engine.submit(work, self.task, content)
        except BrokenExecutor as error:
            raise WorkersFailedError(_broken(error)) from error
        call.add_done_callback(partial(self._end, began))

    def _end(self, began: float, call: Future[bytes]) -> None:
        """Note how the call ended, in whatever thread; a task whose worker does not know the settings is sent again."""
        try:
            error = WorkerInterruptedError("its call was cancelled") if call.cancelled() else call.exception()
            if error is not None:
                self.future.set_exception(self._explained(error, time.monotonic() - began))
                return
            ending, value = unpack(call.result())
            if ending is Ending.UNKNOWN:
                self.start(self.sent.content)
            elif ending is Ending.RETURNED:
                self.future.set_result(value)
            elif ending is Ending.INTERRUPTED:
                self.future.set_exception(WorkerInterruptedError("its worker was asked to end, and did"))
            else:
                self.future.set_exception(value)
        except BaseException as failure:  # nobody else would see it
            self.future.set_exception(failure)

    def _explained(self, error: BaseException, seconds: float) -> BaseException:
        if not self.engine.is_lost(error):
            return error if isinstance(error, WorkerInterruptedError) else WorkersFailedError(_broken(error))
        limit = self.task.timeout
        if limit is not None and seconds >= limit:
            return TrialError(
                f"a trial must end within trial_timeout ({limit:g} s), but it ran longer: its worker was ended; the "
                "stacks of its threads are on standard error; raise trial_timeout, or repair the hook that hangs."
            )
        return WorkerLostError(f"its worker was lost ({text_of(error).splitlines()[0]})")


def _broken(error: BaseException) -> str:
    return (
        f"an executor must run what it is given, but it is broken: {text_of(error)}; start the search again with a "
        "working one, and it resumes."
    )
