"""Files of tensors: complete, of the returned size, and without temporary files beside them."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
import torch
from damage import each_with_one_bit_changed
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from autodistill.tensor_files import problem_in, read_hashed_tensors, write_hashed_tensors, write_tensors


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

    def dies(staged: Path, content: bytes) -> None:
        staged.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_bytes", dies)
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
        with pytest.raises(OSError, match="File too large"):
            write_tensors(tmp_path / "some.safetensors", {"one": torch.ones(3)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def header(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (struct.pack("<Q", 2**63) + b"{}", "header too large"),
        (struct.pack("<Q", 200_000_000) + b"{}", "header too large"),
        (header('{"w":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}'), "not fully covered"),
        (header('{"w":{"dtype":"F32","shape":[4294967296,4294967296,4294967296],"data_offsets":[0,0]}}'), "overflow"),
        (header('{"w":' + "[" * 1_000_000), "invalid JSON"),
    ],
    ids=["beyond the file", "beyond the limit", "tensor beyond the file", "size beyond 64 bits", "nested"],
)
def test_a_header_that_claims_to_be_huge_is_refused_before_memory_is_taken(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes(content)
    os.truncate(path, max(len(content), 300_000_000 if message == "header too large" else 0))  # sparse
    for read in (load_file, lambda path: safe_open(path, "pt")):
        with pytest.raises(SafetensorError, match=message):
            read(path)


def test_hashed_tensors_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {"b": torch.randn(2, 3), "a": torch.tensor(7), "empty": torch.empty(0), "half": torch.ones(2).bfloat16()}
    size = write_hashed_tensors(tmp_path / "some", tensors, {"record": "é"})
    assert size == (tmp_path / "some").stat().st_size
    found, metadata = read_hashed_tensors(tmp_path / "some")
    assert {name: (tensor.dtype, tensor.tolist()) for name, tensor in found.items()} == {
        name: (tensor.dtype, tensor.tolist()) for name, tensor in tensors.items()
    }
    assert metadata == {"record": "é"}


def test_file_with_one_changed_bit_anywhere_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "some"
    write_hashed_tensors(path, {"b": torch.arange(3.0), "a": torch.tensor(7)}, {"record": "[0.5]"})
    assert problem_in(path) is None
    content = path.read_bytes()
    for changed in each_with_one_bit_changed(content, (0, 6)):
        path.write_bytes(changed)
        with pytest.raises(ValueError):  # noqa: PT011  in many words
            read_hashed_tensors(path)
        assert problem_in(path)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        (None, "an earlier version wrote it"),
        ({"hash": "0"}, "earlier"),
        ({"content_hash": "0"}, "not what was written"),
    ],
)
def test_file_without_its_hash_is_not_read(tmp_path: Path, metadata: dict[str, str] | None, reason: str) -> None:
    write_tensors(tmp_path / "some", {"a": torch.ones(2)}, metadata)
    with pytest.raises(ValueError, match=reason):
        read_hashed_tensors(tmp_path / "some")
