"""Padding: its share of batches, and groups of samples of similar length, which need little of it."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized

import torch
from torch.utils.data import Sampler

from autodistill.batch import Batch
from autodistill.data_stream import DataStream

logger = logging.getLogger(__name__)

_REPORTED_BATCHES = 16
_MUCH = 0.25


class ShuffledGroups(Sampler[int]):
    """The samples of another sampler, whose groups of consecutive samples are put in random order.

    Samplers that sort by length begin with the longest samples. The flash set is the beginning of the first epoch, so
    that it would hold only these; in random order, it is like the rest of the data.

    Args:
        sampler: orders the samples; it is finite.
        size: samples in a group: a batch, or a whole multiple of it, such as the batches of one update. The order is
            drawn from the global random state of torch. A last group that is smaller remains the last.

    Examples:
        >>> _ = torch.manual_seed(1)
        >>> list(ShuffledGroups(range(8), size=3))
        [3, 4, 5, 0, 1, 2, 6, 7]
    """

    def __init__(self, sampler: Iterable[int], size: int) -> None:
        self.sampler = sampler
        self.size = size

    def __len__(self) -> int:
        assert isinstance(self.sampler, Sized)
        return len(self.sampler)

    def __iter__(self) -> Iterator[int]:
        samples = list(self.sampler)
        groups = [samples[start : start + self.size] for start in range(0, len(samples), self.size)]
        full = len(samples) // self.size
        for number in [*torch.randperm(full).tolist(), *range(full, len(groups))]:
            yield from groups[number]


def padding_share(batches: Iterable[Batch]) -> float:
    """The share of positions that are padding, between 0 and 1, by the `attention_mask` (N, L) of the batches.

    Batches without one have no positions; the share is 0 if there are none.

    Examples:
        >>> padding_share([Batch({"attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]])})])
        0.3333333333333333
    """
    positions = padding = 0
    for batch in batches:
        mask = _mask(batch)
        if mask is not None:
            positions += mask.numel()
            padding += int((mask == 0).sum())
    return padding / max(positions, 1)


def recurrence_problem(batches: Sequence[Batch]) -> str | None:
    """Why samples have another key in batches of another width, as a sentence with the remedy; None if they do not.

    A key leaves out the padding at the end, if there is an `attention_mask`; see `samples.sample_keys`.

    Args:
        batches: a few of the training data.

    Examples:
        >>> batch = Batch({"input_ids": torch.tensor([[0, 5]]), "attention_mask": torch.tensor([[0, 1]])})
        >>> recurrence_problem([batch])
        "texts are padded at the start, so that a sample is found again only in batches of its width; pad at the end \
(padding_side='right')"
    """
    masks = [_mask(batch) for batch in batches]
    if any(mask is not None and not bool(mask[:, 0].all()) for mask in masks):
        return (
            "texts are padded at the start, so that a sample is found again only in batches of its width; pad at the "
            "end (padding_side='right')"
        )
    widths = {_width(batch) for batch, mask in zip(batches, masks, strict=True) if mask is None}
    if len(widths) > 1:
        return (
            "texts of several widths have no attention_mask, so that a sample is found again only in batches of its "
            "width; add it to the batches"
        )
    return None


def _width(batch: Batch) -> int | None:
    tokens = batch.content.get("input_ids") if isinstance(batch.content, Mapping) else None
    return tokens.shape[1] if isinstance(tokens, torch.Tensor) and tokens.dim() == 2 else None


def report_padding(stream: DataStream, remedy: str | None = None) -> float:
    """Log the share of padding in the first 16 batches of a stream, if there is padding, and return it.

    Args:
        stream: the training data.
        remedy: what reduces it, as an imperative; it is part of the line if more than a quarter is padding.
    """
    reader = stream.epoch(0)
    first = next(reader)
    if _mask(first) is None and _width(first) is None:  # such as images, which take long to read
        return 0.0
    batches = [first, *itertools.islice(reader, _REPORTED_BATCHES - 1)]
    share, problem = padding_share(batches), recurrence_problem(batches)
    if problem is not None:
        logger.info("the teacher runs again for many samples: %s", problem)
    if share:
        advice = f"; {remedy}" if remedy is not None and share > _MUCH else ""
        logger.info("%.0f %% of the positions in the first %d batches are padding%s", 100 * share, len(batches), advice)
    return share


def _mask(batch: Batch) -> torch.Tensor | None:
    mask = batch.content.get("attention_mask") if isinstance(batch.content, Mapping) else None
    return mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None
