"""Files and folders are complete or absent, whatever interrupts the writer, and durable where they must be."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest

from autodistill.files import (
    TEMPORARY_SUFFIX,
    changed_files,
    decode_json,
    delete_leftovers,
    directory_problem,
    folder_hashes,
    link_or_device,
    read_json,
    read_record,
    remove,
    replacing,
    write_json,
    write_record,
)


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


def test_json_that_cannot_be_written_leaves_the_old(path: Path) -> None:
    write_json(path, {"losses": [0.5]})
    with pytest.raises(ValueError, match=r"losses\[0\] is nan"):
        write_json(path, {"losses": [float("nan")]})
    assert read_json(path) == {"losses": [0.5]}
    assert list(path.parent.iterdir()) == [path]


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


@pytest.mark.parametrize(
    "text", ["[" * 101 + "]" * 101, '{"a":' * 101 + "1" + "}" * 101, "[" * 100_000 + "]" * 100_000]
)
def test_json_of_many_levels_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="nested more than 100 levels deep"):
        decode_json(text)


def test_json_of_a_hundred_levels_is_read() -> None:
    assert json.dumps(decode_json("[" * 100 + "]" * 100)) == "[" * 100 + "]" * 100


@pytest.mark.parametrize("text", ["1e999", "[-1e400]"])
def test_number_beyond_the_largest_float_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="beyond the largest float"):
        decode_json(text)


RECORD = {"accuracy": 0.1 + 0.2, "text": "é\n\ud800", "nested": [{"a": (1, None, True)}], "large": 10**300}


def test_record_is_read_as_json_returns_it_and_its_hash_is_that_of_its_text(path: Path) -> None:
    write_record(path, RECORD)
    assert read_record(path) == RECORD | {"nested": [{"a": [1, None, True]}]}
    written = json.loads(path.read_text())
    hashed = written.pop("hash")
    text = json.dumps(written, indent=2) + "\n"
    assert hashed == hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def test_record_with_one_changed_bit_is_refused_or_as_it_was(path: Path) -> None:
    write_record(path, RECORD)
    content, expected = path.read_bytes(), read_record(path)
    for position in range(len(content)):
        for bit in range(7):
            changed = bytearray(content)
            changed[position] ^= 1 << bit
            path.write_bytes(changed)
            try:
                found = read_record(path)
            except ValueError:
                continue
            # White space, or the name of the hash itself.
            assert {name: value for name, value in found.items() if name in expected} == expected


def test_record_without_a_hash_is_read_as_it_is(path: Path) -> None:
    for value in ({"accuracy": 0.5}, [1], 3):
        write_json(path, value)
        assert read_record(path) == value


def test_files_of_a_folder_are_hashed_as_the_library_hashes_them(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    contents = {"a": b"", "below/b": bytes(range(256)) * 10_000}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    hashes = folder_hashes(tmp_path)
    assert hashes == {n: hashlib.blake2b(content, digest_size=16).hexdigest() for n, content in contents.items()}
    assert changed_files(tmp_path, hashes) == []


def test_changed_missing_and_unreadable_files_are_named_and_other_files_are_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abcd":
        (tmp_path / name).write_text(name)
    hashes = folder_hashes(tmp_path)
    (tmp_path / "a").write_text("b")
    (tmp_path / "b").unlink()
    (tmp_path / "new").touch()
    opened = Path.open

    def refusing(path: Path, *arguments: Any) -> Any:
        if path.name == "c":
            raise PermissionError(13, "Permission denied")
        return opened(path, *arguments)

    monkeypatch.setattr(Path, "open", refusing)
    problems = ["a has another content", "b is missing", "c cannot be read (Permission denied)"]
    assert changed_files(tmp_path, hashes) == problems


@pytest.mark.parametrize("name", ["../other", "below/../../other", "/dev/zero", "..\\\\other"])
def test_file_that_leads_out_of_the_folder_is_not_read(tmp_path: Path, name: str) -> None:
    assert changed_files(tmp_path, {name: ""}) == [f"{name!r} is not in the folder"]


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "x" * 5000, "."])
def test_name_that_no_file_can_have_cannot_be_read(tmp_path: Path, name: str) -> None:
    (problem,) = changed_files(tmp_path, {name: ""})
    assert problem.startswith(f"{name} cannot be read (")


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


def test_file_that_is_no_record_by_its_size_is_refused_before_it_is_read(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**40)  # sparse
    with pytest.raises(ValueError, match="it has 1,099,511,627,776 bytes, and a record at most 268,435,456"):
        read_json(path)
