"""Features of batches are kept to the bit, within limits, and what is damaged or in the way costs a warning at most."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from autodistill.distillation.batch_features import HEADER, BatchFeatures, FeatureKey
from autodistill.models.taps import Tap

SIZE = 1000 * 4


def key(number: int = 0, **others) -> FeatureKey:
    return FeatureKey(("teacher",), f"batch {number}", Tap("layer"))._replace(**others)


def feature(number: int = 0) -> torch.Tensor:
    return torch.randn(1000, generator=torch.Generator().manual_seed(number))


def kept(directory: Path | None, *, memory: float = 0, files: float = 10, **options) -> BatchFeatures:
    return BatchFeatures(directory, memory_bytes=memory, disk_bytes=files * (SIZE + HEADER), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64], ids=str)
def test_another_object_finds_what_was_put(tmp_path: Path, dtype: torch.dtype) -> None:
    value = feature().to(dtype)
    kept(tmp_path / "new").put(key(), value)
    found = kept(tmp_path / "new").get(key())
    assert found is not None
    assert found.dtype == dtype
    assert torch.equal(found, value)


@pytest.mark.parametrize(
    "other",
    [{"computed_by": ("another",)}, {"computed_by": ("teacher", "eager")}, {"batch": "b"}, {"tap": Tap("layer", "1")}],
)
def test_whatever_differs_in_the_key_misses(tmp_path: Path, other) -> None:
    features = kept(tmp_path, memory=1e6)
    features.put(key(), feature())
    assert features.holds(key())
    assert not features.holds(key(**other))
    assert features.get(key(**other)) is None


def test_features_of_a_function_have_no_file(tmp_path: Path) -> None:
    chosen = key(tap=Tap("layer", lambda output: output))
    features = kept(tmp_path, memory=1e6)
    features.put(chosen, feature())
    assert features.holds(chosen)
    assert not any(tmp_path.iterdir())


def test_memory_holds_what_fits_and_the_rest_is_read_from_files(tmp_path: Path) -> None:
    features = kept(tmp_path, memory=1.5 * SIZE)
    for number in range(3):
        features.put(key(number), feature(number))
    for path in tmp_path.iterdir():
        path.unlink()
    assert [features.holds(key(number)) for number in range(3)] == [True, False, False]


def test_files_used_longest_ago_make_room_and_those_in_use_do_not(tmp_path: Path) -> None:
    before = kept(tmp_path)
    for number in range(3):
        before.put(key(number), feature(number))
        os.utime(tmp_path / str(key(number).file), (number, number))
    after = kept(tmp_path, files=3)
    assert after.get(key(0)) is not None  # used now
    after.put(key(3), feature(3))
    assert [after.holds(key(number)) for number in range(4)] == [True, False, True, True]
    after.put(key(4), feature(4))
    after.put(key(5), feature(5))
    assert [after.holds(key(number)) for number in range(6)] == [True, False, False, True, True, False]


def test_what_is_more_valuable_displaces_features_in_use(tmp_path: Path) -> None:
    features = kept(tmp_path, files=2)
    for number in range(2):
        features.put(key(number), feature(number))
    features.displace(SIZE)
    assert sum(features.holds(key(number)) for number in range(2)) == 1


def cut(content: bytes) -> bytes:
    return content[:-1]


def with_another_bit(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


def without_its_hash(content: bytes) -> bytes:
    return save({"feature": feature()})


@pytest.mark.parametrize("damage", [cut, with_another_bit, without_its_hash])
def test_a_damaged_file_is_removed_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture, damage) -> None:
    features = kept(tmp_path)
    features.put(key(), feature())
    path = tmp_path / str(key().file)
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level(logging.WARNING):
        assert features.get(key()) is None
    assert "is damaged; it is recomputed" in caplog.text
    assert not path.exists()


def test_a_directory_that_is_only_read_stays_as_it_is(tmp_path: Path) -> None:
    kept(tmp_path).put(key(), feature())
    path = tmp_path / str(key().file)
    os.utime(path, (1, 1))
    reader = kept(tmp_path, files=1, read_only=True)
    assert reader.get(key()) is not None
    reader.put(key(1), feature(1))
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mtime == 1


@pytest.mark.parametrize("read_only", [False, True])
def test_what_killed_processes_left_is_removed_once_it_is_old_and_counts_until_then(tmp_path, read_only):
    old, young = tmp_path / "samples" / f"a.{'0f' * 16}.tmp", tmp_path / f"b.{'0f' * 16}.tmp"
    old.parent.mkdir()
    for file in (old, young):
        file.write_bytes(bytes(1000))
    os.utime(old, (0, time.time() - 4000))
    features = BatchFeatures(tmp_path, memory_bytes=0, disk_bytes=2500, read_only=read_only)
    assert (old.exists(), young.exists()) == (read_only, True)
    for batch in range(3):
        features.put(FeatureKey(("teacher",), str(batch), Tap("layer")), torch.zeros(100))
    # 1,000 bytes of 2,500 are left over: of three features of 400 bytes with headers, two fit.
    assert len(list(tmp_path.glob("*.safetensors"))) == (0 if read_only else 2)
