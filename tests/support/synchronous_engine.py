"""An engine that calls in this process, at once: it stands for workers on this or on another computer."""

from __future__ import annotations

from concurrent.futures import Future

import pytest

from autodistill.search import worker, worker_executor


class SynchronousEngine:
    """Calls in this process.

    Attributes:
        contents: what each call received as the settings, as a number of bytes; None if it received none.
        losses: how many of the next calls are lost, before they run.
    """

    shares_disk = True

    def __init__(self, slots=2, losses=0):
        self.slots = slots
        self.losses = losses
        self.contents = []
        self.interrupted = 0

    def share(self, content):
        return None

    def submit(self, function, task, content):
        self.contents.append(None if content is None else len(content))
        future = Future()
        if self.losses:
            self.losses -= 1
            future.set_exception(LostError("signal 9"))
        else:
            future.set_result(function(task, content))
        return future

    def is_lost(self, error):
        return isinstance(error, LostError)

    def interrupt(self):
        self.interrupted += 1

    def close(self):
        pass


class LostError(Exception):
    """The worker was lost."""


@pytest.fixture
def as_another_process(monkeypatch):
    """Lets this process work for itself, with the memory of a new worker."""
    monkeypatch.setattr(worker_executor, "this_process", lambda: ("another computer", 1))
    monkeypatch.setattr(worker, "_known", worker._Known())
