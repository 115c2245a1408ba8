"""Local processes: each with its own environment, lost one at a time, and never left behind by a killed driver."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from pathlib import Path

import psutil
import pytest
from engine_calls import environment_of, kill_this_process, number_of_process, wait_for_signal

from autodistill.search.engines import GivenExecutor, LocalProcesses


@pytest.fixture(scope="module")
def engine():
    with contextlib.closing(LocalProcesses(2, threads=3, devices=["4", "6"])) as processes:
        yield processes


def numbers(engine):
    return [call.result() for call in [engine.submit(number_of_process, 0.3) for _ in range(2)]]


def test_each_slot_has_a_process_of_its_own_that_stays(engine):
    first = numbers(engine)
    assert len({*first, os.getpid()}) == 3
    assert set(numbers(engine)) == set(first)


def test_each_process_has_its_threads_and_its_device(engine):
    calls = [engine.submit(environment_of, ["OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"], 0.3) for _ in range(2)]
    assert sorted(call.result() for call in calls) == [["3", "4"], ["3", "6"]]


def test_no_more_calls_than_slots(engine):
    calls = [engine.submit(number_of_process, 0.5) for _ in range(2)]
    with pytest.raises(RuntimeError, match="all 2 processes are at work"):
        engine.submit(number_of_process, 0.0)
    for call in calls:
        call.result()


def test_killed_process_is_lost_alone_and_started_again(engine):
    before = numbers(engine)
    other = engine.submit(number_of_process, 1.0)
    error = engine.submit(kill_this_process).exception()
    assert engine.is_lost(error)
    assert other.result() in before
    after = numbers(engine)
    assert len(set(after) & set(before)) == 1


def test_process_that_is_killed_between_two_calls_is_started_again(engine):
    for number in numbers(engine):
        os.kill(number, signal.SIGKILL)
        psutil.wait_procs([psutil.Process(number)] if psutil.pid_exists(number) else [], timeout=10)
    time.sleep(0.5)  # until it is noticed
    assert len(set(numbers(engine))) == 2


def test_error_of_the_function_is_no_loss(engine):
    error = engine.submit(int, "no number").exception()
    assert isinstance(error, ValueError)
    assert not engine.is_lost(error)


def test_interrupt_sends_a_signal_to_what_runs_and_waits_for_its_end():
    with contextlib.closing(LocalProcesses(2, threads=1)) as engine:
        call = engine.submit(wait_for_signal, signal.SIGTERM)
        time.sleep(2.0)  # until the process waits
        engine.interrupt()
        assert call.done()
        assert call.result() == signal.SIGTERM


def test_closed_engine_leaves_no_process():
    engine = LocalProcesses(2, threads=1)
    (one, two), running = numbers(engine), engine.submit(time.sleep, 600)
    engine.close()
    assert running.exception() is not None
    assert not any(map(psutil.pid_exists, (one, two)))


@pytest.mark.parametrize("at_work", [True, False])
def test_processes_end_when_only_the_driver_is_killed(tmp_path, at_work):
    program = Path(__file__).parents[2] / "support" / "engine_calls.py"
    numbers = tmp_path / "numbers"
    command = [sys.executable, program, numbers, str(int(at_work))]
    with subprocess.Popen(command, cwd=program.parent) as driver:
        until = time.monotonic() + 60
        while not numbers.exists() and time.monotonic() < until:
            time.sleep(0.05)
        processes = [psutil.Process(int(number)) for number in numbers.read_text().split()]
        assert len(processes) == 2
        os.kill(driver.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert alive == []


def test_given_executor_is_not_closed_and_cancels_only_what_waits():
    with ProcessPoolExecutor(1) as pool:
        engine = GivenExecutor(pool, slots=1)
        calls = [engine.submit(number_of_process, 0.5) for _ in range(4)]
        engine.interrupt()
        assert calls[-1].cancelled()
        assert isinstance(calls[0].result(), int)
        engine.close()
        assert engine.submit(max, 1, 2).result() == 2


def test_executor_that_starts_a_process_for_each_call_receives_the_settings_with_each():
    class Jobs:
        reuses_processes = False

        def submit(self, function, *args):
            return Future()

    assert GivenExecutor(Jobs(), slots=2).share(b"settings") == b"settings"
    with ProcessPoolExecutor(1) as pool:
        assert GivenExecutor(pool, slots=1).share(b"settings") is None


class KilledWorker(Exception):  # noqa: N818
    """Named like dask's."""


class Special(KilledWorker):
    """A subclass of it."""


@pytest.mark.parametrize(
    ("error", "lost"), [(KilledWorker(), True), (Special(), True), (ValueError(), False), (BrokenExecutor(), False)]
)
def test_loss_is_known_by_the_name_of_the_error(error, lost):
    class Nothing:
        def submit(self, function, *args):
            return Future()

    assert GivenExecutor(Nothing(), slots=1).is_lost(error) is lost
