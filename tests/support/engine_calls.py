"""Functions that tests call in other processes; as a program, a driver that starts two processes and waits."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path


def number_of_process(seconds):
    time.sleep(seconds)
    return os.getpid()


def environment_of(names, seconds):
    time.sleep(seconds)
    return [os.environ.get(name) for name in names]


def length(content):
    return len(content)


def fail():
    raise ValueError("no number")


def kill_this_process():
    os.kill(os.getpid(), signal.SIGKILL)


def wait_for_signal(number):
    """Returns the signal, which is blocked, so that it does not end the process."""
    received = []
    signal.signal(number, lambda signum, frame: received.append(signum))
    while not received:
        time.sleep(0.01)
    signal.signal(number, signal.SIG_DFL)
    return received[0]


def note_interrupt(started, ended):
    """Writes one file when it waits, and another when the signal arrives."""
    try:
        Path(started).touch()
        for _ in range(6000):
            time.sleep(0.01)
    except KeyboardInterrupt:
        Path(ended).touch()
        raise


if __name__ == "__main__":
    from autodistill.search.engines import LocalProcesses

    engine = LocalProcesses(2, threads=1)
    calls = [engine.submit(number_of_process, 0.3) for _ in range(2)]
    found = " ".join(str(call.result()) for call in calls)
    if sys.argv[2] == "1":
        for _ in range(2):
            engine.submit(time.sleep, 600)
        time.sleep(0.5)
    unfinished = Path(sys.argv[1] + ".tmp")
    unfinished.write_text(found)
    unfinished.rename(sys.argv[1])
    time.sleep(600)
