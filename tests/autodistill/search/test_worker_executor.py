"""The executor that runs trials in workers: what it sends, and how it explains what went wrong."""

from __future__ import annotations

import time
from concurrent.futures import BrokenExecutor, Future

import pytest
from synchronous_engine import LostError, SynchronousEngine, as_another_process
from toy_search import make_search

from autodistill import TrialError
from autodistill.search.executors import WorkerInterruptedError, WorkerLostError, WorkersFailedError
from autodistill.search.run_trial import run_trial
from autodistill.search.trial import Trial
from autodistill.search.worker_executor import WorkerExecutor

__all__ = ["as_another_process"]

pytestmark = pytest.mark.usefixtures("as_another_process")


def number_of_dimensions(spec, factor):
    return factor * len(spec.search_space.dimensions)


def spec_of(tmp_path, **changes):
    return make_search(tmp_path, **changes)._trial_spec()


def test_settings_are_sent_to_a_worker_once_and_again_only_if_they_change(tmp_path):
    engine = SynchronousEngine()
    executor, search = WorkerExecutor(engine), make_search(tmp_path)
    results = [executor.submit(number_of_dimensions, search._trial_spec(), factor).result() for factor in (1, 2, 3)]
    assert results == [2, 4, 6]
    assert [content is None for content in engine.contents] == [True, False, True, True]
    search.eval_func = lambda student: {"accuracy": 1.0}
    executor.submit(number_of_dimensions, search._trial_spec(), 1).result()
    assert [content is None for content in engine.contents[4:]] == [True, False]


def test_store_of_an_engine_holds_the_settings(tmp_path):
    class Store(SynchronousEngine):
        shared = 0

        def share(self, content):
            self.shared += 1
            return content

    engine = Store()
    executor, search = WorkerExecutor(engine), make_search(tmp_path)
    for factor in (1, 2):
        executor.submit(number_of_dimensions, search._trial_spec(), factor).result()
    assert engine.shared == 1
    assert None not in engine.contents


class Failing(SynchronousEngine):
    """An engine whose calls end with an error, or cannot begin."""

    def __init__(self, error=None, *, broken=False, cancelled=False):
        super().__init__()
        self.error, self.broken, self.cancelled = error, broken, cancelled

    def submit(self, function, task, content):
        if self.broken:
            raise BrokenExecutor("no process is left")
        future = Future()
        if self.cancelled:
            future.cancel()
            future.set_running_or_notify_cancel()
        else:
            future.set_exception(self.error)
        return future


@pytest.mark.parametrize(
    ("engine", "kind", "sentence"),
    [
        (Failing(LostError("signal 9\nlong explanation")), WorkerLostError, r"was lost \(LostError: signal 9\)$"),
        (Failing(BrokenExecutor("all died")), WorkersFailedError, "it is broken: BrokenExecutor: all died; start"),
        (Failing(TypeError("cannot pickle")), WorkersFailedError, "it is broken: TypeError: cannot pickle"),
        (Failing(cancelled=True), WorkerInterruptedError, "cancelled"),
    ],
)
def test_end_of_a_call_is_explained(tmp_path, engine, kind, sentence):
    error = WorkerExecutor(engine).submit(number_of_dimensions, spec_of(tmp_path), 1).exception()
    assert isinstance(error, kind)
    with pytest.raises(kind, match=sentence):
        raise error


def test_broken_engine_stops_the_search(tmp_path):
    with pytest.raises(WorkersFailedError, match="no process is left"):
        WorkerExecutor(Failing(broken=True)).submit(number_of_dimensions, spec_of(tmp_path), 1)


def test_lost_worker_whose_time_was_over_has_been_ended_by_itself(tmp_path):
    class Late(SynchronousEngine):
        """Ends after `submit`, like a real one."""

        def submit(self, function, task, content):
            self.future = Future()
            return self.future

    engine = Late()
    spec, trial = spec_of(tmp_path), Trial(0, {"width": 8, "depth": 1})

    def lose(limit, function, *arguments):
        call = WorkerExecutor(engine, trial_timeout=limit).submit(function, spec, *arguments)
        time.sleep(0.05)
        engine.future.set_exception(LostError("exit 1"))
        return call.exception()

    error = lose(0.01, run_trial, trial)
    assert isinstance(error, TrialError)
    assert "must end within trial_timeout (0.01 s)" in str(error)
    assert isinstance(lose(60, run_trial, trial), WorkerLostError)
    assert isinstance(lose(0.01, number_of_dimensions, 1), WorkerLostError)  # the limit is that of trials


def test_failure_to_send_again_reaches_who_waits(tmp_path):
    class OnceOnly(SynchronousEngine):
        def submit(self, function, task, content):
            if content is not None:
                raise BrokenExecutor("no process is left")
            return super().submit(function, task, content)

    error = WorkerExecutor(OnceOnly()).submit(number_of_dimensions, spec_of(tmp_path), 1).exception()
    assert isinstance(error, WorkersFailedError)
