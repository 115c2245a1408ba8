"""Who may write to a directory: what is refused, and one process at a time."""

import errno
import json
import os
import threading
from pathlib import Path
from typing import Any

import filelock
import pytest
from directory_cases import architecture, files, opened

from autodistill.errors import SearchDirectoryError
from autodistill.search.lock import is_held


def test_path_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("mine")
    with pytest.raises(SearchDirectoryError, match=r"search_dir must be a directory, but .*results is a file"):
        opened(tmp_path / "results")
    with pytest.raises(SearchDirectoryError, match=r"search_dir must be writable, but .*below is not"):
        opened(tmp_path / "results" / "below")
    assert (tmp_path / "results").read_text() == "mine"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="permissions do not bind this user")
def test_directory_without_write_permission_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(SearchDirectoryError, match="search_dir must be writable"):
            opened(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), OSError(30, "Read-only file system")])
def test_directory_whose_lock_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    def refuse(self: filelock.FileLock, *args: Any, **kwargs: Any) -> None:
        raise error

    monkeypatch.setattr(filelock.FileLock, "acquire", refuse)
    with pytest.raises(SearchDirectoryError, match=rf"must be writable, but {tmp_path} is not: .*{error.strerror}"):
        opened(tmp_path)


def test_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    for name in ("notes.txt", "a", "b", "c"):
        (tmp_path / name).write_text("mine")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SearchDirectoryError, match=r"holds a, b, c, … and no search\.json; name another path"):
        opened(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_trials_without_a_description_are_refused(tmp_path: Path) -> None:
    with opened(tmp_path) as directory:
        directory.begin(architecture(1))
    (tmp_path / "search.json").unlink()
    (tmp_path / "search.backup.json").unlink()
    with pytest.raises(SearchDirectoryError, match=r"holds trials and no search\.json"):
        opened(tmp_path)


def test_directory_in_use_is_refused_naming_the_process_and_is_free_after_close(tmp_path: Path) -> None:
    holder = opened(tmp_path)
    with pytest.raises(SearchDirectoryError, match=rf"but process {os.getpid()} on .* at work on {tmp_path}"):
        opened(tmp_path)
    holder.close()
    opened(tmp_path).close()


def test_owner_that_cannot_be_read_is_called_another_process(tmp_path: Path) -> None:
    with opened(tmp_path):
        (tmp_path / "owner.json").write_text("")
        with pytest.raises(SearchDirectoryError, match="but another process is at work on"):
            opened(tmp_path)


@pytest.mark.parametrize("replaced", [False, True])
def test_lock_that_was_removed_while_in_use_stops_the_first_process_before_it_writes(
    tmp_path: Path, replaced: bool
) -> None:
    first = opened(tmp_path)
    trial = first.begin(architecture(1))
    (tmp_path / "search.lock").unlink()
    second = opened(tmp_path) if replaced else None
    before = files(tmp_path)
    for write in (
        lambda: first.record(trial.complete({"accuracy": 0.5})),
        lambda: first.begin(architecture(2)),
        lambda: first.add(architecture(2), {"accuracy": 0.5}),
    ):
        with pytest.raises(SearchDirectoryError, match=r"search\.lock must stay in place while a search runs, but"):
            write()
    assert files(tmp_path) == before
    first.close()
    if second is not None:
        assert (tmp_path / "owner.json").exists()
        second.record(second.retry(second.interrupted[0]).complete({"accuracy": 0.5}))
        second.close()
    with opened(tmp_path) as directory:
        assert len(directory.result) == 1


def test_owner_is_named_only_while_the_directory_is_held(tmp_path: Path) -> None:
    with opened(tmp_path):
        assert json.loads((tmp_path / "owner.json").read_text())["process"] == os.getpid()
    assert not (tmp_path / "owner.json").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP])
def test_file_system_without_locks_is_named_as_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(SearchDirectoryError, match=rf"with locks, but .* \({os.strerror(number)}\); take a local"):
        opened(tmp_path)


def test_directory_is_held_while_it_is_locked_whatever_its_owner_file_says(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    (tmp_path / "owner.json").write_text(
        json.dumps({"process": os.getpid(), "host": "a", "since": "2026-01-01T00:00:00+00:00"})
    )
    assert not is_held(tmp_path)
    with opened(tmp_path):
        (tmp_path / "owner.json").unlink()
        assert is_held(tmp_path)
    assert not is_held(tmp_path)


def test_owner_decides_where_the_lock_cannot_be_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: filelock.FileLock, *args: Any, **kwargs: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with opened(tmp_path), monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "acquire", refuse)
        assert is_held(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(filelock.FileLock, "acquire", refuse)
        assert not is_held(tmp_path)


def test_a_look_at_the_lock_does_not_keep_a_search_from_starting(tmp_path: Path) -> None:
    look = filelock.FileLock(tmp_path / "search.lock", thread_local=False)
    look.acquire()
    timer = threading.Timer(0.1, look.release)
    timer.start()
    opened(tmp_path).close()
    timer.join()
