"""The stream of batches that every trial of a search reads in the same order."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed


class DataStream:
    """The batches of a data loader in an order that depends on `seed` alone, epoch after epoch.

    Everything random in the loader (shuffling, augmentation) draws from states derived from `(seed, epoch, position)`;
    the global states and the loader's own generators are restored. Two passes yield the same batches, so that every
    trial of a search is trained on the same data, and features computed for one trial are reused by the next.

    Raises:
        ConfigurationError: the loader can be read only once, or is empty.
    """

    def __init__(self, loader: Iterable[Any], seed: int) -> None:
        if isinstance(loader, Iterator):
            raise ConfigurationError(
                "train_dataloader must be readable repeatedly, but it is a one-shot iterator "
                f"({type(loader).__name__}); pass a DataLoader or a list of batches."
            )
        self._loader = loader
        self._seed = seed

    def epoch(self, number: int) -> Iterator[Batch]:
        """The batches of one epoch."""
        iterator: Iterator[Any] | None = None
        for part in _parts(self._loader):  # a sampler that counts epochs itself would order each differently
            if hasattr(part, "set_epoch"):
                part.set_epoch(number)
        for position in itertools.count():
            with self._random_state(number, position):
                if iterator is None:
                    iterator = iter(self._loader)
                try:
                    content = next(iterator)
                except StopIteration:
                    if position == 0:
                        raise ConfigurationError(
                            "train_dataloader must yield at least one batch, but is empty."
                        ) from None
                    return
            yield Batch(content)

    def __iter__(self) -> Iterator[Batch]:
        for number in itertools.count():
            yield from self.epoch(number)

    def reader(self) -> Callable[[int], Batch]:
        """A function that returns batch number k of the endless stream, for increasing k; the first k is arbitrary."""
        position, batches = 0, iter(self)

        def read(number: int) -> Batch:
            nonlocal position
            skipped, position = number - position, number + 1
            return next(itertools.islice(batches, skipped, None))

        return read

    def flash_set(self, steps: int) -> list[Batch]:
        """The first `steps` batches of the first epoch; the whole epoch if it is shorter."""
        return list(itertools.islice(self.epoch(0), steps))

    @contextlib.contextmanager
    def _random_state(self, epoch: int, position: int) -> Iterator[None]:
        seed = derive_seed(self._seed, "data", epoch, position)
        generators = _generators(self._loader)
        states = [generator.get_state() for generator in generators]
        for generator in generators:
            generator.manual_seed(seed)
        try:
            with isolated_random_state(seed):
                yield
        finally:
            for generator, state in zip(generators, states, strict=True):
                generator.set_state(state)


def _parts(loader: Any) -> Iterator[Any]:
    """A data loader and what it draws from: its sampler, its batch sampler, and what these wrap."""
    yield loader
    for name in ("sampler", "batch_sampler"):
        inner = getattr(loader, name, None)
        if inner is not None:
            yield from _parts(inner)


def _generators(loader: Any) -> list[torch.Generator]:
    """The random generators that a data loader draws from, each once."""
    found = {id(g): g for part in _parts(loader) if isinstance(g := getattr(part, "generator", None), torch.Generator)}
    return list(found.values())
