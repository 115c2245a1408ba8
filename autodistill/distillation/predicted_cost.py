"""Predicts the cost of a search before it starts, from one measured batch."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.data import IterableDataset

from autodistill.batch import Batch
from autodistill.data_stream import DataStream
from autodistill.distillation.batch_features import HEADER
from autodistill.distillation.flash_set import FlashSet, elements_of_inputs
from autodistill.distillation.plan import Stage
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.forecast import TeacherWork
from autodistill.models.taps import Tap
from autodistill.padding import padding_share, recurrence_problem
from autodistill.tensors import nbytes

_COMPARED = 16  # batches among which a typical one is chosen
_ROW_OVERHEAD = 32  # bytes: the key, the checksum and the shape


def mean(values: Iterable[float]) -> float:
    """The arithmetic mean; 0 of nothing."""
    found = list(values)
    return sum(found) / max(1, len(found))


# --- the data ---------------------------------------------------------------------------------------------------------


def count_samples(loader: Any) -> int | None:
    """The number of samples that a data loader reads in an epoch; None if it does not know.

    Examples:
        >>> count_samples([(torch.zeros(4, 2), None), (torch.zeros(3, 2), None)])
        7
        >>> count_samples(torch.utils.data.DataLoader(torch.arange(9), batch_size=2, shuffle=True))
        9
    """
    if isinstance(loader, list | tuple):
        return sum(Batch(content).size for content in loader)
    dataset = getattr(loader, "dataset", None)
    if isinstance(dataset, IterableDataset):
        return None
    for source in (getattr(loader, "sampler", None), dataset):
        if isinstance(source, Sized):
            return len(source)
    return None


@dataclass(frozen=True)
class DataView:
    """The training data as seen in some batches.

    Args:
        samples: in an epoch; None if not known.
        batches: at least one, on any device.
        recurs: the next epoch has the same batches.
    """

    samples: int | None
    batches: Sequence[Batch]
    recurs: bool

    @classmethod
    def of(cls, loader: Any, stream: DataStream, flash_set: FlashSet) -> DataView:
        """That of a data loader: the flash set, or if this is one batch of varying length, a few more batches."""
        batches = list(flash_set.batches)
        if len(batches) == 1 and isinstance(batches[0].content, dict) and "attention_mask" in batches[0].content:
            batches = [batch.to(flash_set.device) for batch in stream.flash_set(_COMPARED)]
        recurs = isinstance(loader, list | tuple) or next(stream.epoch(1)).hash == flash_set.batches[0].hash
        return cls(count_samples(loader), batches, recurs)

    @property
    def typical(self) -> Batch:
        """The one whose size is closest to the mean, among the batches with the most samples."""
        largest = max(batch.size for batch in self.batches)
        full = [batch for batch in self.batches if batch.size == largest]
        return min(full, key=lambda batch: abs(elements_of_inputs(batch) / batch.size - self.sample_elements))

    @property
    def sample_elements(self) -> float:
        """The mean number of elements (tokens, pixels) of a sample in its batch."""
        return sum(map(elements_of_inputs, self.batches)) / sum(batch.size for batch in self.batches)

    @property
    def padding(self) -> float:
        """The share of positions that are padding."""
        return padding_share(self.batches[:_COMPARED])

    def distinct(self, batches: int, *, by_sample: bool) -> int:
        """The number of samples in a number of batches of the stream, each counted once.

        Args:
            batches: from the first.
            by_sample: False counts samples in another batch as others.
        """
        size = max(batch.size for batch in self.batches)
        once = by_sample or self.recurs
        return min(batches * size, self.samples) if once and self.samples is not None else batches * size


# --- measuring --------------------------------------------------------------------------------------------------------


def timed(function: Callable[[], object], device: torch.device) -> float:
    """The seconds that a function takes, with what it starts on the device."""
    _wait(device)
    start = time.perf_counter()
    function()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def step_seconds(run: Callable[[int], object], device: torch.device) -> float:
    """The seconds of one optimizer step.

    Args:
        run: takes a number of steps.
        device: on which it takes them.
    """
    run(1)  # the first step allocates memory
    short, long = (timed(lambda steps=steps: run(steps), device) for steps in (1, 3))  # type: ignore[misc]
    return (long - short) / 2 if long > short else long / 3


@dataclass(frozen=True)
class FlashReads:
    """What is read of the teacher by batch.

    Args:
        batches: the flash set, or some of it; empty without flash distillation.
        taps: the layers that students may request.
    """

    batches: Sequence[Batch] = ()
    taps: Sequence[Tap] = ()

    @property
    def samples(self) -> int:
        """The number of samples in the flash set."""
        return sum(batch.size for batch in self.batches)

    @classmethod
    def first(cls, batches: Sequence[Batch], taps: Sequence[Tap], positions: int) -> FlashReads:
        """The reads of the first batches that together have this number of positions without padding, or of all."""
        read = 0.0
        for count, batch in enumerate(batches):
            if read >= positions:
                return cls(batches[:count], taps)
            read += elements_of_inputs(batch) * (1 - padding_share([batch]))
        return cls(batches, taps)


@dataclass(frozen=True)
class RegularReads:
    """What the regular distillation of one student reads of the teacher.

    Args:
        batches: their number, in all processes together.
        taps: the layers that are mapped.
    """

    batches: int = 0
    taps: Sequence[Tap] = ()


def predict_teacher_work(
    data: DataView,
    cache: TeacherCache,
    scratch: TeacherCache,
    flash: FlashReads,
    regular: RegularReads,
    start: FlashReads = FlashReads(),
) -> TeacherWork:
    """What the teacher has to compute; it runs twice on the typical batch.

    Args:
        data: the training data.
        cache: that of the search, to learn what is stored and how outputs are kept.
        scratch: another one with the same teacher, in which nothing is stored that the search will read.
        flash: what flash distillation requests.
        regular: what regular distillation requests.
        start: what a start inside the teacher requests besides, of a few batches.
    """
    typical, taps = data.typical, list(dict.fromkeys([*flash.taps, *regular.taps, *start.taps]))
    if not taps:
        return TeacherWork(flash.samples, 0, 0, 0.0, 0)
    features = scratch.features(typical, taps)  # the first forward pass runs to the end
    seconds = timed(lambda: scratch.compute(typical, taps), typical.device) / elements_of_inputs(typical)
    row_bytes = cache.row_bytes(typical, {tap: features[tap] for tap in regular.taps})
    recurs = row_bytes is not None and recurrence_problem(data.batches) is None
    read = data.distinct(regular.batches, by_sample=recurs) if regular.taps else 0
    total = max(flash.samples, read)
    held = sum(batch.size for batch in flash.batches if cache.holds(batch, flash.taps))
    rows = cache.rows_stored(typical, regular.taps)
    missing = max(flash.samples - held, read - rows)
    per_element = {tap: cache.nbytes({tap: feature}) / elements_of_inputs(typical) for tap, feature in features.items()}
    by_batch = {(batch.hash, tap): batch for reads in (flash, start) for batch in reads.batches for tap in reads.taps}
    size = sum(per_element[tap] * elements_of_inputs(batch) + HEADER for (_, tap), batch in by_batch.items())
    if row_bytes is not None:
        size += read * (row_bytes + _ROW_OVERHEAD)
    else:
        size += read * data.sample_elements * sum(per_element[tap] for tap in regular.taps)
    return TeacherWork(flash.samples, missing, total - missing, seconds * missing * data.sample_elements, int(size))


def memory_of(teacher: nn.Module, students: Sequence[nn.Module], features: float) -> int:
    """The memory for the models, the gradients and moments of the largest student, and features, in bytes."""
    weights = [nbytes([*model.parameters(), *model.buffers()]) for model in (teacher, *students)]
    return int(weights[0] + 4 * max(weights[1:], default=0) + features)


def shortened(stage: Stage, steps: int) -> Stage:
    """A stage of this number of steps of one batch, to be measured: not compiled, which takes long."""
    settings = stage.settings.with_changes(compile=False, gradient_accumulation_steps=1)
    return replace(stage, steps=steps, settings=settings)
