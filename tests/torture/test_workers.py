"""Workers and the driver of a search are killed at random, and nothing is lost or repeated."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from sixty_trials import problems_of

from autodistill import SearchResult
from autodistill.distillation.checkpoints import read_checkpoint

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "support" / "sixty_trials.py"


def start(directory: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, PROGRAM, directory, "processes", "4"], cwd=PROGRAM.parent, env=environment)


def workers_of(driver: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes that train for a driver."""
    return [
        process for process in psutil.Process(driver.pid).children() if "LokyProcess" in " ".join(process.cmdline())
    ]


def wait_for_trials(directory: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    """Wait until so many trials are recorded."""
    until = time.monotonic() + 300
    while time.monotonic() < until:
        assert driver.poll() is None, "the driver has ended before it was killed"
        if (directory / "search.json").exists() and len(SearchResult.load(directory)) >= count and workers_of(driver):
            return
        time.sleep(0.1)
    raise AssertionError(f"there are no {count} trials after 300 s")


@pytest.mark.parametrize("seed", [0, 1])
def test_three_workers_and_the_driver_are_killed_at_random(tmp_path: Path, seed: int) -> None:
    generator = random.Random(seed)
    search_dir = tmp_path / "search"
    *kills, last = sorted(generator.sample(range(2, 50), 4))
    driver = start(search_dir)
    for count in kills:
        wait_for_trials(search_dir, driver, count)
        generator.choice(workers_of(driver)).kill()
    wait_for_trials(search_dir, driver, last)
    workers = workers_of(driver)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()
    assert psutil.wait_procs(workers, timeout=20)[1] == []
    assert start(search_dir).wait() == 0
    assert problems_of(search_dir) == []
    assert sum(trial.starts > 1 for trial in SearchResult.load(search_dir)) >= 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_driver_lets_its_workers_write_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    """As by Ctrl-C, the signal reaches the workers too."""
    program = PROGRAM.with_name("slow_data.py")
    search_dir = tmp_path / "search"
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(
        [sys.executable, program, search_dir], cwd=program.parent, env=environment, start_new_session=True
    )
    until = time.monotonic() + 120
    while len(list(search_dir.glob("trials/*/checkpoint/1/flash-*"))) < 2 and time.monotonic() < until:
        time.sleep(0.2)
    time.sleep(2.0)  # until they train the whole students
    if number == signal.SIGINT:
        os.killpg(driver.pid, number)
    else:
        driver.send_signal(number)
    driver.wait()
    written = [read_checkpoint(path)[1] for path in search_dir.glob("trials/*/checkpoint/1/regular.safetensors")]
    assert len(written) == 2
    assert all(0 < len(record["losses"]) < 2000 for record in written)
    assert [(trial.state, trial.attempts) for trial in SearchResult.load(search_dir)] == [("running", 0)] * 2
