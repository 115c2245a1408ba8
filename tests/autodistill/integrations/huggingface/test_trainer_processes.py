"""A search in a trainer of two processes: one directory, equal students, one best architecture."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import trainer_processes

from autodistill import SearchResult

ROOT = Path(__file__).resolve().parents[4]
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"

# Slow, and in a file of its own: gloo's threads sometimes abort an interpreter that is ending.
pytestmark = pytest.mark.slow


def test_two_processes_end_with_one_directory_and_the_same_best_architecture(tmp_path):
    ran = subprocess.run(
        [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH.split(), trainer_processes.__file__, tmp_path],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(trainer_processes.__file__).parent)]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr[-4000:]
    first, second = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    result = SearchResult.load(tmp_path / "out/autodistillation")
    assert first["best"] == second["best"] == result.best.architecture
    assert first["hashes"] == second["hashes"]
    assert len(set(first["hashes"])) == 3
    assert [trial.state.value for trial in result] == ["complete"] * 3
    # Twelve samples in batches of two over two processes are three updates an epoch.
    assert [trial.details["distillation"][-1]["steps"] for trial in result] == [6] * 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"autodistillation"}
