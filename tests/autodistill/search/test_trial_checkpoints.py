"""A start of a trial takes over the checkpoints of earlier ones, and what these still write changes nothing of it."""

from __future__ import annotations

from pathlib import Path

from autodistill.search.trial_checkpoints import take_over


def write(trial: Path, start: int, **contents: str) -> None:
    folder = trial / "checkpoint" / str(start)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}.safetensors").write_text(content)


def contents(folder: Path) -> dict[str, str]:
    return {file.stem: file.read_text() for file in folder.iterdir()}


def test_first_start_has_nothing_to_take_over_and_creates_no_folder(tmp_path: Path) -> None:
    assert take_over(tmp_path, 1) == tmp_path / "checkpoint/1"
    assert take_over(tmp_path, 4) == tmp_path / "checkpoint/4"
    assert not list(tmp_path.iterdir())


def test_of_two_files_with_one_name_that_of_the_later_start_counts(tmp_path: Path) -> None:
    write(tmp_path, 2, flash="second", regular="second")
    write(tmp_path, 10, regular="tenth")
    write(tmp_path, 9, regular="ninth")
    assert contents(take_over(tmp_path, 11)) == {"flash": "second", "regular": "tenth"}
    assert [folder.name for folder in (tmp_path / "checkpoint").iterdir()] == ["11"]


def test_unfinished_files_of_older_starts_are_left_behind(tmp_path: Path) -> None:
    write(tmp_path, 1, flash="whole")
    (tmp_path / "checkpoint/1/regular.safetensors.0123.tmp").write_text("half")
    (tmp_path / "checkpoint/1/student").mkdir()
    write(tmp_path, 2, regular="whole")
    assert contents(take_over(tmp_path, 3)) == {"flash": "whole", "regular": "whole"}
    assert [folder.name for folder in (tmp_path / "checkpoint").iterdir()] == ["3"]


def test_what_a_lost_worker_writes_later_does_not_reach_the_start_at_work(tmp_path: Path) -> None:
    write(tmp_path, 1, regular="step 200")
    at_work = take_over(tmp_path, 2)
    (at_work / "regular.safetensors").write_text("step 600")
    write(tmp_path, 1, regular="step 400")
    assert contents(at_work) == {"regular": "step 600"}
    assert contents(take_over(tmp_path, 3)) == {"regular": "step 600"}


def test_taking_over_that_was_interrupted_goes_on(tmp_path: Path) -> None:
    write(tmp_path, 1, flash="first", regular="first")
    write(tmp_path, 2, flash="first")  # moved before the kill
    (tmp_path / "checkpoint/1/flash.safetensors").unlink()
    assert contents(take_over(tmp_path, 3)) == {"flash": "first", "regular": "first"}
