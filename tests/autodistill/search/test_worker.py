"""A worker: it learns the settings once, runs one trial at a time, and returns what nobody else can read."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load as decode
from toy_search import make_config, make_search

from autodistill.file_hashes import folder_hashes
from autodistill.json_files import write_record
from autodistill.search import worker
from autodistill.search.executors import WorkersFailedError
from autodistill.search.run_trial import run_trial
from autodistill.search.trial import Trial, now
from autodistill.search.worker import Ending, Task, run_sent_trial, shares_disk, this_process, work
from autodistill.transport import pack, unpack

ELSEWHERE = ("another computer", 1)


class Place:
    """Settings that can be placed."""

    def __init__(self):
        self.placed = []

    @property
    def framework(self):
        return self

    @property
    def training(self):
        return self

    def place(self, *folder):
        self.placed += folder


@pytest.fixture(autouse=True)
def new_worker(monkeypatch):
    monkeypatch.setattr(worker, "_known", worker._Known())


def ask(function, *arguments, key="settings", content=None, driver=ELSEWHERE):
    return unpack(work(Task(key, function, arguments, driver), content))


def placed(spec):
    return spec.placed


def test_worker_learns_the_settings_once_and_asks_for_those_that_it_does_not_know():
    content = pack(Place())
    assert ask(placed) == (Ending.UNKNOWN, None)
    assert ask(placed, content=content) == (Ending.RETURNED, [None])
    assert ask(placed) == (Ending.RETURNED, [None])
    assert ask(placed, key="other") == (Ending.UNKNOWN, None)
    assert ask(placed, key="other", content=content) == (Ending.RETURNED, [None])
    assert ask(placed) == (Ending.UNKNOWN, None)  # it keeps those of one search


def test_error_arrives_with_the_place_where_it_was_raised():
    def fails(spec):
        raise LookupError("no layer")

    ending, error = ask(fails, content=pack(Place()))
    assert ending is Ending.RAISED
    assert isinstance(error, LookupError)
    assert "in fails" in error.__notes__[0]


def test_error_that_no_other_process_can_represent_arrives_as_its_text():
    class TwoArgumentsError(Exception):
        def __init__(self, one, two):
            super().__init__(f"{one} and {two}")

    def fails(spec):
        raise TwoArgumentsError(1, 2)

    ending, error = ask(fails, content=pack(Place()))
    assert (ending, str(error)) == (Ending.RAISED, "TwoArgumentsError: 1 and 2")


def test_settings_that_cannot_be_read_stop_the_search():
    ending, error = ask(placed, content=b"\x80\x04cno_such_module\nname\n.")
    assert ending is Ending.RAISED
    assert isinstance(error, WorkersFailedError)
    assert "ModuleNotFoundError: No module named 'no_such_module'; install there what it needs" in str(error)
    assert ask(placed) == (Ending.UNKNOWN, None)


def test_interrupt_is_no_error():
    def interrupted(spec):
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # libraries install handlers in the process of the tests
    try:
        assert ask(interrupted, content=pack(Place())) == (Ending.INTERRUPTED, None)
    finally:
        signal.signal(signal.SIGTERM, before)


def test_process_of_the_driver_and_two_trials_at_once_are_refused():
    ending, error = ask(placed, content=pack(Place()), driver=this_process())
    assert ending is Ending.RAISED
    assert "must run in other processes than the search" in str(error)

    def nested(spec):
        return ask(placed)

    _, (ending, error) = ask(nested, content=pack(Place()))
    assert ending is Ending.RAISED
    assert "one trial at a time" in str(error)
    assert ask(placed)[0] is Ending.RETURNED


def test_trial_that_takes_too_long_ends_its_process_with_the_stacks_of_its_threads(tmp_path):
    program = """
import time
from autodistill.search.worker import _ending_after
with _ending_after(60):
    pass
with _ending_after(0.2):
    def hook_that_hangs():
        time.sleep(60)
    hook_that_hangs()
"""
    began = time.monotonic()
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "hook_that_hangs" in result.stderr
    assert time.monotonic() - began < 50


def begun(tmp_path, number=0):
    folder = tmp_path / f"{number:06d}"
    folder.mkdir()
    trial = Trial(number, {"width": 8, "depth": 1}, directory=folder, started_at=now())
    write_record(folder / "trial.json", trial.to_json())
    return trial


def test_disk_is_shared_if_the_record_is_that_of_this_start(tmp_path):
    trial = begun(tmp_path)
    assert shares_disk(trial)
    assert shares_disk(replace(trial, directory=None))  # there is nothing to see
    assert not shares_disk(replace(trial, started_at=now()))
    assert not shares_disk(replace(trial, directory=tmp_path / "none"))
    (trial.directory / "trial.json").write_text("damaged")
    assert not shares_disk(trial)


def test_worker_without_the_disk_of_the_driver_returns_what_one_with_it_writes(tmp_path):
    spec = make_search(tmp_path / "search", make_config())._trial_spec()
    trial = begun(tmp_path)
    outcome = run_sent_trial(spec, trial)
    assert outcome.files == {}
    written = trial.directory / "checkpoint/1/student"
    (trial.directory / "trial.json").unlink()
    returned = run_sent_trial(spec, trial)
    assert returned.files.keys() == {"progress.jsonl"} | {
        f"checkpoint/1/student/{file.name}" for file in written.iterdir()
    }
    assert returned.files["progress.jsonl"] == (trial.directory / "progress.jsonl").read_bytes()
    tensors = decode(returned.files["checkpoint/1/student/model.safetensors"])
    expected = decode((written / "model.safetensors").read_bytes())
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        name: tensor.tolist() for name, tensor in expected.items()
    }
    assert returned.metrics == outcome.metrics == run_trial(spec, replace(trial, directory=None)).metrics
    assert folder_hashes(written) == outcome.student


def test_files_of_a_worker_without_the_disk_of_the_driver_are_in_a_folder_of_its_own(tmp_path):
    trial = replace(begun(tmp_path), directory=tmp_path / "not here" / "000000")
    folders = ask(lambda spec, trial: spec.placed, trial, content=pack(Place()))[1]
    assert len(folders) == 1
    assert isinstance(folders[0], Path)
    assert folders[0].is_dir()
    worker._known.folder.cleanup()
