"""Files and folders are complete or absent, whatever interrupts the writer, and durable where they must be."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from autodistill.files import (
    TEMPORARY_SUFFIX,
    delete_leftovers,
    directory_problem,
    link_or_device,
    problem_of,
    remove,
    replacing,
)
from autodistill.json_files import read_json, write_json


class Killed(BaseException):
    """The process ends here."""


def write(path: Path, content: str, *, folder: bool = False, cached: bool = False) -> None:
    with replacing(path, cached=cached) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(TEMPORARY_SUFFIX)
        if folder:
            (temporary / "below").mkdir(parents=True)
            (temporary / "below" / "file").write_text(content)
        else:
            temporary.write_text(content)


def content_of(path: Path) -> str:
    return (path / "below" / "file" if path.is_dir() else path).read_text()


def die(*args: Any, **options: Any) -> None:
    raise Killed


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture(params=[False, True], ids=["file", "folder"])
def folder(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def test_new_content_replaces_the_old_and_nothing_else_remains(path: Path, folder: bool) -> None:
    for content in ("first", "second"):
        write(path, content, folder=folder)
        assert content_of(path) == content
        assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("cached", [False, True])
def test_failure_keeps_the_old_content_and_removes_the_temporary(path: Path, folder: bool, cached: bool) -> None:
    write(path, "old", folder=folder)

    def fail() -> None:
        with replacing(path, cached=cached) as temporary:
            temporary.mkdir() if folder else temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert content_of(path) == "old"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("leftover_is_folder", [False, True])
def test_leftover_of_a_killed_writer_is_removed_by_the_next(path: Path, leftover_is_folder: bool, folder: bool) -> None:
    leftover = path.with_name(f"{path.name}.{'0f' * 16}{TEMPORARY_SUFFIX}")
    for content in ("old", "new"):
        if leftover_is_folder:
            leftover.mkdir()
            (leftover / "half").write_text("half")
        else:
            leftover.write_text("half")
        write(path, content, folder=folder)
        assert content_of(path) == content
        assert list(path.parent.iterdir()) == [path]


def test_files_of_the_user_with_similar_names_are_kept(path: Path, folder: bool) -> None:
    names = [f"{path.name}.tmp", f"{path.name}.old.tmp", f"{path.name}.old", f"other.{'0f' * 16}.tmp"]
    for name in names:
        path.with_name(name).write_text("mine")
    for content in ("old", "new"):
        write(path, content, folder=folder)
    remove(path)
    assert {entry.name: entry.read_text() for entry in path.parent.iterdir()} == dict.fromkeys(names, "mine")


def test_link_at_a_temporary_name_of_earlier_versions_overwrites_nothing(path: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("mine")
    path.with_name(path.name + TEMPORARY_SUFFIX).symlink_to(outside)
    write_json(path, {})
    assert outside.read_text() == "mine"
    assert read_json(path) == {}


def test_link_is_replaced_and_not_written_through(path: Path, tmp_path: Path, folder: bool) -> None:
    outside = tmp_path / "outside"
    write(outside, "mine", folder=folder)
    path.symlink_to(outside)
    write(path, "new", folder=folder)
    assert not path.is_symlink()
    assert (content_of(path), content_of(outside)) == ("new", "mine")


def test_kill_before_the_rename_keeps_the_old_file(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", die)
        with pytest.raises(Killed):
            write(path, "new")
    assert content_of(path) == "old"


def test_folder_is_complete_while_the_old_one_is_removed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "old", folder=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            write(path, "new", folder=True)
    assert content_of(path) == "new"
    assert all(entry == path or entry.name.endswith(TEMPORARY_SUFFIX) for entry in path.parent.iterdir())


def test_everything_is_on_the_disk_before_the_rename(path: Path, folder: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    def log(function: Any, event: str) -> Any:
        def logged(*args: Any) -> Any:
            events.append(event)
            return function(*args)

        return logged

    monkeypatch.setattr(os, "fsync", log(os.fsync, "sync"))
    monkeypatch.setattr(os, "replace", log(os.replace, "rename"))
    write(path, "new", folder=folder)
    renames = ["rename", "rename"] if folder else ["rename"]  # the first looks for an old folder
    assert events == ["sync"] * (3 if folder else 1) + renames + ["sync"]


def test_file_of_a_cache_is_written_by_several_at_the_same_time_and_not_synced(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", die)
    with replacing(path, cached=True) as one, replacing(path, cached=True) as other:
        one.write_text("one")
        other.write_text("other")
    assert content_of(path) == "one"
    assert list(path.parent.iterdir()) == [path]


def test_removed_path_is_missing_and_removing_a_missing_one_is_no_error(path: Path, folder: bool) -> None:
    write(path, "old", folder=folder)
    remove(path)
    remove(path)
    assert list(path.parent.iterdir()) == []


def test_interrupted_removal_leaves_no_half_folder(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(path, "old", folder=True)
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "rmtree", die)
        with pytest.raises(Killed):
            remove(path)
    assert not path.exists()
    assert all(entry.name.endswith(TEMPORARY_SUFFIX) for entry in path.parent.iterdir())


@pytest.mark.skipif(os.name != "posix", reason="no pipes")
def test_links_and_pipes_are_found_at_any_depth_and_files_and_folders_are_none(tmp_path: Path) -> None:
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    (below / "file").write_text("")
    assert link_or_device(tmp_path) is None
    for target in (tmp_path, below / "file", tmp_path / "missing"):
        (below / "link").symlink_to(target)
        assert link_or_device(tmp_path) == below / "link"
        (below / "link").unlink()
    os.mkfifo(below / "pipe")
    assert link_or_device(tmp_path) == below / "pipe"


def test_path_of_a_directory_may_not_exist_but_must_not_lie_in_a_file(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    assert directory_problem(tmp_path) is None
    assert directory_problem(str(tmp_path / "new" / "folder")) is None
    for wrong in (file, file / "below" / "it"):
        assert directory_problem(wrong) == f"must be a directory, but {file} is a file"
    for nothing in ("", " ", None, 3):
        assert directory_problem(nothing) == f"must be the path of a directory, but got {nothing!r}"


def test_leftovers_are_deleted_at_any_depth_from_a_given_age_and_nothing_else_is(tmp_path: Path) -> None:
    old, young, others = ["a.tmp", "below/.tmpvNc26n", "b.0f.tmp/file"], ["c.tmp", "below/d.tmp"], ["tmp", "a.tmpl"]
    for name in [*old, *young, *others]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    for name in ("a.tmp", "below/.tmpvNc26n", "b.0f.tmp"):
        os.utime(tmp_path / name, (0, time.time() - 120))
    left = {tmp_path / name for name in [*young, *others]}
    delete_leftovers(tmp_path, older_than=60)
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == left
    delete_leftovers(tmp_path)
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"tmp", "a.tmpl"}


def test_problem_is_what_reading_reports_and_other_errors_pass(tmp_path: Path) -> None:
    def read(path: Path) -> int:
        return int(path.read_text())

    for content, problem in (("12", None), ("x", "invalid literal for int() with base 10: 'x'")):
        (tmp_path / "number").write_text(content)
        assert problem_of(read, tmp_path / "number") == problem
    with pytest.raises(FileNotFoundError):
        problem_of(read, tmp_path / "missing")
