"""The files of a folder are named that are not those that were hashed; nothing outside of it is read."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

from autodistill.file_hashes import changed_files, folder_hashes


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
