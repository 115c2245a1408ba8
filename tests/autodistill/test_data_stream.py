"""The stream of batches: the same in every pass, whatever the program draws meanwhile."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset, WeightedRandomSampler

from autodistill.data_stream import DataStream
from autodistill.errors import ConfigurationError
from autodistill.tensors import identical


class Augmented(Dataset):
    """Samples that every source of global randomness changes."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int):
        noise = torch.rand(1) + np.random.rand() + random.random()
        return torch.cat([torch.tensor([float(index)]), noise.float()]), index


DATA = TensorDataset(torch.arange(10.0))


def loaders():
    own = torch.Generator().manual_seed(5)
    weights = torch.arange(1, 11).float()
    return {
        "list": [torch.arange(3.0), torch.arange(3.0) + 3],
        "in order": DataLoader(DATA, 3),
        "shuffled": DataLoader(DATA, 3, shuffle=True),
        "own generator": DataLoader(DATA, 3, shuffle=True, generator=own),
        "own sampler": DataLoader(
            DATA, 3, sampler=RandomSampler(DATA, replacement=True, num_samples=40, generator=own)
        ),
        "weighted": DataLoader(DATA, 3, sampler=WeightedRandomSampler(weights, 10, generator=own)),
        "batch sampler": DataLoader(DATA, batch_sampler=BatchSampler(RandomSampler(DATA, generator=own), 3, False)),
        "no batching": DataLoader(Augmented(), batch_size=None, sampler=RandomSampler(DATA, generator=own)),
        "augmented": DataLoader(Augmented(), 3, shuffle=True),
    }


def contents(stream: DataStream, epoch: int):
    return [batch.content for batch in stream.epoch(epoch)]


def global_state():
    return random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state()


def same_state(left, right) -> bool:
    numpy_same = all(np.array_equal(left[1]["state"][k], right[1]["state"][k]) for k in left[1]["state"])
    return left[0] == right[0] and numpy_same and torch.equal(left[2], right[2])


@pytest.mark.parametrize("name", loaders())
def test_every_pass_returns_the_same_batches_whatever_was_drawn_between(name: str) -> None:
    loader = loaders()[name]
    first = contents(DataStream(loader, seed=3), 0)
    torch.rand(7), np.random.rand(), random.random()
    list(loader)
    stream = DataStream(loader, seed=3)
    assert identical(contents(stream, 0), first)
    assert identical(contents(stream, 0), first)
    assert identical(contents(DataStream(loaders()[name], seed=3), 0), first)


@pytest.mark.parametrize("name", ["shuffled", "own generator", "own sampler", "weighted", "batch sampler", "augmented"])
def test_other_epochs_and_other_seeds_have_other_orders(name: str) -> None:
    loader = loaders()[name]
    stream = DataStream(loader, seed=3)
    assert not identical(contents(stream, 0), contents(stream, 1))
    assert not identical(contents(stream, 0), contents(DataStream(loader, seed=4), 0))


@pytest.mark.parametrize("name", loaders())
def test_random_states_of_the_program_and_of_the_loader_are_left_as_they_were(name: str) -> None:
    loader = loaders()[name]
    owners = [
        loader,
        getattr(loader, "sampler", None),
        getattr(getattr(loader, "batch_sampler", None), "sampler", None),
    ]
    generators = [owner.generator for owner in owners if getattr(owner, "generator", None) is not None]
    before, own = global_state(), [generator.get_state() for generator in generators]
    stream = DataStream(loader, seed=3)
    list(stream.epoch(0))
    next(iter(stream.epoch(1)))  # an abandoned pass
    assert same_state(global_state(), before)
    assert identical([generator.get_state() for generator in generators], own)


def test_random_states_are_restored_if_a_sample_raises() -> None:
    class Broken(Augmented):
        def __getitem__(self, index: int):
            super().__getitem__(index)
            raise OSError("no such image")

    generator = torch.Generator()
    before, own = global_state(), generator.get_state()
    with pytest.raises(OSError, match="no such image"):
        next(iter(DataStream(DataLoader(Broken(), 2, generator=generator), seed=0)))
    assert same_state(global_state(), before)
    assert torch.equal(generator.get_state(), own)


def test_worker_processes_return_the_same_batches_in_every_pass() -> None:
    loader = DataLoader(Augmented(), 5, shuffle=True, num_workers=1, multiprocessing_context="fork")
    before = global_state()
    stream = DataStream(loader, seed=3)
    first = contents(stream, 0)
    assert identical(contents(stream, 0), first)
    assert same_state(global_state(), before)


def test_stream_continues_epoch_after_epoch() -> None:
    loader = DataLoader(DATA, 4, shuffle=True)
    stream = DataStream(loader, seed=0)
    expected = contents(stream, 0) + contents(stream, 1) + contents(stream, 2)
    iterator = iter(stream)
    assert identical([next(iterator).content for _ in range(9)], expected)


def test_flash_set_is_the_beginning_of_the_first_epoch_and_no_longer_than_it() -> None:
    stream = DataStream(DataLoader(DATA, 4, shuffle=True), seed=0)
    epoch = contents(stream, 0)
    assert identical([batch.content for batch in stream.flash_set(2)], epoch[:2])
    assert identical([batch.content for batch in stream.flash_set(50)], epoch)


@pytest.mark.parametrize(
    "make", [lambda: iter([torch.ones(1)]), lambda: (torch.ones(1) for _ in range(3)), lambda: iter(DataLoader(DATA))]
)
def test_one_shot_iterator_is_refused_naming_its_type(make) -> None:
    iterator = make()
    with pytest.raises(ConfigurationError, match="repeatedly, but it is a one-shot iterator") as caught:
        DataStream(iterator, seed=0)
    assert f"({type(iterator).__name__})" in str(caught.value)


@pytest.mark.parametrize("loader", [[], DataLoader(TensorDataset(torch.zeros(0, 1)))], ids=["list", "loader"])
def test_empty_loader_is_refused(loader) -> None:
    with pytest.raises(ConfigurationError, match="train_dataloader must yield at least one batch, but is empty"):
        DataStream(loader, seed=0).flash_set(3)


def test_loader_of_other_objects_is_refused_when_read() -> None:
    with pytest.raises(ConfigurationError, match="the data loader yielded tuple of 3"):
        DataStream([(1, 2, 3)], seed=0).flash_set(1)
