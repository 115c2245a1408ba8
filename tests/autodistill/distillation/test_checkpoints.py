"""Checkpoints: what is loaded is what was saved, a damaged one is ignored, and a loop continues as if uninterrupted."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from damage import each_with_one_bit_changed
from safetensors.torch import save_file
from small_models import Deep
from torch import nn

from autodistill.distillation.checkpoints import (
    Checkpoints,
    LoopCheckpoint,
    SharedCheckpoints,
    block_state,
    load_block_state,
    problem_in,
)
from autodistill.processes import Processes
from autodistill.tensor_files import write_hashed_tensors


def test_checkpoint_is_loaded_as_it_was_saved(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    weight = torch.arange(6.0).reshape(2, 3)
    checkpoints.save(
        "a", {"weight": weight.T, "same": weight.T, "count": torch.tensor(7)}, {"losses": [0.5], "n": None}
    )
    tensors, record = checkpoints.load("a")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {
        "weight": [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]],
        "same": [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]],
        "count": 7,
    }
    assert record == {"losses": [0.5], "n": None}
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["a.safetensors"]


def test_checkpoint_of_the_same_name_is_replaced_and_all_are_cleared(tmp_path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save("a", {}, 1)
    checkpoints.save("a", {}, 2)
    checkpoints.save("b", {}, 3)
    assert (checkpoints.load("a"), checkpoints.load("b"), checkpoints.load("c")) == (({}, 2), ({}, 3), None)
    checkpoints.clear()
    assert checkpoints.load("a") is None
    assert not (tmp_path / "checkpoints").exists()


def test_without_a_directory_nothing_is_kept() -> None:
    checkpoints = Checkpoints(None)
    checkpoints.save("a", {"weight": torch.ones(2)}, {})
    assert checkpoints.load("a") is None
    checkpoints.clear()


@pytest.mark.parametrize("kept", [0, 20, -1], ids=["empty", "header torn", "last byte missing"])
def test_damaged_checkpoint_is_ignored_with_a_warning(tmp_path, caplog, kept: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("a", {"weight": torch.ones(2)}, {})
    file = tmp_path / "a.safetensors"
    assert problem_in(file) is None
    file.write_bytes(file.read_bytes()[:kept])
    assert problem_in(file) is not None
    with caplog.at_level(logging.WARNING, logger="autodistill"):
        assert checkpoints.load("a") is None
    assert "a.safetensors is damaged" in caplog.text


def test_checkpoint_with_one_changed_bit_anywhere_is_ignored(tmp_path, caplog) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save("a", {"weight": torch.arange(3.0), "count": torch.tensor(7)}, {"losses": [0.5]})
    file = tmp_path / "a.safetensors"
    content = file.read_bytes()
    for changed in each_with_one_bit_changed(content, (0, 6)):
        file.write_bytes(changed)
        assert checkpoints.load("a") is None
    file.write_bytes(content)
    assert checkpoints.load("a") is not None


def test_checkpoint_without_a_hash_or_nested_without_end_is_ignored(tmp_path, caplog) -> None:
    for number, metadata in enumerate([{"record": "[" * 100_000, "hash": ""}, {"record": "{}"}, None]):
        save_file({"weight": torch.ones(2)}, tmp_path / f"{number}.safetensors", metadata)
        assert Checkpoints(tmp_path).load(str(number)) is None
    nested = "[" * 100_000 + "]" * 100_000
    write_hashed_tensors(tmp_path / "deep.safetensors", {"weight": torch.ones(2)}, {"record": nested})
    assert Checkpoints(tmp_path).load("deep") is None
    assert caplog.text.count("is damaged") == 4


def test_shared_checkpoint_of_one_process_is_its_own(tmp_path) -> None:
    checkpoints = SharedCheckpoints(tmp_path, Processes())
    checkpoints.save("a", {"weight": torch.ones(2)}, {"losses": [1.0]})
    tensors, record = checkpoints.load("a")
    assert (tensors["weight"].tolist(), record) == ([1.0, 1.0], {"losses": [1.0]})
    assert checkpoints.load("b") is None


def loop(model: nn.Module):
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, amsgrad=True)
    return optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)


def train(model: nn.Module, optimizer, schedule, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.ones(1, 4)).square().sum().backward()
        optimizer.step()
        schedule.step()


def test_loop_continues_from_its_checkpoint_to_the_bit(tmp_path) -> None:
    whole = Deep(2)
    first, second = copy.deepcopy(whole), copy.deepcopy(whole)
    train(whole, *loop(whole), steps=5)
    optimizer, schedule = loop(first)
    train(first, optimizer, schedule, steps=3)
    checkpoint = LoopCheckpoint(Checkpoints(tmp_path), "regular", {"student": first}, every=3)
    checkpoint.save([3.0, 2.0, 1.0], optimizer, {"schedule": schedule})

    optimizer, schedule = loop(second)
    resumed = LoopCheckpoint(Checkpoints(tmp_path), "regular", {"student": second}, every=3)
    assert resumed.restore(optimizer, {"schedule": schedule}) == [3.0, 2.0, 1.0]
    train(second, optimizer, schedule, steps=2)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in whole.state_dict().items())


def test_loop_without_a_checkpoint_begins_with_no_losses(tmp_path) -> None:
    model = Deep(1)
    optimizer, schedule = loop(model)
    checkpoint = LoopCheckpoint(Checkpoints(tmp_path), "regular", {"student": model}, every=3)
    assert checkpoint.restore(optimizer, {"schedule": schedule}) == []


def test_state_of_some_blocks_is_put_back_into_these_alone() -> None:
    trained, other = Deep(11), Deep(11)
    state = block_state(trained, ["layer.1", "layer.10"])
    assert set(state) == {f"layer.{number}/{name}" for number in (1, 10) for name in ("weight", "bias")}
    before = copy.deepcopy(other.state_dict())
    load_block_state(other, state)
    for name, tensor in other.state_dict().items():
        loaded = name.startswith(("layer.1.", "layer.10."))
        assert torch.equal(tensor, (trained.state_dict() if loaded else before)[name])


@pytest.mark.parametrize(("saved", "expected"), [(4, [1.0]), (5, []), (None, [1.0])])
def test_checkpoint_of_a_loop_of_other_length_is_left_out(tmp_path, saved, expected):
    model = nn.Linear(2, 1)
    optimizer = torch.optim.AdamW(model.parameters())
    loops = [
        LoopCheckpoint(Checkpoints(tmp_path), "regular", {"student": model}, 3, steps=steps) for steps in (saved, 4)
    ]
    loops[0].save([1.0], optimizer, {})
    assert loops[1].restore(optimizer, {}) == expected
    unlimited = LoopCheckpoint(Checkpoints(tmp_path), "regular", {"student": model}, 3)
    assert unlimited.restore(optimizer, {}) == [1.0]
