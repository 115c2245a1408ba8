"""Files of tensors: complete, of the returned size, and without temporary files beside them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from autodistill import tensor_files
from autodistill.tensor_files import write_tensors


def test_a_file_replaces_the_one_before_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    for value in (1.0, 2.0):
        size = write_tensors(path, {"one": torch.full((3,), value)})
        assert load_file(path)["one"].tolist() == [value] * 3
        assert size == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


def test_a_writer_that_dies_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.safetensors"
    write_tensors(path, {"one": torch.ones(3)})

    def dies(tensors: object, staged: Path, metadata: object) -> None:
        staged.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tensor_files, "save_file", dies)
    with pytest.raises(KeyboardInterrupt):
        write_tensors(path, {"one": torch.zeros(3)})
    assert load_file(path)["one"].tolist() == [1.0] * 3
    assert list(tmp_path.iterdir()) == [path]


def test_metadata_is_written_into_the_header(tmp_path: Path) -> None:
    write_tensors(tmp_path / "some.safetensors", {"one": torch.ones(3)}, {"record": "[0.5]"})
    with safe_open(tmp_path / "some.safetensors", "pt") as file:
        assert file.metadata() == {"record": "[0.5]"}


def test_a_full_disk_is_an_error_of_the_operating_system(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))  # no file may grow
    try:
        with pytest.raises(OSError, match="cannot be written"):
            write_tensors(tmp_path / "some.safetensors", {"one": torch.ones(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())
