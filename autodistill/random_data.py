"""Whether a data loader augments its samples randomly, so that what is computed for one reading is of no use later."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset

from autodistill.randomness import isolated_random_state
from autodistill.tensors import identical

logger = logging.getLogger(__name__)

SAMPLES = 32  # a random transform of one sample in 20 is missed with a probability of 4 %


def is_randomly_augmented(loader: Iterable[Any]) -> bool | None:
    """Whether a loader's first samples, read and collated twice, differ.

    The batches that a `DataLoader` would read first (or their beginnings: 32 samples a batch, and no further batch
    after 32 samples) are read from its data set and collated twice, in two random states; by one worker process if the
    loader has workers, since its data set may open files there alone. A random transform is found, and a collator that
    masks tokens randomly. Changes that are the same in every reading, such as
    padding, are not random.

    Afterwards, the global random states are as before, and so are the generators of the loader, its sampler, data set
    and collator that are attributes named `generator`. A transform that keeps another generator of its own has
    advanced it: it is found, but its later draws differ from those without the check. In a worker process it begins
    again each time, and is not found: samples that differ later have other keys.

    Args:
        loader: the training data; `DataLoader`s that accelerate or a `Trainer` prepared are treated as those in them.

    Returns:
        False for lists and tuples of batches, which do not change. None if it cannot be known: for other iterables and
        for data sets without indices, which may come in another order each time; if the loader's class overrides
        `__iter__`; and if a sample cannot be read here, where the data set may depend on a worker process. Training
        raises the error if it occurs there too.

    Examples:
        >>> samples = torch.arange(4.0)
        >>> is_randomly_augmented(DataLoader(samples, batch_size=2, shuffle=True))
        False
        >>> add_noise = lambda rows: torch.stack(rows) + torch.rand(len(rows))
        >>> is_randomly_augmented(DataLoader(samples, batch_size=2, collate_fn=add_noise))
        True
        >>> print(is_randomly_augmented(range(4)))
        None
    """
    if isinstance(loader, list | tuple):
        return False
    inner: Any = getattr(loader, "base_dataloader", loader)  # accelerate's loaders only move the batches to a device
    if not _reads_by_index(inner):
        return None
    try:
        with loader_random_state(inner, 0):
            sample_loader = _sample_loader(inner)
        readings = []
        for seed in (1, 2):
            with loader_random_state(inner, seed):
                readings.append(list(sample_loader))
        return not identical(*readings)
    except Exception:  # whatever a data set or a collator raises
        logger.debug("the first samples cannot be read outside of the data loader", exc_info=True)
        return None


def _reads_by_index(loader: Any) -> bool:
    """Whether the batches are nothing but collated samples of a data set with indices."""
    if not isinstance(loader, DataLoader) or isinstance(loader.dataset, IterableDataset):
        return False
    return type(loader).__iter__ is DataLoader.__iter__


def _sample_loader(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader, with at most one worker process, of the samples that `loader` would read now, in its order."""
    read = partial(
        DataLoader,
        loader.dataset,
        collate_fn=loader.collate_fn,
        num_workers=min(1, loader.num_workers),
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
    )
    if loader.batch_sampler is None:
        keys = list(itertools.islice(loader.sampler, SAMPLES))
        return read(batch_size=None, sampler=keys)
    batches: list[list[Any]] = []
    for batch in loader.batch_sampler:
        batches.append(list(itertools.islice(batch, SAMPLES)))
        if sum(map(len, batches)) >= SAMPLES:
            break
    return read(batch_sampler=batches)


@contextlib.contextmanager
def loader_random_state(loader: Iterable[Any], seed: int) -> Iterator[None]:
    """Seeds the global random states, and the generators of a loader, within the context; restores them afterwards.

    Args:
        loader: its generators are the attributes `generator` of itself, its samplers, data sets and collator.
        seed: an integer in [0, 2**63).

    Examples:
        >>> loader = DataLoader(torch.arange(9), 9, shuffle=True, generator=torch.Generator())
        >>> def order():
        ...     with loader_random_state(loader, 1):
        ...         return next(iter(loader))
        >>> torch.equal(order(), order())
        True
    """
    generators = _generators(loader)
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        with isolated_random_state(seed):
            yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)


PARTS = ("base_dataloader", "sampler", "batch_sampler", "dataset", "collate_fn")


def loader_parts(loader: Any) -> list[Any]:
    """A data loader and what it reads from: its samplers, data sets and collator, and what these wrap, each once.

    Examples:
        >>> loader = DataLoader(torch.arange(9))
        >>> any(part is loader.batch_sampler for part in loader_parts(loader))
        True
    """
    found: dict[int, Any] = {}
    waiting = [loader]
    while waiting:
        whole = waiting.pop(0)
        if whole is None or id(whole) in found:
            continue
        found[id(whole)] = whole
        concatenated = getattr(whole, "datasets", None)
        waiting += [getattr(whole, name, None) for name in PARTS]
        waiting += concatenated if isinstance(concatenated, list | tuple) else ()
    return list(found.values())


def _generators(loader: Any) -> list[torch.Generator]:
    """The random generators that a data loader draws from, each once."""
    generators = (getattr(part, "generator", None) for part in loader_parts(loader))
    return list({id(found): found for found in generators if isinstance(found, torch.Generator)}.values())
