"""Captured inputs within a budget: what is read equals what was stored."""

from __future__ import annotations

import pytest
import torch

from autodistill.distillation.activation_store import GIB, ActivationStore, Budget
from autodistill.tensors import identical, map_tensors, nbytes

STRUCTURE = (
    (torch.randn(4, 6).T, torch.randn(2, 1, 1, 5).expand(2, 3, 4, 5), torch.tensor(7)),
    {"mask": torch.tensor([True, False]), "positions": (torch.arange(6).reshape(2, 3)[:, ::2], None), "causal": True},
)


def strides(structure):
    return map_tensors(torch.Tensor.stride, structure)


def bytes_as_gb(size):
    return size / GIB


@pytest.mark.parametrize("memory_gb", [1.0, 0.0], ids=["memory", "disk"])
def test_stored_tensors_are_read_back_equal_and_with_their_strides(tmp_path, memory_gb):
    store = ActivationStore(Budget(memory_gb=memory_gb, directory=tmp_path / "activations"))
    assert store.put(3, STRUCTURE)
    assert store.kept == ((1, 0) if memory_gb else (0, 1))
    assert identical(store.get(3), STRUCTURE)
    assert strides(store.get(3)) == strides(STRUCTURE)


def test_structures_fill_the_memory_then_the_disk_and_the_rest_is_not_kept(tmp_path):
    tensor = torch.zeros(100)
    room = bytes_as_gb(2 * nbytes(tensor))
    store = ActivationStore(Budget(room, room, tmp_path / "activations"))
    assert [store.put(number, tensor + number) for number in range(5)] == [True] * 4 + [False]
    assert store.kept == (2, 2)
    assert [store.get(number) is None for number in range(5)] == [False] * 4 + [True]
    assert all(torch.equal(store.get(number), tensor + number) for number in range(4))


def test_a_structure_that_replaces_another_uses_its_memory(tmp_path):
    tensor = torch.zeros(100)
    room = bytes_as_gb(nbytes(tensor))
    store = ActivationStore(Budget(room, room, tmp_path / "activations"))
    for value in range(5):
        assert store.put(0, tensor + value)
        assert store.put(1, tensor - value)
    assert torch.equal(store.get(0), tensor + 4)
    assert torch.equal(store.get(1), tensor - 4)


def test_clearing_removes_the_files(tmp_path):
    store = ActivationStore(Budget(0.0, 1.0, tmp_path / "activations"))
    store.put(0, torch.zeros(3))
    assert (tmp_path / "activations").exists()
    store.clear()
    assert not (tmp_path / "activations").exists()
    assert store.kept == (0, 0)
    assert store.get(0) is None


@pytest.mark.parametrize("memory_gb", [1.0, 0.0], ids=["memory", "disk"])
def test_inexact_storage_halves_the_memory_of_floats_within_the_error_of_bfloat16(tmp_path, memory_gb):
    exact = torch.randn(64, 64)
    store = ActivationStore(Budget(memory_gb, bytes_as_gb(nbytes(exact) / 2), tmp_path / "activations"), exact=False)
    assert store.put(0, (exact, torch.arange(0)))
    kept, integers = store.get(0)
    assert kept.dtype == torch.float32
    assert integers.dtype == torch.int64
    assert ((kept - exact).abs() <= exact.abs() * 2**-8).all()
    assert not torch.equal(kept, exact)


def test_file_that_cannot_be_read_counts_as_missing_with_one_warning(tmp_path, caplog):
    store = ActivationStore(Budget(0.0, 1.0, tmp_path))
    for number in range(3):
        store.put(number, torch.zeros(3))
    files = sorted(tmp_path.iterdir())
    files[0].write_bytes(files[0].read_bytes()[:-1])
    files[1].unlink()
    assert [store.get(number) is None for number in range(3)] == [True, True, False]
    assert caplog.text.count("computed when needed") == 1
    store.clear()


def test_disk_that_cannot_be_written_keeps_nothing_with_a_warning(tmp_path, caplog):
    (tmp_path / "file").touch()
    store = ActivationStore(Budget(0.0, 1.0, tmp_path / "file"))
    assert not store.put(0, torch.zeros(3))
    assert store.get(0) is None
    assert "cannot be written" in caplog.text
