"""A cluster of three Ray nodes, of which one is killed, and the driver too: nothing is lost or repeated."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("ray")

from ray.cluster_utils import Cluster
from sixty_trials import problems_of

from autodistill import SearchResult

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[1] / "support" / "sixty_trials.py"


def start(directory: Path, address: str) -> subprocess.Popen[bytes]:
    support = str(PROGRAM.parent)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_ADDRESS": address, "PYTHONPATH": support}
    return subprocess.Popen([sys.executable, PROGRAM, directory, "ray", "3"], cwd=support, env=environment)


def wait_for_trials(directory: Path, driver: subprocess.Popen[bytes], count: int) -> None:
    """Wait until so many trials are recorded."""
    until = time.monotonic() + 400
    while time.monotonic() < until:
        assert driver.poll() is None, "the driver has ended before it was killed"
        if (directory / "search.json").exists() and len(SearchResult.load(directory)) >= count:
            return
        time.sleep(0.1)
    raise AssertionError(f"there are no {count} trials after 400 s")


def test_a_node_and_the_driver_are_killed(tmp_path: Path) -> None:
    search_dir = tmp_path / "search"
    os.environ["PYTHONPATH"] = str(PROGRAM.parent)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
        cluster.wait_for_nodes()
        driver = start(search_dir, cluster.address)
        wait_for_trials(search_dir, driver, 15)
        cluster.remove_node(nodes[0], allow_graceful=False)
        wait_for_trials(search_dir, driver, 35)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        assert start(search_dir, cluster.address).wait() == 0
    finally:
        cluster.shutdown()
    assert problems_of(search_dir) == []
    assert any(trial.starts > 1 for trial in SearchResult.load(search_dir))
