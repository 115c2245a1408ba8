"""Writes the blocks of a student: the teacher's heads and neurons are selected and mapped into the subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autodistill.initialization.heads import HeadGroup, choose_heads, query_key_maps, value_output_maps
from autodistill.initialization.pairing import Both, Pairing
from autodistill.initialization.stream import Reader, read_after, write_norm_after_sum, writer
from autodistill.models.families import Attention, Family, FeedForward
from autodistill.models.weights import Affine, Part, read, shape


def write_blocks(pair: Pairing[Family]) -> None:
    """Write all blocks of the student."""
    groups: Sequence[HeadGroup] | None = None
    for index, layer in enumerate(pair.layers):
        boundary = pair.boundary(index)
        for unit in pair.family.parts:
            norm = pair.weight(unit.norm, index)
            specs = unit.readers if isinstance(unit, FeedForward) else (unit.query, unit.key, unit.value)
            readers = [weight for spec in specs if pair.in_both(weight := pair.weight(spec, index))]
            norm_before = norm if pair.in_both(norm) else None
            reader = read_after(pair, norm_before, boundary, [weight.student for weight in readers])
            scale = pair.weight(unit.scale, index) if unit.scale is not None else None
            maps = _Maps(readers, pair.weight(unit.output, index), reader, boundary, scale)
            if isinstance(unit, FeedForward):
                _write_feed_forward(pair, maps)
            else:
                heads = _AttentionWriter(pair, unit, index, maps)
                groups = groups if groups is not None and pair.family.heads_agree else heads.choose()
                heads.write(groups)
            boundary = layer + 1
            if not pair.family.norms_before:
                write_norm_after_sum(pair, norm, boundary)


@dataclass(frozen=True)
class _Maps:
    """The maps of one part of a block.

    Args:
        readers: the maps that read the stream.
        output: the map that writes to the stream.
        reader: converts a map that reads the stream to the student's form.
        boundary: the boundary of the teacher's blocks at which the stream is read.
        scale: the vector that multiplies what the output writes, if any.
    """

    readers: Sequence[Both[Part]]
    output: Both[Part]
    reader: Reader
    boundary: int
    scale: Both[Part] | None = None


def _scaled_output(pair: Pairing[Family], maps: _Maps) -> Affine:
    """The teacher's output map with its scale multiplied in; writes 1 to the student's scale."""
    output = read(pair.teacher, maps.output.teacher)
    if maps.scale is None:
        return output
    factor, ones = read(pair.teacher, maps.scale.teacher).weight, read(pair.student, maps.scale.student).weight
    pair.write(maps.scale.student, Affine(torch.ones_like(ones), None))
    return Affine(factor * output.weight, factor[:, 0] * output.bias if output.bias is not None else None)


def _write_feed_forward(pair: Pairing[Family], maps: _Maps) -> None:
    """Write the strongest neurons. Neurons that the teacher lacks stay as built, with zero output weights."""
    readers = [maps.reader(read(pair.teacher, weight.teacher)) for weight in maps.readers]
    output = writer(pair, _scaled_output(pair, maps), maps.boundary)
    importance = pair.importance.of(maps.output.teacher.path, output.weight) if pair.importance is not None else None
    if importance is None:
        importance = output.weight.norm(dim=0) * torch.stack([one.weight.norm(dim=1) for one in readers]).prod(0)
    weight = torch.zeros(shape(pair.student, maps.output.student), dtype=torch.float64)
    kept = pair.strongest(importance, weight.shape[1])
    for of_teacher, target in zip(readers, maps.readers, strict=True):
        of_student = read(pair.student, target.student)
        of_student.weight[: len(kept)] = of_teacher.weight[kept]
        if of_student.bias is not None and of_teacher.bias is not None:
            of_student.bias[: len(kept)] = of_teacher.bias[kept]
        pair.write(target.student, of_student)
    weight[:, : len(kept)] = output.weight[:, kept]
    pair.write(maps.output.student, Affine(weight, output.bias))


@dataclass
class _Heads:
    """A map whose outputs are heads.

    Args:
        weight: (heads, channels, d).
        bias: (heads, channels), or None.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    @classmethod
    def of(cls, affine: Affine, channels: int) -> _Heads:
        bias = affine.bias.reshape(-1, channels) if affine.bias is not None else None
        return cls(affine.weight.reshape(-1, channels, affine.weight.shape[1]), bias)

    def affine(self) -> Affine:
        return Affine(self.weight.flatten(0, 1), self.bias.flatten() if self.bias is not None else None)

    def put(self, index: int, to: torch.Tensor, source: _Heads, head: int, *, keep: bool) -> None:
        """Write one head of the student from a head of the teacher.

        Args:
            index: the position of the student's head.
            to: the map from the teacher's channels, (channels, teacher channels).
            source: the teacher's heads.
            head: the position of the teacher's head.
            keep: whether channels that the teacher's head does not fill stay as built; otherwise they are zero. On one
                side of a product they are kept, on the other zero: the result is the same, and gradients reach both.
        """
        filled = to.abs().sum(1) > 0
        self.weight[index] = torch.where(filled[:, None], to @ source.weight[head], self.weight[index] * keep)
        if self.bias is not None and source.bias is not None:
            self.bias[index] = torch.where(filled, to @ source.bias[head], self.bias[index] * keep)


class _AttentionWriter:
    """Writes the attention of one block of the student.

    Args:
        pair: the two models.
        attention: the entry of the family's table.
        block: the position of the student's block.
        maps: the queries, keys and values, and the map that writes to the stream.
    """

    def __init__(self, pair: Pairing[Family], attention: Attention, block: int, maps: _Maps) -> None:
        self.pair, self.attention, self.block, self.maps = pair, attention, block, maps
        self.sizes = pair.head_sizes
        teacher = self.sizes.teacher
        in_block = {spec: pair.weight(spec, block) for spec in (*attention.queries, *attention.keys, attention.value)}
        self.weights = {spec: weight for spec, weight in in_block.items() if pair.in_both(weight)}
        self.heads = {
            spec: _Heads.of(maps.reader(read(pair.teacher, weight.teacher)), teacher.channels)
            for spec, weight in self.weights.items()
        }
        self.value = self.heads[attention.value]
        self.output = writer(pair, _scaled_output(pair, maps), maps.boundary)
        by_head = self.output.weight.reshape(len(self.output.weight), teacher.heads, teacher.channels)
        self.written = by_head.transpose(0, 1)  # (heads, d, channels)

    def choose(self) -> list[HeadGroup]:
        """Select the heads by what they write to the stream, or by the norm of the product of output and value."""
        teacher, measured = self.sizes.teacher, self.pair.importance
        by_channel = measured.of(self.maps.output.teacher.path, self.output.weight) if measured is not None else None
        if by_channel is not None:
            importance = by_channel.square().reshape(teacher.heads, teacher.channels).sum(1)
        else:
            values = self.value.weight.repeat_interleave(teacher.heads // teacher.key_value_heads, dim=0)
            importance = (self.written @ values).square().sum((1, 2))
        return choose_heads(importance, teacher, self.sizes.student, ordered=self.pair.order != "position")

    def write(self, groups: Sequence[HeadGroup]) -> None:
        """Write these heads of the teacher. Heads that it lacks stay as built, with zero output weights."""
        sizes = self.sizes.student
        channels, per_group = sizes.channels, sizes.heads // sizes.key_value_heads
        of_student = {
            spec: _Heads.of(read(self.pair.student, weight.student), channels) for spec, weight in self.weights.items()
        }
        queries, keys = (
            [(self.heads[spec], of_student[spec]) for spec in side if spec in of_student]
            for side in (self.attention.queries, self.attention.keys)
        )
        output = torch.zeros(sizes.heads, len(self.output.weight), channels, dtype=torch.float64)
        ordered = self.pair.order == "importance and channels"
        for index, group in enumerate(groups):
            to_query, to_key = query_key_maps(
                [source.weight[head] for head in group.heads for source, _ in queries],
                torch.cat([source.weight[group.key_value_head] for source, _ in keys], dim=1),
                channels,
                rotary=self.attention.rotary or bool(self._head_norms),
                ordered=ordered,
            )
            to_output, to_value = value_output_maps(
                [self.written[head] for head in group.heads],
                self.value.weight[group.key_value_head],
                channels,
                ordered=ordered,
            )
            for source, target in keys:
                target.put(index, to_key, source, group.key_value_head, keep=False)
            of_student[self.attention.value].put(index, to_value, self.value, group.key_value_head, keep=True)
            to_query = to_query * (1.0 if self._head_norms else self._score_scale)
            for position, head in enumerate(group.heads, start=index * per_group):
                for source, target in queries:
                    target.put(position, to_query, source, head, keep=True)
                output[position] = self.written[head] @ to_output.T
        for spec, heads in of_student.items():
            self.pair.write(self.weights[spec].student, heads.affine())
        self.pair.write(self.maps.output.student, Affine(output.transpose(0, 1).flatten(1), self.output.bias))
        self._write_head_norms()
        self._write_position_table(groups)

    @property
    def _score_scale(self) -> float:
        """Corrects the scores: each model divides them by the square root of the channels of its heads."""
        sizes = self.sizes
        return float((sizes.student.channels / sizes.teacher.channels) ** 0.5) if self.attention.scaled else 1.0

    @property
    def _head_norms(self) -> list[Both[Part]]:
        norms = [self.pair.weight(name, self.block) for name in self.attention.head_norms]
        return [norm for norm in norms if self.pair.in_both(norm)]

    def _write_head_norms(self) -> None:
        sizes = self.sizes
        for position, norm in enumerate(self._head_norms):
            norms = self.pair.norms(norm)
            to, _ = query_key_maps([], torch.zeros(sizes.teacher.channels, 1), sizes.student.channels, rotary=True)
            factor = self._score_scale if position == 0 else 1.0
            filled = to.sum(1) > 0
            fitted = (
                torch.where(filled, factor * (to @ new), old)
                for new, old in zip(norms.teacher, norms.student, strict=True)
            )
            self.pair.write_norm(norm.student, *fitted)

    def _write_position_table(self, groups: Sequence[HeadGroup]) -> None:
        if self.attention.position_table is None:
            return
        table = self.pair.weight(self.attention.position_table, self.block)
        if not self.pair.in_both(table):
            table = Both(table.student, self.pair.teacher_weight(self.attention.position_table, 0))
        if self.pair.in_both(table):
            heads = [head for group in groups for head in group.heads]
            of_student = read(self.pair.student, table.student)
            of_student.weight[: len(heads)] = read(self.pair.teacher, table.teacher).weight[heads]
            self.pair.write(table.student, of_student)
