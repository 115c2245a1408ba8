"""The stream of batches that every trial of a search reads in the same order."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.random_data import loader_parts, loader_random_state
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
        for part in loader_parts(self._loader):  # a sampler that counts epochs itself would order each differently
            if hasattr(part, "set_epoch"):
                part.set_epoch(number)
        for position in itertools.count():
            with loader_random_state(self._loader, derive_seed(self._seed, "data", number, position)):
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

    def reader(self, skipped: Callable[[int, Batch], None] = lambda number, batch: None) -> Callable[[int], Batch]:
        """A function that returns batch number k of the endless stream, for increasing k; the first k is arbitrary.

        Args:
            skipped: called with the number and the content of each batch before it that was not requested.
        """
        batches = enumerate(self)

        def read(number: int) -> Batch:
            for position, batch in batches:
                if position == number:
                    return batch
                skipped(position, batch)
            raise AssertionError("the stream is endless")

        return read

    def flash_set(self, steps: int) -> list[Batch]:
        """The first `steps` batches of the first epoch; the whole epoch if it is shorter."""
        return list(itertools.islice(self.epoch(0), steps))
