"""The first signal ends a search at the next safe moment, the second one immediately; nothing is lost."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest
from interruptions import assert_same_outcomes, outcomes
from torch import nn
from toy_search import evaluate, make_config, make_search

from autodistill import AutoDistillation, SearchResult
from autodistill.distillation.step_loop import StepLoop
from autodistill.interrupts import Terminated, interruptible, is_interrupted, raise_if_interrupted, whole_steps

ERRORS = {signal.SIGINT: KeyboardInterrupt, signal.SIGTERM: Terminated}
SIGNALS = pytest.mark.parametrize(("number", "error"), ERRORS.items())


def handlers():
    return signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)


@SIGNALS
def test_first_signal_waits_for_the_step_and_the_second_does_not(number, error):
    before = handlers()
    with interruptible():
        with pytest.raises(error), whole_steps():  # noqa: PT012
            signal.raise_signal(number)
            assert is_interrupted()
            raise_if_interrupted()
        with pytest.raises(error), whole_steps():  # noqa: PT012
            signal.raise_signal(number)
            pytest.fail("the second signal did not end the step")
    assert handlers() == before
    assert not is_interrupted()


@SIGNALS
def test_signal_outside_of_steps_is_raised_where_it_arrives(number, error):
    with interruptible(), pytest.raises(error) as raised:
        signal.raise_signal(number)
    assert type(raised.value) is error


@SIGNALS
def test_signal_after_the_last_step_is_raised_at_the_end(number, error):
    with interruptible(), pytest.raises(error), whole_steps():
        signal.raise_signal(number)


def test_error_in_a_step_is_not_hidden_by_a_signal():
    with interruptible(), pytest.raises(ValueError, match="in the step"), whole_steps():  # noqa: PT012
        signal.raise_signal(signal.SIGINT)
        raise ValueError("in the step")


def test_handlers_of_the_program_stay_in_place():
    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        with interruptible(), whole_steps():
            signal.raise_signal(signal.SIGTERM)
            assert not is_interrupted()
    finally:
        signal.signal(signal.SIGTERM, before)
    assert received == [signal.SIGTERM]


def test_nothing_is_handled_outside_the_main_thread():
    seen = []

    def in_thread():
        with interruptible(), whole_steps():
            seen.append(handlers())

    before = handlers()
    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert seen == [before]


def test_context_within_another_changes_nothing():
    with interruptible():
        within = handlers()
        with interruptible():
            assert handlers() == within
        assert handlers() == within


FORK = """
import multiprocessing, time
from autodistill.interrupts import interruptible, whole_steps

def idle(runs):
    runs.set()
    while True:
        time.sleep(0.01)

with interruptible(), whole_steps():
    context = multiprocessing.get_context("fork")
    runs = context.Event()
    process = context.Process(target=idle, args=(runs,))
    process.start()
    runs.wait()  # Python discards signals that arrive while it forks
    process.terminate()
    process.join(60)
    print(process.exitcode)
"""


def test_forked_process_ends_by_the_signal():
    # In a program of its own: other tests leave threads, with which a fork may come to a standstill.
    program = subprocess.run([sys.executable, "-c", FORK], capture_output=True, text=True, timeout=120, check=True)
    assert program.stdout == f"{-signal.SIGTERM}\n"


# --- in a search ------------------------------------------------------------------------------------------------------


def send_at(monkeypatch, step, number):
    """Sends a signal in an optimizer step of a search."""
    update, steps = StepLoop._update, []

    def sending(loop, *arguments):
        steps.append(loop.name)
        if len(steps) == step:
            os.kill(os.getpid(), number)
        update(loop, *arguments)

    monkeypatch.setattr(StepLoop, "_update", sending)
    return steps


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("undisturbed")
    make_search(directory, make_config(max_trials=2)).search_loop()
    return outcomes(directory)


@SIGNALS
@pytest.mark.parametrize("phase", ["flash", "regular"])
def test_interrupted_training_goes_on_from_its_last_step(tmp_path, monkeypatch, undisturbed, number, error, phase):
    config = make_config(max_trials=2)
    with monkeypatch.context() as patched:
        names = send_at(patched, 10**9, number)
        make_search(tmp_path / "count", make_config(max_trials=1)).search_loop()
    regular = names.index(names[-1])
    step = 2 if phase == "flash" else regular + 5
    with monkeypatch.context() as patched:
        steps = send_at(patched, step, number)
        with pytest.raises(error):
            make_search(tmp_path / "search", config).search_loop()
    assert len(steps) == step
    (trial,) = SearchResult.load(tmp_path / "search")
    assert trial.attempts == 0
    with monkeypatch.context() as patched:
        steps = send_at(patched, 10**9, number)
        make_search(tmp_path / "search", make_config(max_trials=1)).search_loop()
    assert len(steps) == (len(names) if phase == "flash" else len(names) - step)
    make_search(tmp_path / "search", config).search_loop()
    assert_same_outcomes(outcomes(tmp_path / "search"), undisturbed)


@pytest.mark.parametrize("swallows", [False, True])
@SIGNALS
def test_signal_in_a_hook_is_an_interrupt_there_even_if_the_hook_goes_on(tmp_path, number, error, swallows):
    seen = []

    def train(student):
        try:
            signal.raise_signal(number)
        except KeyboardInterrupt as interrupt:
            seen.append(type(interrupt))
            if not swallows:
                raise

    config = {"search": {"search_space": {"width": [1, 2]}, "metrics": ["score"], "max_trials": 2}}
    agent = AutoDistillation(
        lambda architecture: nn.Linear(architecture["width"], 1),
        config,
        train_func=train,
        eval_func=lambda student: {"score": student.in_features},
        search_dir=tmp_path,
        show_progress_bar=False,
    )
    before = handlers()
    with pytest.raises(error):
        agent.search_loop()
    assert seen == [error]
    assert handlers() == before
    assert [trial.attempts for trial in SearchResult.load(tmp_path)] == [0]
    agent.train_func = lambda student: student
    agent.search_loop()
    assert len(agent.search_result.completed) == 2


def test_error_that_follows_a_signal_does_not_fail_the_trial(tmp_path):
    """As that of a data loader whose processes the signal ended."""

    def evaluate_killed(student):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise RuntimeError("DataLoader worker exited") from None

    with pytest.raises(KeyboardInterrupt):
        make_search(tmp_path, make_config(max_trials=1), eval_func=evaluate_killed).search_loop()
    assert not SearchResult.load(tmp_path).failed
    make_search(tmp_path, make_config(max_trials=1), eval_func=evaluate).search_loop()
    assert len(SearchResult.load(tmp_path).completed) == 1


PROGRAM = """
import signal, sys
from autodistill.interrupts import interruptible
with interruptible():
    signal.raise_signal(int(sys.argv[1]))
"""


def test_program_that_catches_nothing_ends_with_the_status_of_the_signal():
    ends = {}
    for number in (signal.SIGINT, signal.SIGTERM):
        command = [sys.executable, "-c", PROGRAM, str(int(number))]
        # A shell reports 128 + the number for a process that ended by a signal, as Python ends for SIGINT.
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        ends[number] = ended.returncode if ended.returncode >= 0 else 128 - ended.returncode
        assert ("Traceback" in ended.stderr) == (number == signal.SIGINT)
    assert ends == {signal.SIGINT: 130, signal.SIGTERM: 143}
