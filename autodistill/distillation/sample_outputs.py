"""The teacher's outputs by sample: cut into rows without padding, and joined again for batches of other samples."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from autodistill.batch import Batch
from autodistill.distillation.sample_store import Row, SampleStore
from autodistill.losses.top_k import TopK, TopKLogits, top_k_logits
from autodistill.models.taps import Tap
from autodistill.samples import Padded, Padding, cut_padding
from autodistill.tensors import content_hash, nbytes

logger = logging.getLogger(__name__)

LARGEST_ROW = 2**20
"""In bytes: larger outputs of a sample are not kept, since reading them costs about as much as computing them."""

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""How much a sample's output may differ in another batch, relative to its size: rounding, and nothing more."""

FEATURE = "feature"


@dataclass(frozen=True)
class OutputKind:
    """One of the teacher's outputs, and the form of its rows.

    Attributes:
        tap: of the teacher.
        computed_by: a hash of the teacher and how it runs.
        padded: the padding of the second axis, which rows leave out; None if they leave out nothing.
        k: how many of the largest logits are kept; None for the whole output.
        temperature: at which these logits are compared.
    """

    tap: Tap
    computed_by: str
    padded: Padded | None = None
    k: int | None = None
    temperature: float = 1.0

    @classmethod
    def of(cls, tap: Tap, computed_by: str, padded: Padded | None, top_k: TopK | None) -> OutputKind:
        """The kind in which a tap's output is kept, reduced to its largest logits if it is among those of `top_k`."""
        if top_k is None or tap not in top_k.taps:
            return cls(tap, computed_by, padded)
        return cls(tap, computed_by, padded, top_k.k, top_k.temperature)

    @property
    def name(self) -> str | None:
        """The name of its folder; None if its tap has a function, which has no reliable hash."""
        if callable(self.tap.process):
            return None
        parts = (self.computed_by, self.tap.path, self.tap.process, self.padded, self.k, self.temperature)
        return content_hash(parts)

    def split(self, feature: torch.Tensor, batch: Batch) -> list[Row]:
        """The rows of a batch's feature, on the CPU.

        Args:
            feature: (N, ...), whole.
            batch: with which the teacher was called.

        Examples:
            >>> batch = Batch({"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])})
            >>> rows = OutputKind(Tap(""), "teacher", padded="inputs").split(torch.zeros(2, 3, 5), batch)
            >>> [tuple(row["feature"].shape) for row in rows]
            [(2, 5), (3, 5)]
        """
        fields = {FEATURE: feature}
        if self.k is not None:
            top = top_k_logits(feature, self.k, self.temperature)
            fields = {"values": top.values, "indices": top.indices, "rest": top.rest}
        fields = {name: field.detach().cpu() for name, field in fields.items()}
        padding = self._padding(batch)
        ends = padding.lengths if padding is not None else (None,) * len(feature)
        return [
            {name: (field[index] if end is None else field[index, :end]) for name, field in fields.items()}
            for index, end in enumerate(ends)
        ]

    def join(self, rows: Sequence[Row], batch: Batch) -> torch.Tensor | TopKLogits:
        """The feature of a batch from the rows of its samples, on the CPU; zero at padding.

        Args:
            rows: one for each sample.
            batch: whose padding the feature has.

        Examples:
            >>> batch = Batch({"attention_mask": torch.tensor([[1, 0], [1, 1]])})
            >>> rows = [{"feature": torch.tensor([1.0])}, {"feature": torch.tensor([2.0, 3.0])}]
            >>> OutputKind(Tap(""), "teacher", padded="inputs").join(rows, batch)
            tensor([[1., 0.],
                    [2., 3.]])
        """
        padding = self._padding(batch)
        width = None if padding is None else padding.width
        fields = {name: _stacked([row[name] for row in rows], width) for name in rows[0]}
        if self.k is None:
            return fields[FEATURE]
        return TopKLogits(**fields, temperature=torch.full((len(rows),), self.temperature))

    def _padding(self, batch: Batch) -> Padding | None:
        return None if self.padded is None else Padding.of(batch.model_inputs, self.padded)


def _stacked(rows: Sequence[torch.Tensor], width: int | None) -> torch.Tensor:
    if width is None:
        return torch.stack(list(rows))
    padded = rows[0].new_zeros((len(rows), width, *rows[0].shape[1:]))
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row
    return padded


class SampleOutputs:
    """Keeps the teacher's outputs by sample, of the kinds that were announced.

    Args:
        directory: of the files, with a folder for each kind; None keeps rows in memory.
        memory_bytes: the maximum size of the rows of one kind in memory.
        disk_bytes: no row is added when those of all kinds would exceed it; without a directory it is the memory.
        write_through: each batch's rows are written at once, for other processes that train the same student.

    Examples:
        >>> outputs, batch = SampleOutputs(None, memory_bytes=2**20), Batch((torch.ones(2, 3), None))
        >>> kind = OutputKind(Tap(""), "teacher")
        >>> _ = outputs.add(batch, {kind: torch.tensor([[1.0], [2.0]])})
        >>> outputs.rows(batch.take([1]), [kind])[kind]
        [{'feature': tensor([1.])}]
    """

    def __init__(
        self,
        directory: Path | None,
        *,
        memory_bytes: int,
        disk_bytes: int = 2**63,
        write_through: bool = False,
    ) -> None:
        self.nbytes = 0
        self._directory = directory
        self._memory_bytes = memory_bytes
        self._limit = memory_bytes if directory is None else disk_bytes
        self._write_through = write_through
        self._announced: dict[Tap, OutputKind] = {}
        self._stores: dict[OutputKind, SampleStore] = {}

    def announce(self, kind: OutputKind) -> None:
        """Keep this kind of what is recorded at its tap from now on."""
        self._announced[kind.tap] = kind

    def withdraw(self, tap: Tap) -> None:
        """Keep nothing of what is recorded at a tap from now on."""
        self._announced.pop(tap, None)

    def announced(self, computed_by: str) -> list[OutputKind]:
        """The kinds that are kept, as a teacher computes them that runs in this way."""
        return [replace(kind, computed_by=computed_by) for kind in self._announced.values()]

    def rows(self, batch: Batch, kinds: Iterable[OutputKind]) -> dict[OutputKind, list[Row | None]]:
        """The rows of a batch's samples; None for those that are not kept."""
        assert batch.sample_keys is not None
        return {kind: self._store(kind).get(batch.sample_keys) for kind in kinds}

    def add(self, batch: Batch, features: Mapping[OutputKind, torch.Tensor]) -> dict[OutputKind, list[Row]]:
        """Keep the rows of a batch unless they exceed the limit, and return them; a sample that has a row keeps it."""
        assert batch.sample_keys is not None
        added: dict[OutputKind, list[Row]] = {}
        for kind, feature in features.items():
            rows = added[kind] = kind.split(feature, batch)
            store, size = self._store(kind), sum(map(nbytes, rows))
            if self.nbytes + size <= self._limit:
                store.put(batch.sample_keys, rows)
                self.nbytes += size
        return added

    def flush(self) -> None:
        """Wait until all rows that were added are on disk."""
        for store in self._stores.values():
            store.flush()

    def _store(self, kind: OutputKind) -> SampleStore:
        if kind not in self._stores:
            name = kind.name
            folder = None if self._directory is None or name is None else self._directory / name
            store = SampleStore(folder, memory_bytes=self._memory_bytes, write_through=self._write_through)
            self._stores[kind] = store
            self.nbytes += store.nbytes_on_disk
        return self._stores[kind]


# --- what can be kept by sample -----------------------------------------------------------------------------------


def shorter_samples(batch: Batch) -> tuple[list[int], Batch]:
    """The shorter half of a batch's samples, in another order and without common padding; with their indices.

    Examples:
        >>> batch = Batch({"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])})
        >>> indices, part = shorter_samples(batch)
        >>> indices, part.content["attention_mask"].tolist()
        ([1, 2], [[1, 1], [1, 0]])
    """
    padding = Padding.of(batch.model_inputs, "inputs") or Padding.of(batch.model_inputs, "targets")
    lengths = padding.lengths if padding is not None else (0,) * batch.size
    shorter = sorted(range(batch.size), key=lambda index: lengths[index])[: max(1, batch.size // 2)]
    indices = shorter[::-1]
    return indices, Batch(cut_padding(batch.take(indices).content))


def sample_problem(
    kind: OutputKind, whole: tuple[Batch, torch.Tensor], part: tuple[Batch, torch.Tensor], indices: Sequence[int]
) -> str | None:
    """Why an output cannot be kept by sample, as the end of a sentence; None if it can.

    Args:
        kind: the form of its rows.
        whole: a batch, and the output.
        part: a batch of some of its samples, with less padding, and the output.
        indices: of these samples in the whole batch.

    Examples:
        >>> kind, batch = OutputKind(Tap(""), "teacher"), Batch((torch.tensor([[1.0], [2.0]]), None))
        >>> similarities = batch.inputs @ batch.inputs.T
        >>> sample_problem(kind, (batch, similarities), (batch.take([1]), similarities[1:, 1:]), [1])
        'has rows whose shape depends on the other samples or on padding'
    """
    batch, feature = whole
    if feature.dim() == 0 or len(feature) != batch.size or len(part[1]) != len(indices):
        return "has no axis of samples at the front"
    padding = Padding.of(batch.model_inputs, kind.padded or "inputs")
    if padding is not None and kind.padded is None and feature.dim() > 2:
        return "has padding that is not known"
    if kind.padded is not None and (padding is None or feature.dim() < 2 or feature.shape[1] != padding.width):
        return "has a second axis that is not that of its padding"
    size = max(nbytes(row) for row in kind.split(feature, batch))
    if size > LARGEST_ROW:
        remedy = "" if kind.k is not None else "; regular_distillation.top_k keeps the largest logits only"
        return f"takes {size / 2**20:.1f} MiB a sample, more than {LARGEST_ROW / 2**20:.0f}{remedy}"
    entire = replace(kind, k=None)
    expected = [entire.split(feature, batch)[index][FEATURE] for index in indices]
    received = [row[FEATURE] for row in entire.split(part[1], part[0])]
    if any(left.shape != right.shape for left, right in zip(expected, received, strict=True)):
        return "has rows whose shape depends on the other samples or on padding"
    difference = max(map(relative_difference, received, expected))
    logger.info("%s is kept by sample: in other batches it differs by %.1e of its size", kind.tap, difference)
    if difference > TOLERANCE.get(part[1].dtype, TOLERANCE[torch.bfloat16]):
        return f"depends on the other samples or on padding: it differs by {difference:.1e} of its size"
    return None


def relative_difference(received: torch.Tensor, expected: torch.Tensor) -> float:
    """The norm of a difference, relative to that of what was expected; infinite where one of them is NaN.

    Examples:
        >>> relative_difference(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 5.0])) < 1 / 5
        True
    """
    received, expected = received.double(), expected.double()
    difference = float((received - expected).norm() / expected.norm().clamp(min=1e-12))
    return difference if math.isfinite(difference) else math.inf
