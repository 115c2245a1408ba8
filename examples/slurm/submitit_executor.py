"""Gives an executor of submitit, which runs SLURM jobs, the contract of `concurrent.futures.Executor`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class SubmititExecutor:
    """Runs each call as a job of its own.

    Args:
        executor: of submitit, with the parameters of the jobs.
    """

    reuses_processes = False  # the settings of the search are sent with each job

    def __init__(self, executor: Any) -> None:
        self._executor = executor

    def submit(self, function: Callable[..., Any], /, *args: Any) -> Future[Any]:
        """Submit a job; a thread waits for its result."""
        future: Future[Any] = Future()
        job = self._executor.submit(function, *args)
        threading.Thread(target=_wait, args=(job, future), daemon=True).start()
        return future


def _wait(job: Any, future: Future[Any]) -> None:
    try:
        future.set_result(job.result())
    except Exception as error:
        future.set_exception(error)
