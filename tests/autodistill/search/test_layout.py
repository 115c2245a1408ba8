"""The location of everything in a search directory: paths that other versions read too."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from autodistill.errors import SearchDirectoryError
from autodistill.search import layout


def test_folder_of_a_trial_has_six_digits_and_holds_its_student() -> None:
    assert layout.trial_directory(Path("runs"), 12) == Path("runs/trials/000012")
    assert layout.student_directory(Path("runs"), 12) == Path("runs/trials/000012/student")
    assert layout.trial_name(1_234_567) == "1234567"


def test_names_of_files_are_those_that_earlier_versions_wrote() -> None:
    names = [layout.SEARCH_FILE, layout.LOCK_FILE, layout.OWNER_FILE, layout.TRIAL_FILE, layout.LOSSES_FILE]
    assert names == ["search.json", "search.lock", "owner.json", "trial.json", "progress.jsonl"]
    assert (layout.CHECKPOINT, layout.TEACHER_CACHE) == ("checkpoint", "teacher_cache")


def test_folders_of_trials_are_listed_by_number_and_nothing_else_is(tmp_path: Path) -> None:
    assert layout.trial_directories(tmp_path) == []
    numbers = [1_000_000, 999_999, 0]  # the first would come before the second as text
    for number in numbers:
        layout.trial_directory(tmp_path, number).mkdir(parents=True)
    (tmp_path / "trials" / "notes").mkdir()
    (tmp_path / "trials" / "000005").write_text("a file")
    assert [folder.name for folder in layout.trial_directories(tmp_path)] == ["000000", "999999", "1000000"]


def test_directory_with_a_link_is_refused_and_one_that_is_reached_by_a_link_is_not(tmp_path: Path) -> None:
    directory = tmp_path / "search"
    layout.student_directory(directory, 0).mkdir(parents=True)
    (tmp_path / "latest").symlink_to(directory)
    layout.ensure_no_links(tmp_path / "latest")
    (layout.student_directory(directory, 0) / "config.json").symlink_to(tmp_path)
    with pytest.raises(SearchDirectoryError, match=r"must consist of .*config\.json is a symbolic link; remove it"):
        layout.ensure_no_links(tmp_path / "latest")


@pytest.mark.skipif(os.name != "posix", reason="no pipes")
def test_directory_with_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / layout.SEARCH_FILE)
    with pytest.raises(SearchDirectoryError, match=r"search\.json is a pipe, a socket or a device"):
        layout.ensure_no_links(tmp_path)


def test_directory_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(SearchDirectoryError, match=r"must be readable, but .*denied; change its permissions"):
        layout.ensure_no_links(tmp_path)
