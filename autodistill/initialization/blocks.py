"""The blocks of a student, written from the teacher's: heads and neurons are chosen, and put into the subspace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autodistill.initialization.heads import Slot, choose_slots, query_key_maps, strongest, value_output_maps
from autodistill.initialization.pairing import Pairing, Place, Reader
from autodistill.models.families import Attention, FeedForward
from autodistill.models.weights import Affine, norm_of, read, shape


def write_blocks(pair: Pairing) -> None:
    """Write all blocks of the student."""
    slots: Sequence[Slot] | None = None
    for index, layer in enumerate(pair.layers):
        boundary = pair.layers[index - 1] + 1 if index else 0
        for piece in pair.family.parts:
            norm = pair.place(piece.norm, index)
            specs = piece.readers if isinstance(piece, FeedForward) else (piece.query, piece.key, piece.value)
            places = [place for spec in specs if pair.in_both(place := pair.place(spec, index))]
            reader = pair.reader(norm, boundary, [place.student for place in places])
            output = pair.place(piece.output, index)
            if isinstance(piece, FeedForward):
                _write_feed_forward(pair, places, output, reader, boundary)
            else:
                heads = _AttentionWriter(pair, piece, index, places, output, reader, boundary)
                slots = slots if slots is not None and pair.family.heads_agree else heads.choose()
                heads.write(slots)
            boundary = layer + 1
            if not pair.family.norms_before:
                pair.norm_behind(norm, boundary)


def _write_feed_forward(pair: Pairing, places: Sequence[Place], output: Place, reader: Reader, boundary: int) -> None:
    """The strongest neurons; those that the teacher lacks stay as built, and write nothing yet."""
    readers = [reader(read(pair.teacher, place.teacher)) for place in places]
    writer = pair.writer(read(pair.teacher, output.teacher), boundary)
    importance = pair.importance.of(output.teacher.path, writer.weight) if pair.importance is not None else None
    if importance is None:
        importance = writer.weight.norm(dim=0) * torch.stack([one.weight.norm(dim=1) for one in readers]).prod(0)
    weight = torch.zeros(shape(pair.student, output.student), dtype=torch.float64)
    kept = strongest(importance, weight.shape[1])
    for one, place in zip(readers, places, strict=True):
        own = read(pair.student, place.student)
        own.weight[: len(kept)] = one.weight[kept]
        if own.bias is not None and one.bias is not None:
            own.bias[: len(kept)] = one.bias[kept]
        pair.write(place.student, own)
    weight[:, : len(kept)] = writer.weight[:, kept]
    pair.write(output.student, Affine(weight, writer.bias))


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
        """Set a head from one of the teacher.

        Args:
            index: of the head.
            to: (channels, teacher channels).
            source: the teacher's heads.
            head: of them.
            keep: channels that the teacher's head does not fill stay as built; else they are zero. Of the two sides of
                a product one is kept and the other zero: what is computed is the same, and gradients reach both.
        """
        filled = to.abs().sum(1) > 0
        self.weight[index] = torch.where(filled[:, None], to @ source.weight[head], self.weight[index] * keep)
        if self.bias is not None and source.bias is not None:
            self.bias[index] = torch.where(filled, to @ source.bias[head], self.bias[index] * keep)


class _AttentionWriter:
    """Writes the attention of one block of the student.

    Args:
        pair: the two models.
        piece: the part of the block.
        block: of the student.
        places: of the queries, keys and values.
        output: the place of the map that writes to the stream.
        reader: how the stream is read here.
        boundary: of the teacher's blocks.
    """

    def __init__(
        self,
        pair: Pairing,
        piece: Attention,
        block: int,
        places: Sequence[Place],
        output: Place,
        reader: Reader,
        boundary: int,
    ) -> None:
        self.pair, self.piece, self.block, self.places, self.output = pair, piece, block, places, output
        self.teacher, self.student = pair.head_sizes
        self.query, self.key, self.value = (
            _Heads.of(reader(read(pair.teacher, place.teacher)), self.teacher.channels) for place in places
        )
        self.writer = pair.writer(read(pair.teacher, output.teacher), boundary)
        shape = (len(self.writer.weight), self.teacher.heads, self.teacher.channels)
        self.written = self.writer.weight.reshape(shape).transpose(0, 1)  # (heads, d, channels)

    def choose(self) -> list[Slot]:
        """The heads that are kept: by what reaches the stream, or the norm of the product of output and value."""
        measured = self.pair.importance
        seen = measured.of(self.output.teacher.path, self.writer.weight) if measured is not None else None
        if seen is not None:
            importance = seen.square().reshape(self.teacher.heads, self.teacher.channels).sum(1)
        else:
            values = self.value.weight.repeat_interleave(self.teacher.heads // self.teacher.key_value_heads, dim=0)
            importance = (self.written @ values).square().sum((1, 2))
        return choose_slots(importance, self.teacher, self.student)

    def write(self, slots: Sequence[Slot]) -> None:
        """Write these heads of the teacher; those that it lacks stay as built, and write nothing yet."""
        channels, room = self.student.channels, self.student.heads // self.student.key_value_heads
        query, key, value = (_Heads.of(read(self.pair.student, place.student), channels) for place in self.places)
        output = torch.zeros(self.student.heads, len(self.writer.weight), channels, dtype=torch.float64)
        for index, slot in enumerate(slots):
            to_query, to_key = query_key_maps(
                [self.query.weight[head] for head in slot.heads],
                self.key.weight[slot.group],
                channels,
                rotary=self.piece.rotary,
            )
            to_output, to_value = value_output_maps(
                [self.written[head] for head in slot.heads], self.value.weight[slot.group], channels
            )
            key.put(index, to_key, self.key, slot.group, keep=False)
            value.put(index, to_value, self.value, slot.group, keep=True)
            for place, head in enumerate(slot.heads, start=index * room):
                query.put(place, to_query * (1.0 if self._normed else self._score_scale), self.query, head, keep=True)
                output[place] = self.written[head] @ to_output.T
        for where, heads in zip(self.places, (query, key, value), strict=True):
            self.pair.write(where.student, heads.affine())
        self.pair.write(self.output.student, Affine(output.transpose(0, 1).flatten(1), self.writer.bias))
        self._write_head_norms()
        self._write_position_table(slots)

    @property
    def _score_scale(self) -> float:
        """Scores are divided by the root of a head's channels: the teacher's of its own, the student's of its own."""
        return float((self.student.channels / self.teacher.channels) ** 0.5) if self.piece.scaled else 1.0

    @property
    def _normed(self) -> list[Place]:
        places = [self.pair.place(name, self.block) for name in self.piece.head_norms]
        return [place for place in places if self.pair.in_both(place)]

    def _write_head_norms(self) -> None:
        for position, place in enumerate(self._normed):
            gain, bias = norm_of(self.pair.teacher, place.teacher.path)
            own = norm_of(self.pair.student, place.student.path)
            to, _ = query_key_maps([], torch.zeros(self.teacher.channels, 1), self.student.channels, rotary=True)
            factor = self._score_scale if position == 0 else 1.0
            filled = to.sum(1) > 0
            fitted = (torch.where(filled, factor * (to @ one), old) for one, old in zip((gain, bias), own, strict=True))
            self.pair.write_norm(place, *fitted)

    def _write_position_table(self, slots: Sequence[Slot]) -> None:
        if self.piece.position_table is None:
            return
        place = self.pair.place(self.piece.position_table, self.block)
        if not self.pair.in_both(place):
            place = Place(self.pair.teacher_place(self.piece.position_table, 0), place.student)
        if self.pair.in_both(place):
            heads = [head for slot in slots for head in slot.heads]
            own = read(self.pair.student, place.student)
            own.weight[: len(heads)] = read(self.pair.teacher, place.teacher).weight[heads]
            self.pair.write(place.student, own)
