"""What is sent to another process arrives there, and what cannot be sent is named."""

from __future__ import annotations

import functools
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autodistill.transport import pack, unpack, unsendable


def test_function_of_a_program_runs_in_another_process(tmp_path: Path) -> None:
    width = 3
    content = tmp_path / "content"
    content.write_bytes(pack(lambda value: value * width))
    program = "import sys; from autodistill.transport import unpack; print(unpack(open(sys.argv[1], 'rb').read())(5))"
    result = subprocess.run([sys.executable, "-c", program, content], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "15"


def test_local_function_with_a_cache_arrives_with_an_empty_one() -> None:
    calls = []

    @functools.lru_cache(maxsize=3)
    def squared(value: int) -> int:
        calls.append(value)
        return value * value

    squared(2)
    arrived = unpack(pack(squared))
    assert (arrived(4), arrived(4)) == (16, 16)
    assert (arrived.cache_info().hits, arrived.cache_info().maxsize, calls) == (1, 3, [2])


def shuffled(state: torch.Tensor | None = None) -> DataLoader[tuple[torch.Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    if state is not None:
        generator.set_state(state)
    data = TensorDataset(torch.arange(10.0))
    return DataLoader(data, batch_size=4, shuffle=True, num_workers=1, persistent_workers=True, generator=generator)


def test_data_loader_is_rebuilt_after_a_pass_with_persistent_workers() -> None:
    loader = shuffled()
    list(loader)
    assert loader.generator is not None
    arrived = unpack(pack(loader))
    batches, expected = (
        torch.cat([batch for (batch,) in one]) for one in (arrived, shuffled(loader.generator.get_state()))
    )
    assert torch.equal(batches, expected)
    assert sorted(batches.tolist()) == list(range(10))


def test_tied_parameters_stay_tied_and_modes_and_gradients_are_kept() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)).eval()
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    arrived = unpack(pack(model))
    assert arrived[1].weight is arrived[0].weight
    assert torch.equal(arrived[0].weight, model[0].weight)
    assert not arrived.training
    assert [parameter.requires_grad for parameter in arrived.parameters()] == [True, False, True]


def test_tensor_of_another_device_arrives_on_the_cpu() -> None:
    # Without a GPU, a subclass that claims to be on one stands in for such a tensor.
    class Elsewhere(torch.Tensor):
        @property
        def device(self) -> torch.device:  # type: ignore[override]
            return torch.device("cuda")

    parameter = torch.ones(2).as_subclass(Elsewhere)
    arrived = unpack(pack({"weight": parameter}))["weight"]
    assert torch.equal(arrived.as_subclass(torch.Tensor), torch.ones(2))


@pytest.mark.parametrize("name", ["eval_func", "train_dataloader"])
def test_what_cannot_be_sent_is_named(name: str) -> None:
    (problem,) = unsendable({"model_builder": nn.Linear, name: threading.Lock()})
    assert problem.startswith(f"{name} is sent to workers, but cannot be: TypeError")
