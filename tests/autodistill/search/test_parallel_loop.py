"""The loop with several slots: what is started, recorded, started again and left, in whatever order trials end."""

from __future__ import annotations

import contextlib
import queue
import threading
from concurrent.futures import Future

import numpy as np
import pytest
from toy_search import make_config, make_search
from width_search import WIDTHS, Recording, search, widths_of

from autodistill import ConfigurationError, SearchResult, SearchStoppedError, auto_distillation
from autodistill.search.executors import WorkerInterruptedError, WorkerLostError, WorkersFailedError
from autodistill.search.run_trial import Outcome
from autodistill.search.trial import TrialState


class Shuffled:
    """Runs a trial when it is submitted, and lets its future end later, in random order.

    Args:
        slots: how many trials may run at the same time.
        errors: by the number of the trial, the errors of its first calls.
        idle: a trial ends when all slots are taken, or so many seconds after the last one was submitted.
    """

    shares_disk = False

    def __init__(self, slots=3, errors=None, seed=0, idle=0.05):
        self.idle = idle
        self.slots = slots
        self.errors = {number: list(given) for number, given in (errors or {}).items()}
        self.starts = []
        self.running = set()
        self.most = 0
        self.interrupted = []
        self._generator = np.random.default_rng(seed)
        self._waiting = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._end_all)
        self._thread.start()

    def submit(self, function, spec, trial):
        self.starts.append(trial.number)
        self.running.add(trial.number)
        self.most = max(self.most, len(self.running))
        error, outcome = None, None
        if self.errors.get(trial.number):
            error = self.errors[trial.number].pop(0)
        else:
            try:
                outcome = function(spec, trial)
            except Exception as raised:
                error = raised
        future = Future()
        self._waiting.put((trial.number, future, outcome, error))
        return future

    def _end_all(self):
        held, ending = [], False
        while not ending or held:
            with contextlib.suppress(queue.Empty):
                while not ending and len(held) < self.slots:  # or the loop starts no other one
                    item = self._waiting.get(timeout=self.idle)
                    ending = item is None
                    held += [] if ending else [item]
            if held:
                number, future, outcome, error = held.pop(self._generator.integers(len(held)))
                self.running.discard(number)
                future.set_result(outcome) if error is None else future.set_exception(error)

    def interrupt(self):
        self.interrupted = sorted(self.running)

    def end(self):
        self._waiting.put(None)
        self._thread.join()


@pytest.fixture
def run(monkeypatch):
    """Runs a search by an executor, which it returns."""
    executors = []

    def run_by(agent, executor=None, **arguments):
        executor = executor or Shuffled()
        executors.append(executor)
        monkeypatch.setattr(
            auto_distillation, "opened", lambda chosen, device, timeout: contextlib.nullcontext(executor)
        )
        agent.search_loop(workers=executor.slots, **arguments)
        return executor

    yield run_by
    for executor in executors:
        executor.end()


LOST = WorkerLostError("its worker was lost")


def states(directory):
    return [(trial.state.value, trial.attempts) for trial in SearchResult.load(directory)]


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("max_trials", [2, 5, 6])
def test_exactly_max_trials_run_in_all_slots_and_the_advisor_sees_those_that_run(tmp_path, run, seed, max_trials):
    executor = run(search(tmp_path, max_trials=max_trials), Shuffled(seed=seed))
    assert sorted(widths_of(tmp_path)) == WIDTHS[:max_trials]
    assert executor.most == min(3, max_trials)
    assert executor.starts == list(range(max_trials))
    assert states(tmp_path) == [("complete", 1)] * max_trials
    assert any(observed.state == "running" for observed in Recording.last)


def test_results_are_those_of_a_serial_search(tmp_path, run):
    make_search(tmp_path / "serial").search_loop()
    run(make_search(tmp_path / "parallel"))
    serial, parallel = (
        {tuple(trial.architecture.values()): trial.metrics for trial in SearchResult.load(tmp_path / name)}
        for name in ("serial", "parallel")
    )
    assert serial == parallel


def test_trial_of_a_lost_worker_is_started_again_at_once(tmp_path, run):
    executor = run(search(tmp_path), Shuffled(errors={1: [LOST, LOST], 4: [LOST]}))
    assert states(tmp_path) == [("complete", attempts) for attempts in (1, 3, 1, 1, 2, 1)]
    assert sorted(executor.starts) == [0, 1, 1, 1, 2, 3, 4, 4, 5]
    assert executor.interrupted == []


def test_trial_whose_workers_are_always_lost_fails_after_max_retries(tmp_path, run):
    run(search(tmp_path, max_retries=2), Shuffled(errors={1: [LOST] * 9}))
    trials = SearchResult.load(tmp_path)
    assert [trial.number for trial in trials.failed] == [1]
    assert "interrupted 3 times, and max_retries is 2" in trials.failed[0].error


def test_interruption_of_a_worker_is_no_attempt(tmp_path, run):
    run(search(tmp_path, max_retries=0), Shuffled(errors={2: [WorkerInterruptedError("the node is drained")] * 5}))
    assert states(tmp_path) == [("complete", 1)] * 6


@pytest.mark.parametrize("seed", range(3))
def test_share_of_the_trials_is_promoted(tmp_path, run, seed):
    executor = run(make_search(tmp_path, make_config(promote=0.5)), Shuffled(seed=seed, idle=0.3))
    counts = [trial.state.value for trial in SearchResult.load(tmp_path)]
    assert len(counts) == 8
    assert counts.count("complete") >= 4
    assert executor.most == 3


def test_callback_that_stops_lets_running_trials_end(tmp_path, run):
    agent = search(tmp_path, callbacks=[lambda search, trial: search.stop()])
    executor = run(agent)
    assert executor.starts == [0, 1, 2]
    assert states(tmp_path) == [("complete", 1)] * 3
    assert executor.interrupted == []


def test_time_limit_lets_running_trials_end(tmp_path, run):
    executor = Shuffled()
    agent = search(tmp_path, score=lambda width: width)
    run(agent, executor, timeout=0.0)
    assert executor.starts == []
    run(agent, executor, n_trials=4, patience=1)
    assert len(SearchResult.load(tmp_path).completed) == 4


def test_search_that_stops_for_failures_leaves_running_trials_to_be_resumed(tmp_path, run):
    failures = {number: [ValueError(f"failure {number}")] for number in range(6)}
    executor = Shuffled(slots=5, errors=failures)
    with pytest.raises(SearchStoppedError, match="when 3 trials fail in a row"):
        run(search(tmp_path, max_trials=6), executor)
    running = [trial for trial in SearchResult.load(tmp_path) if trial.state is TrialState.RUNNING]
    assert len(running) >= 2
    assert {trial.attempts for trial in running} == {0}
    assert len(SearchResult.load(tmp_path).failed) == 3
    run(search(tmp_path, max_trials=6))
    assert len(SearchResult.load(tmp_path).completed) == 3


def test_failed_workers_stop_the_search_and_nothing_is_lost(tmp_path, run):
    with pytest.raises(SearchStoppedError, match="the scheduler is gone"):
        run(search(tmp_path), Shuffled(errors={2: [WorkersFailedError("the scheduler is gone")]}))
    found = SearchResult.load(tmp_path)
    assert not found.failed
    assert {trial.attempts for trial in found if trial.state is TrialState.RUNNING} == {0}
    run(search(tmp_path))
    assert sorted(widths_of(tmp_path)) == WIDTHS


def test_error_in_a_callback_leaves_running_trials_to_be_resumed(tmp_path, run):
    def fail(search, trial):
        raise LookupError("in a callback")

    executor = Shuffled()
    with pytest.raises(LookupError, match="in a callback"):
        run(search(tmp_path, callbacks=[fail]), executor)
    found = states(tmp_path)
    assert sorted(found) == [("complete", 1), ("running", 0), ("running", 0)]
    assert run(search(tmp_path)).starts[:2] == [number for number, (state, _) in enumerate(found) if state == "running"]
    assert sorted(widths_of(tmp_path)) == WIDTHS


def test_missing_metric_of_a_worker_is_a_mistake_in_the_set_up(tmp_path, run):
    class Nothing(Shuffled):
        def submit(self, function, spec, trial):
            return super().submit(lambda spec, trial: Outcome({"other": 1.0}), spec, trial)

    with pytest.raises(ConfigurationError, match="eval_func must return every metric"):
        run(search(tmp_path), Nothing())


def test_files_that_a_worker_returns_are_written_into_the_folder_of_the_trial(tmp_path, run):
    class Elsewhere(Shuffled):
        def submit(self, function, spec, trial):
            return super().submit(self.outcome, spec, trial)

        def outcome(self, spec, trial):
            files = {"progress.jsonl": b"losses", "checkpoint/1/student/weights": b"tensors"}
            return Outcome({"score": 1.0, "other": 1.0}, student={"weights": "hash"}, files=files)

    run(search(tmp_path, max_trials=2, keep="all"), Elsewhere())
    for trial in SearchResult.load(tmp_path):
        assert (trial.directory / "progress.jsonl").read_bytes() == b"losses"
        assert (trial.directory / "student/weights").read_bytes() == b"tensors"
        assert not (trial.directory / "checkpoint").exists()
