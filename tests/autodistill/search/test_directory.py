"""The search on disk: what it records, what it refuses, and what remains of it after a kill at any instant."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from directory_cases import DESCRIPTION, SPACE, architecture, files, opened, with_a_finished_trial
from toy_search import make_search

from autodistill import json_files
from autodistill.errors import SearchDirectoryError
from autodistill.json_files import read_record, write_json, write_record
from autodistill.search.directory import SearchDirectory
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState
from search_spaces import IntRange, SearchSpace, SearchSpaceError


def numbers(directory: SearchDirectory) -> list[int]:
    return [trial.number for trial in directory.result]


def assert_consistent(directory: SearchDirectory, space: SearchSpace = SPACE) -> None:
    """Numbers are dense, and no two trials have one architecture."""
    trials = list(directory.result)
    assert [trial.number for trial in trials] == list(range(len(trials)))
    expected = {space.key(trial.architecture): trial.number for trial in trials}
    assert len(expected) == len(trials)
    assert not (directory.path / "architectures").exists()
    folders = sorted(folder.name for folder in (directory.path / "trials").iterdir())
    assert folders == [f"{trial.number:06d}" for trial in trials]
    assert not list(directory.path.rglob("*.tmp"))


# --- beginning and recording ------------------------------------------------------------------------------------------


def test_new_directory_is_made_with_its_parents_and_describes_the_search(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "digits"
    with opened(path) as directory:
        assert list(directory.result) == []
        assert directory.path == path
    assert read_record(path / "search.json") == {"schema_version": 1, **DESCRIPTION}
    assert (path / "search.backup.json").read_text() == (path / "search.json").read_text()


def test_relative_path_keeps_its_meaning_when_the_program_changes_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with SearchDirectory.open("search", DESCRIPTION, SPACE) as directory:
        monkeypatch.chdir("/")
        assert directory.begin(architecture(1)).directory == tmp_path / "search" / "trials" / "000000"


def test_begun_trial_runs_and_a_recorded_one_is_read_back_as_it_was(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        begun = directory.begin(architecture(3))
        assert (begun.number, begun.state, begun.attempts) == (0, TrialState.RUNNING, 1)
        assert begun.directory == directory.trial_directory(0) == tmp_path / "trials" / "000000"
        assert directory.student_directory(0) == tmp_path / "trials" / "000000" / "student"
        assert list(directory.result) == [begun]
        done = begun.complete({"accuracy": 0.5}, {"losses": [1.0, 0.5]})
        directory.record(done)
        failed = directory.begin(architecture(4)).fail("Traceback\nValueError: é")
        directory.record(failed)
        assert list(directory.result) == [done, failed]
        assert_consistent(directory)
    assert list(SearchResult.load(tmp_path)) == [done, failed]


def test_architecture_is_recorded_as_the_space_writes_it(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        trial = directory.begin({"width": 16.0, "layers": 2})
        assert list(trial.architecture.items()) == [("layers", 2), ("width", 16)]
        assert list(directory.result) == [trial]


def test_architecture_outside_the_space_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        with pytest.raises(SearchSpaceError):
            directory.begin(architecture(99))
        assert_consistent(directory)


def test_same_architecture_is_never_begun_twice(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
        directory.begin(architecture(2))
        with pytest.raises(SearchDirectoryError, match="no two trials share an architecture, but trial 1 has"):
            directory.begin({"width": 16, "layers": 2.0})
        assert_consistent(directory)
        assert directory.begin(architecture(3)).number == 2
    with opened(tmp_path) as directory, pytest.raises(SearchDirectoryError, match="but trial 0 has"):
        directory.begin(architecture(1))


def test_trial_that_was_never_begun_is_not_recorded(tmp_path: Path) -> None:
    with (
        opened(tmp_path) as directory,
        pytest.raises(SearchDirectoryError, match="a trial is begun before it is recorded"),
    ):
        directory.record(Trial(0, architecture(1)).complete({"accuracy": 1.0}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_number_that_is_not_json_is_refused_and_the_old_record_stays(tmp_path: Path, value: float) -> None:
    with opened(tmp_path) as directory:
        trial = directory.begin(architecture(1))
        before = files(tmp_path)
        with pytest.raises(ValueError, match=re.escape(f"finite numbers, but details.losses[1] is {value}.")):
            directory.record(trial.complete({"accuracy": 1.0}, {"losses": [0.5, value]}))
        with pytest.raises(ValueError, match=f"metrics.accuracy is {value}"):
            directory.record(trial.complete({"accuracy": value}))
        assert files(tmp_path) == before


@pytest.mark.parametrize(
    ("value", "position"),
    [({"a": {1: 2}}, "a has the key 1"), ({"a": [{"b": {3}}]}, r"a\[0\].b is a set"), (object(), "it is a object")],
)
def test_value_that_is_not_json_is_refused_with_its_position(tmp_path: Path, value: Any, position: str) -> None:
    with pytest.raises(ValueError, match=position):
        json_files.write_json(tmp_path / "x.json", value)
    assert files(tmp_path) == {}


def test_interrupted_trial_is_begun_again_with_one_attempt_more(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.record(directory.begin(architecture(1)).complete({"accuracy": 0.5}))
        begun = directory.begin(architecture(2))
    with opened(tmp_path) as directory:
        assert directory.interrupted == [begun]
        again = directory.retry(directory.interrupted[0])
        assert (again.number, again.architecture, again.attempts) == (1, begun.architecture, 2)
        assert again.started_at is not None
        assert begun.started_at is not None
        assert again.started_at > begun.started_at
        assert directory.result[1] == again
        directory.record(again.complete({"accuracy": 0.7}))
        assert directory.interrupted == []
        assert_consistent(directory)


def test_opening_again_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.record(directory.begin(architecture(1)).complete({"accuracy": 0.5}))
        directory.begin(architecture(2))
    before = files(tmp_path)
    opened(tmp_path).close()
    assert files(tmp_path) == before


# --- what is refused -------------------------------------------------------------------------------------------------


def test_full_disk_raises_an_error_and_the_old_record_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    with opened(tmp_path) as directory:
        trial = directory.begin(architecture(1))
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(SearchDirectoryError, match="No space left on device"):
            directory.record(trial.complete({"accuracy": 1.0}))
        with pytest.raises(SearchDirectoryError, match="No space left on device"):
            directory.begin(architecture(2))
        monkeypatch.undo()
        assert list(directory.result) == [trial]
    with opened(tmp_path) as directory:
        assert_consistent(directory)
        assert directory.begin(architecture(2)).number == 1


DAMAGED_DESCRIPTIONS = ["", '{"schema_version": 1', "[]", "{}", '{"schema_version": NaN}']


@pytest.mark.parametrize("content", DAMAGED_DESCRIPTIONS)
def test_damaged_description_without_an_undamaged_copy_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    opened(tmp_path).close()
    (tmp_path / "search.json").write_text(content)
    (tmp_path / "search.backup.json").write_text(content)
    with pytest.raises(SearchDirectoryError, match=r"search\.json must describe the search, but is damaged"):
        opened(tmp_path)
    assert (tmp_path / "search.json").read_text() == content


@pytest.mark.parametrize("content", [*DAMAGED_DESCRIPTIONS, None, "one bit"])
@pytest.mark.parametrize("name", ["search.json", "search.backup.json"])
def test_damaged_description_is_restored_from_the_other_copy(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, name: str, content: str | None
) -> None:
    with_a_finished_trial(tmp_path)
    before = files(tmp_path)
    file = tmp_path / name
    if content is None:
        file.unlink()
    else:
        file.write_text(before[name].replace('"accuracy"', '"accuracx"') if content == "one bit" else content)
    assert [trial.metrics for trial in SearchResult.load(tmp_path)] == [{"accuracy": 0.5}]
    opened(tmp_path).close()
    assert files(tmp_path) == before
    assert (f"{file} is damaged" in caplog.text) == (content is not None)


def test_directory_of_a_version_without_hashes_and_copy_is_resumed(tmp_path: Path) -> None:
    with_a_finished_trial(tmp_path)
    after = files(tmp_path)
    for name in ("search.json", "trials/000000/trial.json"):
        write_json(tmp_path / name, read_record(tmp_path / name))
    (tmp_path / "search.backup.json").unlink()
    with opened(tmp_path) as directory:
        assert [trial.metrics for trial in directory.result] == [{"accuracy": 0.5}]
    assert files(tmp_path)["search.backup.json"] == after["search.backup.json"]


def test_directory_of_a_later_schema_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "search.json").write_text('{"schema_version": 2}')
    with pytest.raises(SearchDirectoryError, match=r"reads search directories of schema 1, but .* has schema 2"):
        opened(tmp_path)


def test_one_complete_trial_is_enough_to_refuse_another_search(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
        directory.record(directory.begin(architecture(2)).complete({"accuracy": 0.5}))
    before = files(tmp_path)
    with pytest.raises(SearchDirectoryError, match="seed was 0, but is now 1"):
        opened(tmp_path, seed=1)
    assert files(tmp_path) == before


def test_another_description_is_accepted_while_no_trial_exists(tmp_path: Path) -> None:
    opened(tmp_path).close()
    opened(tmp_path, seed=1, teacher="beef").close()
    recorded = json.loads((tmp_path / "search.json").read_text())
    assert (recorded["seed"], recorded["teacher"]) == (1, "beef")


def test_another_description_discards_running_trials_if_none_is_finished(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
        directory.begin(architecture(2))
        directory.student_directory(1).mkdir()
    with opened(tmp_path, seed=1) as directory:
        assert list(directory.result) == []
        assert_consistent(directory)
        assert directory.begin(architecture(2)).number == 0  # its architecture is free again
        assert_consistent(directory)
    assert json.loads((tmp_path / "search.json").read_text())["seed"] == 1


def test_running_trials_of_the_same_search_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
    with opened(tmp_path, max_trials=100, advisor="TPE") as directory:
        assert [trial.architecture for trial in directory.interrupted] == [architecture(1)]


def test_kill_at_any_instant_of_taking_another_description_leaves_what_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_running(path: Path) -> None:
        with opened(path) as directory:
            directory.begin(architecture(1))
            directory.begin(architecture(2))

    for path in killed_anywhere(tmp_path, monkeypatch, two_running, lambda path: opened(path, seed=1).close()):
        with opened(path, seed=1) as directory:
            assert list(directory.result) == []
            assert_consistent(directory)


def test_wider_space_is_accepted_and_keeps_the_earlier_trials(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
    wider = SearchSpace({"width": [8, 16, 32, 64], "layers": IntRange(1, 80)})
    with opened(tmp_path, wider, space=wider.to_json()) as directory:
        assert directory.begin({"layers": 80, "width": 8}).number == 1
        with pytest.raises(SearchDirectoryError, match="but trial 0 has"):
            directory.begin(architecture(1))
    assert json.loads((tmp_path / "search.json").read_text())["space"] == wider.to_json()


@pytest.mark.parametrize(
    "space",
    [
        SearchSpace({"layers": IntRange(2, 50), "width": [16, 32]}),
        SearchSpace({"layers": IntRange(1, 50), "width": [16, 32], "heads": [1]}),
        SearchSpace({"layers": IntRange(1, 50)}),
        SearchSpace({"layers": IntRange(1, 50), "width": [16, 32]}, ["layers * width > 16"]),
    ],
)
def test_space_without_an_architecture_that_was_tried_is_refused(tmp_path: Path, space: SearchSpace) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
    before = files(tmp_path)
    with pytest.raises(SearchDirectoryError, match=r"must keep all that was tried.*: trial 0 in .* is outside of it"):
        opened(tmp_path, space)
    assert files(tmp_path) == before


# --- damage ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    ["", '{"number": 1', "null", '{"number": 1}', "\0" * 40, '{"metrics": NaN}', "[" * 10_000, f"[{'9' * 5000}]"],
    ids=["empty", "half", "null", "few fields", "zeros", "nan", "deep", "digits"],
)
def test_damaged_record_is_set_aside_and_costs_only_that_trial(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as directory:
        for layers in (1, 2, 3):
            directory.record(directory.begin(architecture(layers)).complete({"accuracy": layers / 10}))
        (directory.student_directory(1)).mkdir()
        (directory.student_directory(1) / "model.safetensors").write_text("weights")
        directory.trial_directory(1).joinpath("trial.json").write_text(content)
    with opened(tmp_path) as directory:
        assert numbers(directory) == [0, 2]
        assert caplog.text.count("is set aside as trial.json.damaged") == 1
        folder = directory.trial_directory(1)
        assert (folder / "trial.json.damaged").read_text() == content
        assert (folder / "student.damaged" / "model.safetensors").read_text() == "weights"
        again = directory.begin(architecture(2))  # its architecture is free, and so is its number
        assert again.number == 1
        assert not directory.student_directory(1).exists()
        assert_consistent(directory)


@pytest.mark.parametrize(
    "change",
    [
        {"metrics": {"accuracy": 10**400}},
        {"metrics": {}},
        {"metrics": {"other": 1.0}},
        {"started_at": "2026-01-01"},
        {"student": {"a/../../b": ""}},
        {"student": {"/dev/zero": ""}},
    ],
    ids=["huge", "no metrics", "other metrics", "no zone", "outside", "root"],
)
def test_odd_record_is_set_aside_and_costs_only_that_trial(tmp_path: Path, change: dict[str, Any]) -> None:
    with opened(tmp_path) as directory:
        for layers in (1, 2):
            directory.record(directory.begin(architecture(layers)).complete({"accuracy": layers / 10}))
        file = directory.trial_directory(0) / "trial.json"
    write_record(file, read_record(file) | change)
    with opened(tmp_path) as directory:
        assert numbers(directory) == [1]
        assert directory.result.unchanged_for == 0
        assert (directory.trial_directory(0) / "trial.json.damaged").exists()


def test_record_that_cannot_be_read_is_named_and_nothing_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path) as directory:
        done = directory.begin(architecture(1)).complete({"accuracy": 0.5})
        directory.record(done)
    before = files(tmp_path)
    with monkeypatch.context() as patch:
        refuse(patch, "trial.json")
        with pytest.raises(SearchDirectoryError, match=r"must be readable, but .*000000/trial.json is not: .*denied"):
            opened(tmp_path)
    assert files(tmp_path) == before
    with opened(tmp_path) as directory:
        assert list(directory.result) == [done]


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """No file of these names can be read."""
    original = Path.read_text

    def refusing(path: Path, *arguments: Any, **named: Any) -> str:
        if path.name in names:
            raise PermissionError(13, "Permission denied", str(path))
        return original(path, *arguments, **named)

    monkeypatch.setattr(Path, "read_text", refusing)


def test_description_that_cannot_be_read_or_has_no_metrics_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(tmp_path).close()
    with monkeypatch.context() as patch:
        refuse(patch, "search.json", "search.backup.json")
        with pytest.raises(SearchDirectoryError, match=r"must describe the search, but .*Permission denied"):
            opened(tmp_path)
    (tmp_path / "search.json").write_text('{"schema_version": 1, "metrics": 3}')
    with pytest.raises(SearchDirectoryError, match="must describe the search, but is damaged"):
        opened(tmp_path)


def test_another_search_is_refused_before_its_trials_are_called_damaged(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.record(directory.begin(architecture(1)).complete({"accuracy": 0.5}))
    before = files(tmp_path)
    with pytest.raises(SearchDirectoryError, match="holds another search"):
        SearchDirectory.open(tmp_path, DESCRIPTION | {"metrics": ["accuracy", "latency"]}, SPACE)
    assert files(tmp_path) == before


def test_file_in_the_place_of_the_trials_is_refused(tmp_path: Path) -> None:
    opened(tmp_path).close()
    (tmp_path / "trials").rmdir()
    (tmp_path / "trials").touch()
    with pytest.raises(SearchDirectoryError, match="search_dir must be writable"):
        opened(tmp_path)


def test_record_damaged_while_the_search_runs_is_written_again_with_the_next_change(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        trial = directory.begin(architecture(1))
        directory.trial_directory(0).joinpath("trial.json").write_text("{")
        assert list(directory.result) == [trial]  # the trials are in memory: nothing is lost
        done = trial.complete({"accuracy": 0.5})
        directory.record(done)
    with opened(tmp_path) as directory:
        assert list(directory.result) == [done]


def test_second_damage_of_one_number_keeps_the_first(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with opened(tmp_path) as directory:
            directory.begin(architecture(1))
            directory.trial_directory(0).joinpath("trial.json").write_text(content)
    with opened(tmp_path) as directory:
        assert list(directory.result) == []
        kept = {file.read_text() for file in directory.trial_directory(0).iterdir()}
    assert kept == {"first", "second"}


def test_record_in_another_trials_folder_is_damage(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
        directory.begin(architecture(2))
        record = directory.trial_directory(0).joinpath("trial.json").read_text()
        directory.trial_directory(1).joinpath("trial.json").write_text(record)
    with opened(tmp_path) as directory:
        assert numbers(directory) == [0]
        assert directory.begin(architecture(2)).number == 1


def test_claims_of_an_earlier_version_are_removed_and_its_trials_are_kept(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
    folder = tmp_path / "architectures"
    folder.mkdir()
    (folder / SPACE.key(architecture(1))).write_text('{"number": 0}')
    (folder / SPACE.key(architecture(3))).write_text('{"number": 7}')
    (folder / f"{SPACE.key(architecture(3))}.2.tmp").write_text("")
    with opened(tmp_path) as directory:
        assert_consistent(directory)
        with pytest.raises(SearchDirectoryError, match="no two trials share an architecture, but trial 0 has"):
            directory.begin(architecture(1))
        assert directory.begin(architecture(3)).number == 1


def test_added_trial_is_complete_in_one_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(path: Path) -> None:
        with opened(path) as directory:
            directory.add(architecture(3), {"accuracy": 0.99})

    states = set()
    for path in killed_anywhere(tmp_path, monkeypatch, two_trials, add):
        with opened(path) as directory:
            assert_consistent(directory)
            states |= {(trial.state, trial.added) for trial in directory.result if trial.number == 2}
    assert states == {(TrialState.COMPLETE, True)}


# --- kill -9, instant by instant -------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for the end of the process."""


def calls_of(action: Callable[[], Any], monkeypatch: pytest.MonkeyPatch, stop_before: int | None = None) -> list[str]:
    """Run an action, recording what it does to the disk; die just before the given operation."""
    log: list[str] = []

    def watched(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            if len(log) == stop_before:
                raise Killed
            log.append(name)
            return original(*args, **kwargs)

        return call

    with monkeypatch.context() as patch:
        for name in ("link", "replace", "fsync"):
            patch.setattr(os, name, watched(name, getattr(os, name)))
        for name in ("mkdir", "unlink", "rmdir", "rename"):
            patch.setattr(Path, name, watched(name, getattr(Path, name)))
        with contextlib.suppress(Killed):
            action()
    return log


def killed_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare: Callable[[Path], Any], act: Callable[[Path], Any]
) -> list[Path]:
    """The directory as a kill before each single operation of `act` leaves it."""
    complete = tmp_path / "complete"
    prepare(complete)
    operations = calls_of(lambda: act(complete), monkeypatch)
    directories = []
    for stop in range(len(operations)):
        path = tmp_path / f"killed_{stop:02d}"
        prepare(path)
        assert calls_of(lambda path=path: act(path), monkeypatch, stop) == operations[:stop]  # type: ignore[misc]
        directories.append(path)
    return directories


def two_trials(path: Path) -> None:
    with opened(path) as directory:
        directory.record(directory.begin(architecture(1)).complete({"accuracy": 0.1}))
        directory.begin(architecture(2))


def begin_third(path: Path) -> None:
    with opened(path) as directory:
        directory.begin(architecture(3))


def test_kill_at_any_instant_of_a_beginning_leaves_the_trial_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = []
    for path in killed_anywhere(tmp_path, monkeypatch, two_trials, begin_third):
        with opened(path) as directory:
            assert_consistent(directory)
            outcomes.append(len(directory.result))
            if outcomes[-1] == 2:
                assert directory.begin(architecture(3)).number == 2
            else:
                assert directory.interrupted[-1].architecture == architecture(3)
            assert_consistent(directory)
    assert outcomes == sorted(outcomes)
    assert set(outcomes) == {2, 3}


def test_kill_at_any_instant_of_a_record_leaves_the_old_one_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record_second(path: Path) -> None:
        with opened(path) as directory:
            directory.record(directory.result[1].complete({"accuracy": 0.2}))

    states = []
    for path in killed_anywhere(tmp_path, monkeypatch, two_trials, record_second):
        with opened(path) as directory:
            assert_consistent(directory)
            states.append(directory.result[1].state)
    assert states == sorted(states, key=[TrialState.RUNNING, TrialState.COMPLETE].index)
    assert set(states) == {TrialState.RUNNING, TrialState.COMPLETE}


def test_kill_at_any_instant_of_the_first_opening_leaves_a_directory_that_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = killed_anywhere(tmp_path, monkeypatch, lambda path: None, lambda path: opened(path).close())
    assert len(directories) > 5
    for path in directories:
        with opened(path) as directory:
            assert directory.begin(architecture(1)).number == 0
            assert_consistent(directory)


def test_kill_at_any_instant_of_healing_leaves_what_heals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wounded(path: Path) -> None:
        two_trials(path)
        orphan = path / "trials" / "000002"
        orphan.mkdir()
        (orphan / "trial.json.tmp").write_text(json.dumps(Trial(2, architecture(3)).to_json()))
        (path / "architectures").mkdir()
        (path / "architectures" / SPACE.key(architecture(3))).write_text('{"number": 2}')
        (path / "trials" / "000000" / "student").mkdir()
        (path / "trials" / "000000" / "trial.json").write_text("{")
        (path / "trials" / "000001" / "student.tmp").mkdir()
        (path / "trials" / "000001" / "student.tmp" / "weights").write_text("half")

    directories = killed_anywhere(tmp_path, monkeypatch, wounded, lambda path: opened(path).close())
    assert len(directories) > 8
    for path in directories:
        with opened(path) as directory:
            assert numbers(directory) == [1]
            assert sorted(entry.name for entry in directory.trial_directory(0).iterdir()) == [
                "student.damaged",
                "trial.json.damaged",
            ]
            assert [directory.begin(architecture(layers)).number for layers in (1, 3)] == [0, 2]
            assert_consistent(directory)


@pytest.mark.parametrize(
    "content", [None, "", '{"number": 2, "architec'], ids=["empty folder", "empty file", "half a file"]
)
def test_trial_folder_without_a_record_is_removed(tmp_path: Path, content: str | None) -> None:
    two_trials(tmp_path)
    folder = tmp_path / "trials" / "000002"
    folder.mkdir()
    if content is not None:
        (folder / "trial.json.tmp").write_text(content)
    with opened(tmp_path) as directory:
        assert not folder.exists()
        assert_consistent(directory)


def test_trial_folder_whose_record_was_deleted_is_set_aside_not_destroyed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two_trials(tmp_path)
    folder = tmp_path / "trials" / "000001"
    (folder / "student").mkdir()
    (folder / "student" / "weights").write_text("precious")
    (folder / "trial.json").unlink()
    with opened(tmp_path) as directory:
        assert numbers(directory) == [0]
        assert (folder / "student.damaged" / "weights").read_text() == "precious"
        assert f"{folder / 'trial.json'} is missing, and the trial is lost" in caplog.text
        caplog.clear()
    with opened(tmp_path) as directory:
        assert caplog.text == ""  # it was said once
        assert directory.begin(architecture(2)).number == 1


# Imports once, then forks a worker for every line it reads, and reports when the worker has died.
NURSERY = """
import os, sys
from autodistill.search.directory import SearchDirectory
from search_spaces import IntRange, SearchSpace

def work(path):
    space = SearchSpace({"layers": IntRange(1, 5000)})
    with SearchDirectory.open(path, {"metrics": ["accuracy"]}, space) as directory:
        for trial in directory.interrupted:
            directory.record(directory.retry(trial).complete({"accuracy": 0.5}))
        for layers in range(len(directory.result) + 1, 5001):
            trial = directory.begin({"layers": layers})
            directory.record(trial.complete({"accuracy": 0.5}, {"losses": [0.5] * 300}))

for line in sys.stdin:
    worker = os.fork()
    if worker == 0:
        try:
            work(line.strip())
        finally:
            os._exit(1)
    print(worker, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]), flush=True)
"""


@pytest.mark.skipif(os.name != "posix", reason="forks")
def test_process_killed_again_and_again_at_random_moments_loses_nothing(tmp_path: Path) -> None:
    path, space = tmp_path / "search", SearchSpace({"layers": IntRange(1, 5000)})
    complete: list[Trial] = []
    counts = []
    with subprocess.Popen([sys.executable, "-c", NURSERY], stdin=-1, stdout=-1, text=True) as nursery:
        assert nursery.stdin is not None
        assert nursery.stdout is not None
        for delay in np.random.default_rng().uniform(0, 0.1, size=30):
            print(path, file=nursery.stdin, flush=True)
            worker = int(nursery.stdout.readline())
            time.sleep(delay)
            os.kill(worker, signal.SIGKILL)
            assert int(nursery.stdout.readline()) == -signal.SIGKILL
            with SearchDirectory.open(path, {"metrics": ["accuracy"]}, space) as directory:
                trials = list(directory.result)
                assert_consistent(directory, space)
                assert [trial.architecture["layers"] for trial in trials] == list(range(1, len(trials) + 1))
                assert len(directory.interrupted) <= 1
            assert trials[: len(complete)] == complete
            complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
            counts.append(len(complete))
            assert not list(path.rglob("*.damaged*"))
    assert counts[-1] > counts[0]


def test_failed_trials_alone_do_not_hold_a_search_to_its_settings(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.record(directory.begin(architecture(1)).fail("the learning rate was too high"))
    with opened(tmp_path, seed=1) as directory:
        assert list(directory.result) == []
        directory.begin(architecture(1))


def test_a_trial_that_cannot_be_recorded_is_not_begun_in_memory(tmp_path, monkeypatch):
    search = make_search(tmp_path / "search")
    with SearchDirectory.open(tmp_path / "search", search.describe(), search.search_space) as directory:
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(28, "No space left")))
            with pytest.raises(SearchDirectoryError, match="No space left"):
                directory.begin({"width": 8, "depth": 1})
        assert list(directory.result) == []
        assert directory.begin({"width": 8, "depth": 1}).number == 0


# --- a directory from somebody else -----------------------------------------------------------------------------------


def content(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "link",
    [
        "trials/000008",
        "trials",
        "architectures",
        "teacher_cache",
        "preprocessor",
        "trials/000000/checkpoint",
        "trials/000000/student",
        "trials/000000/teacher_cache/below",
    ],
)
@pytest.mark.parametrize("read", [False, True])
def test_folder_that_is_a_link_is_refused_and_nothing_outside_changes(tmp_path: Path, link: str, read: bool) -> None:
    victim, path = tmp_path / "victim", tmp_path / "search"
    (victim / "below").mkdir(parents=True)
    for name in ("notes.tmp", "thesis.txt", "0a.safetensors", "below/notes.tmp"):
        (victim / name).write_text("mine")
    before = content(victim)
    two_trials(path)
    if link == "trials":
        (path / "trials").rename(path / "moved")
    (path / link).parent.mkdir(exist_ok=True)
    (path / link).symlink_to(victim)
    with pytest.raises(SearchDirectoryError, match=rf"{link} is a symbolic link; remove it"):
        SearchResult.load(path) if read else opened(path)
    assert content(victim) == before


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    "link",
    [
        "owner.json",
        "owner.json.tmp",
        "search.json.tmp",
        "search.lock",
        "trials/000000/trial.json.tmp",
        "trials/000000/progress.jsonl",
    ],
)
def test_file_that_is_a_link_is_refused_and_its_target_is_not_overwritten(tmp_path: Path, link: str, new: bool) -> None:
    victim, path = tmp_path / "thesis.txt", tmp_path / "search"
    victim.write_text("mine")
    if new:
        path.mkdir()
    else:
        two_trials(path)
    (path / link).parent.mkdir(parents=True, exist_ok=True)
    (path / link).unlink(missing_ok=True)
    (path / link).symlink_to(victim)
    with pytest.raises(SearchDirectoryError, match=r"is a symbolic link|new, empty or hold a search"):
        opened(path)
    assert victim.read_text() == "mine"


def test_leftovers_of_a_killed_process_in_the_directory_itself_are_removed(tmp_path: Path) -> None:
    two_trials(tmp_path)
    (tmp_path / f"search.json.{'0f' * 16}.tmp").write_text("half")
    (tmp_path / f"preprocessor.{'0f' * 16}.tmp").mkdir()
    with opened(tmp_path) as directory:
        assert_consistent(directory)


def test_attempts_count_from_the_last_checkpoint(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        trial = directory.begin(architecture(1))
        for attempts in (2, 3):
            assert not directory.has_progressed(trial)
            trial = directory.retry(trial)
            assert trial.attempts == attempts
        assert trial.started_at is not None
        for seconds, attempts in ((-1, 4), (1, 1), (-1, 2)):
            written = directory.trial_directory(0) / "checkpoint" / str(trial.starts) / "flash-000.safetensors"
            written.parent.mkdir(parents=True)
            written.touch()
            os.utime(written, (0, trial.started_at.timestamp() + seconds))
            trial = directory.retry(trial)
            assert trial.attempts == attempts


def test_what_a_killed_process_left_is_removed_at_any_depth_and_checkpoints_of_finished_trials_too(
    tmp_path: Path,
) -> None:
    with opened(tmp_path) as directory:
        for layers in (1, 2, 3, 4):
            directory.begin(architecture(layers))
        for trial in (directory.result[0].complete({"accuracy": 0.5}), directory.result[1].fail("error")):
            directory.record(trial)
        directory.record(directory.result[2].pause({"accuracy": 0.5}))
    before = files(tmp_path)
    left = ["teacher_cache/.tmpAb12_3", "teacher_cache/samples/ab/x.0f.tmp", "trials/000003/checkpoint/.tmpvNc26n"]
    left += ["trials/000000/checkpoint/a.safetensors", "trials/000001/checkpoint/a.safetensors", "x.tmp/y"]
    kept = ["trials/000002/checkpoint/a.safetensors", "trials/000003/checkpoint/a.safetensors", "teacher_cache/a.tmpl"]
    for name in [*left, *kept]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    opened(tmp_path).close()
    assert files(tmp_path) == before | dict.fromkeys(kept, "")


def test_file_where_the_folder_of_a_trial_belongs_is_set_aside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
        (tmp_path / "trials" / "000001").write_text("mine")
        with pytest.raises(SearchDirectoryError, match="File exists"):
            directory.begin(architecture(2))
    with opened(tmp_path) as directory:
        assert directory.begin(architecture(2)).number == 1
    assert (tmp_path / "trials" / "000001.damaged").read_text() == "mine"
    assert "000001 is where the folder of a trial belongs" in caplog.text


def test_description_that_is_removed_while_the_search_runs_is_written_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(tmp_path) as directory:
        before = files(tmp_path)
        (tmp_path / "search.json").unlink()
        (tmp_path / "search.backup.json").unlink()
        directory.begin(architecture(1))
        assert before.items() <= files(tmp_path).items()
    assert "search.json was removed while the search runs" in caplog.text


def test_directory_that_is_removed_while_the_search_runs_is_named(tmp_path: Path) -> None:
    with opened(tmp_path / "search") as directory:
        trial = directory.begin(architecture(1))
        shutil.rmtree(tmp_path / "search")
        with pytest.raises(
            SearchDirectoryError, match=r"must stay in place while a search runs, but .*search was removed"
        ):
            directory.record(trial.complete({"accuracy": 0.5}))
    assert not (tmp_path / "search").exists()
