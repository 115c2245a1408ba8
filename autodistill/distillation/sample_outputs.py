"""The teacher's outputs by sample: cut into rows without padding, and joined again for batches of other samples."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from autodistill.batch import Batch
from autodistill.distillation.sample_store import SUFFIX, Row, SampleStore
from autodistill.losses.top_k import TopK, TopKLogits, top_k_logits
from autodistill.models.taps import Tap
from autodistill.samples import IGNORED_LABEL, Padded, Padding, cut_padding
from autodistill.tensors import content_hash, nbytes

logger = logging.getLogger(__name__)

FOLDER = "samples"
"""In the directory of the teacher cache."""

LARGEST_ROW = 2**20
"""In bytes: larger outputs of a sample are not kept, since reading them costs about as much as computing them."""

TOLERANCE = {torch.float64: 1e-3, torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 5e-2}
"""How much a sample's output may differ in another batch, relative to its size: rounding, and nothing more."""

FEATURE = "feature"

SIDES: tuple[Padded, Padded] = ("inputs", "targets")


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
        disk_bytes: no row is added when the directory would exceed it; without a directory it is the memory.
        write_through: each batch's rows are written immediately, for other processes that train the same student.

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
        self.nbytes = 0 if directory is None else sum(path.stat().st_size for path in directory.rglob(f"*{SUFFIX}"))
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
                self.nbytes += store.put(batch.sample_keys, rows)
        return added

    def count(self, kind: OutputKind) -> int:
        """The number of samples that have a row of this kind."""
        return self._store(kind).count()

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
        return self._stores[kind]


# --- what can be kept by sample -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A batch, and some of its samples with less padding: an output that is kept by sample is the same for both.

    Attributes:
        whole: the batch, in which each of the samples is padded.
        part: a batch of the samples, in another order and without common padding.
        indices: of the samples in the whole batch.
    """

    whole: Batch
    part: Batch
    indices: Sequence[int]

    @classmethod
    def of(cls, batch: Batch, pad_token: int | None = None) -> Probe:
        """The shorter half of a batch; the last positions of samples that are not padded become padding.

        Args:
            batch: any batch.
            pad_token: is written to `input_ids` there.

        Examples:
            >>> batch = Batch({"attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]])})
            >>> probe = Probe.of(batch)
            >>> probe.whole is batch, probe.indices, probe.part.content["attention_mask"].tolist()
            (True, [1, 2], [[1, 1], [1, 0]])
            >>> Probe.of(Batch({"attention_mask": torch.ones(2, 3)})).part.content["attention_mask"].tolist()
            [[1.0, 1.0]]
        """
        found = [padding for side in SIDES if (padding := Padding.of(batch.model_inputs, side)) is not None]
        lengths = [sum(padding.lengths[index] for padding in found) for index in range(batch.size)]
        indices = sorted(range(batch.size), key=lambda index: lengths[index])[: max(1, batch.size // 2)][::-1]
        content = batch.content
        for side in SIDES:
            content = _padded_at_the_end(content, indices, side, pad_token)
        whole = batch if content is batch.content else Batch(content)
        return cls(whole, Batch(cut_padding(whole.take(indices).content)), indices)

    def with_all_padding(self) -> Probe:
        """The same samples as long as in the whole batch, for a teacher of inputs of one length."""
        return replace(self, part=self.whole.take(self.indices))


def _padded_at_the_end(content: Any, indices: Sequence[int], side: Padded, pad_token: int | None) -> Any:
    """A batch's content in which each of some samples has padding at the end of a side, unless it is at the start."""
    padding = Padding.of(content, side)
    prefix = "" if side == "inputs" else "decoder_"
    mask = content.get(f"{prefix}attention_mask") if padding is not None else None
    if padding is None or (mask is not None and not mask[:, 0].all()):
        return content
    longest = [index for index in indices if padding.lengths[index] == padding.width]
    values = {f"{prefix}attention_mask": 0, "labels": IGNORED_LABEL, f"{prefix}input_ids": pad_token}
    padded = dict(content)
    for name, value in values.items():
        tensor = content.get(name)
        if value is not None and isinstance(tensor, torch.Tensor) and tensor.shape[1:] == (padding.width,):
            padded[name] = tensor.clone()
            padded[name][longest, -1] = value
    shorter = Padding.of(padded, side)
    if not longest or shorter is None or min(shorter.lengths[index] for index in longest) == 0:
        return content  # a sample that is all padding may be NaN
    return padded


def sample_problem(kind: OutputKind, probe: Probe, feature: torch.Tensor, again: torch.Tensor) -> str | None:
    """Why an output cannot be kept by sample, as the end of a sentence; None if it can.

    Args:
        kind: the form of its rows.
        probe: a batch, and some of its samples.
        feature: the output for the whole batch.
        again: that for the samples.

    Examples:
        >>> kind, batch = OutputKind(Tap(""), "teacher"), Batch((torch.tensor([[1.0], [2.0]]), None))
        >>> similarities = batch.inputs @ batch.inputs.T
        >>> sample_problem(kind, Probe.of(batch), similarities, similarities[:1, :1])
        'has rows whose shape depends on the other samples or on padding'
    """
    batch = probe.whole
    if not feature.dim() or len(feature) != batch.size or not again.dim() or len(again) != len(probe.indices):
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
    expected = [entire.split(feature, batch)[index][FEATURE] for index in probe.indices]
    received = [row[FEATURE] for row in entire.split(again, probe.part)]
    if any(left.shape != right.shape for left, right in zip(expected, received, strict=True)):
        return "has rows whose shape depends on the other samples or on padding"
    difference = max(map(relative_difference, received, expected))
    if difference > TOLERANCE.get(feature.dtype, TOLERANCE[torch.bfloat16]):
        return f"depends on the other samples or on padding: it differs by {difference:.1e} of its size"
    logger.info("%s is kept by sample: in other batches it differs by %.1e of its size", kind.tap, difference)
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
