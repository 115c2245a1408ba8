"""Several processes in one search: equal weights in all, one process that writes, and none that waits forever."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import toy_processes
import toy_search
from safetensors.torch import load_file
from toy_search import make_search

from autodistill import SearchDirectoryError, SearchResult
from autodistill.processes import ALONE, Processes, current_processes

ROOT = Path(__file__).resolve().parents[2]
LAUNCH = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"


def launch(directory, *scenarios):
    """Run scenarios in two processes."""
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            *LAUNCH.split(),
            toy_processes.__file__,
            directory,
            *scenarios,
        ],
        env=os.environ
        | {
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(Path(toy_search.__file__).parent)]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
        },
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory in which two processes ran all scenarios, after a first run that was killed."""
    directory = tmp_path_factory.mktemp("processes")
    killed = launch(directory, "killed")
    assert killed.returncode != 0
    assert "SIGKILL" in killed.stderr
    assert len(SearchResult.load(directory / "killed")) == 1
    scenarios = ["search", "promoting", "failing", "stopping", "evaluating", "buffers", "exchanges", "parting"]
    ran = launch(directory, "resumed", *scenarios)
    assert ran.returncode == 0, ran.stderr
    return directory


def observed(directory, scenario):
    return [json.loads((directory / f"{scenario}-{rank}.json").read_text()) for rank in (0, 1)]


def weights(search_dir, number):
    return load_file(search_dir / f"trials/{number:06d}/student/model.safetensors")


def test_both_processes_end_with_the_same_weights_and_the_same_best_architecture(directory):
    first, second = observed(directory, "search")
    assert first["pid"] != second["pid"]
    assert first["best"] == second["best"] == SearchResult.load(directory / "search").best.architecture
    assert first["students"] == second["students"]
    assert len(set(first["students"].values())) == 3


def test_two_processes_train_as_one_does_with_twice_the_batches_a_step(directory, tmp_path):
    settings = toy_processes.config(regular_distillation={"train_steps": 9, "gradient_accumulation_steps": 2})
    make_search(tmp_path / "search", settings).search_loop()
    for one, two in zip(SearchResult.load(tmp_path / "search"), SearchResult.load(directory / "search"), strict=True):
        assert one.architecture == two.architecture
        expected, trained = weights(tmp_path / "search", one.number), weights(directory / "search", two.number)
        for name in expected:
            torch.testing.assert_close(trained[name], expected[name], rtol=1e-5, atol=1e-6)
        curves = [
            [json.loads(line)["losses"] for line in (path / "progress.jsonl").read_text().splitlines()]
            for path in (one.directory, two.directory)
        ]
        for left, right in zip(*curves, strict=True):
            assert left == pytest.approx(right, rel=1e-5)


def test_only_the_main_process_writes_to_the_search_directory(directory):
    # The directory of the other process cannot be written to, and its search is complete anyway.
    assert not Path(toy_processes.UNUSABLE).exists()
    result = SearchResult.load(directory / "search")
    assert [trial.state.value for trial in result] == ["complete"] * 3


def test_a_killed_search_continues_in_both_processes_and_ends_with_the_same_result(directory):
    first, second = observed(directory, "resumed")
    uninterrupted = observed(directory, "search")[0]["students"]
    architecture = str(SearchResult.load(directory / "killed")[0].architecture)
    assert first["steps"] == second["steps"] == 9 - 6
    assert first["students"][architecture] == second["students"][architecture] == uninterrupted[architecture]


def test_both_processes_train_the_same_part_of_a_trial_that_may_be_promoted(directory):
    first, second = observed(directory, "promoting")
    assert first == second
    result = SearchResult.load(directory / "promoting")
    assert len(result.completed) >= 1
    assert len(result.completed) + len(result.paused) == 3
    assert first["best"] == result.best.architecture
    whole = observed(directory, "search")[0]["students"]
    for trial in result:
        finished = first["students"][str(trial.architecture)] == whole[str(trial.architecture)]
        assert finished == (trial in result.completed)


def test_an_error_in_one_process_fails_the_trial_in_both_and_the_search_continues(directory):
    result = SearchResult.load(directory / "failing")
    errors = {(t.architecture["width"], t.architecture["depth"]): t.error or "complete" for t in result}
    assert "nothing to evaluate with" in errors[8, 1]
    assert "process 1 did: RuntimeError: out of luck" in errors[8, 2]
    assert errors[12, 1] == "complete"
    assert "the loss must stay finite, but became nan at step 0 of regular distillation" in errors[12, 2]
    first, second = observed(directory, "failing")
    assert first == second == {"best": {"width": 12, "depth": 1}}


def test_a_search_that_stops_reports_the_cause_in_every_process(directory):
    first, second = observed(directory, "stopping")
    assert first["error"].startswith("the search stops when 3 trials fail in a row")
    assert second["error"] == (
        f"all processes stop where process 0 does, and it did: SearchStoppedError: {first['error']}"
    )


def test_train_evaluate_returns_the_metrics_of_the_main_process_in_both(directory):
    first, second = observed(directory, "evaluating")
    assert first == second
    assert first.keys() == {"accuracy", "parameters"}


def test_students_with_different_weights_and_batches_end_with_the_same_buffers(directory):
    first, second = observed(directory, "buffers")
    assert first["before"] != second["before"]
    assert first["after"] == second["after"]
    assert first["batches"] == second["batches"] == 5
    assert first["loss"] == second["loss"]


def test_a_gradient_of_one_process_counts_in_all_and_a_missing_one_stays_none(directory):
    first, second = observed(directory, "exchanges")
    assert first == second
    assert first["gradients"] == [[0.5, 0.5], [1.0, 1.0], None]
    assert first["loss"] == 0.5


def test_an_error_between_two_steps_reaches_the_other_process_in_the_next_step(directory):
    first, second = observed(directory, "parting")
    assert first == {
        "step": 2,
        "error": "TrialError: all processes stop where one fails, and process 1 did: KeyError: 'lost'",
    }
    assert second == {"step": 1, "error": "KeyError: 'lost'"}


def test_every_kind_of_tensor_is_broadcast_bit_for_bit(directory):
    bfloat = torch.tensor(0.1, dtype=torch.bfloat16).item()
    for process in observed(directory, "exchanges"):
        assert process["kinds"] == [7, [True, False], [], [bfloat] * 3, [0.1] * 3]
        assert process["message"] == {"from": 1}


def test_a_search_of_two_processes_is_not_resumed_with_one(directory):
    with pytest.raises(SearchDirectoryError, match="processes was 2, but is now 1"):
        make_search(directory / "search", toy_processes.config()).search_loop()


def test_no_group_remains_when_the_interpreter_ends_since_its_threads_might_abort_it(directory):
    for process in observed(directory, "left"):
        assert process["groups"] == [False]


def test_a_single_process_starts_no_group_and_returns_everything_unchanged():
    assert current_processes() is ALONE
    loss = torch.tensor(1.0)
    assert Processes().average_gradients([], loss) is loss
    assert not torch.distributed.is_initialized()
    with pytest.raises(KeyError), ALONE.together():
        raise KeyError
