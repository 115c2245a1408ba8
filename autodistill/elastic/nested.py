"""Nested students: how the parameters of a smaller student are cut out of those of the largest one.

In the subspace of the teacher's stream all widths are nested: the stream of a student of width d is the first d
principal directions. Heads, channels of heads and neurons are ordered by importance, and blocks are spread evenly. So
every axis of every weight has a *role*, and a smaller student keeps a selection of the entries of that role. Gains and
biases of norms, and maps that lead out of the model, are *private*: every width has its own.

Related work: Cai et al. (2020), Once-for-All, https://arxiv.org/abs/1908.09791; Yu et al. (2020), BigNAS,
https://arxiv.org/abs/2003.11142; Devvrit et al. (2023), MatFormer, https://arxiv.org/abs/2310.07707.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.agreement import other_settings
from autodistill.initialization.channel_selection import Selection
from autodistill.initialization.from_teacher import start_method
from autodistill.initialization.heads import HeadGroup, choose_heads, rotary_pairs
from autodistill.initialization.outputs import output_weight, outputs_of
from autodistill.initialization.pairing import Both, Pairing
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import (
    Attention,
    ChannelFamily,
    Family,
    FeedForward,
    HeadSizes,
    Output,
    WeightTable,
    require_family,
)
from autodistill.models.weights import Part, locate, shape


@dataclass(frozen=True)
class Cut:
    """How one parameter of a student is cut out of a parameter of the largest student.

    Attributes:
        name: of the student's parameter.
        source: the name of the largest student's parameter.
        axes: for each axis the entries that are kept, or None for all.
        factor: multiplies the first or last axis, whichever is that of the outputs; None for 1.
        private: every width has its own; the cut then leads from the parameter of the largest student of that width.
    """

    name: str
    source: str
    axes: tuple[torch.Tensor | None, ...]
    factor: torch.Tensor | None = None
    private: bool = False

    def take(self, whole: torch.Tensor) -> torch.Tensor:
        """The student's values, as a tensor of its own."""
        taken = whole
        for axis, kept in enumerate(self.axes):
            if kept is None:
                continue
            taken = (
                taken.narrow(axis, 0, len(kept))
                if _is_prefix(kept)
                else taken.index_select(axis, kept.to(whole.device))
            )
        if self.factor is not None:
            return taken * self.factor.to(taken)
        return taken.clone(memory_format=torch.contiguous_format)

    def add_(self, whole: torch.Tensor, change: torch.Tensor) -> None:
        """Add to the entries of `whole` that `take` reads what changes by `change`: the transpose of `take`."""
        if self.factor is not None:
            change = change * self.factor.to(change)
        others = [axis for axis, kept in enumerate(self.axes) if kept is not None and not _is_prefix(kept)]
        target = whole
        for axis, kept in enumerate(self.axes):
            if kept is not None and axis not in others:
                target = target.narrow(axis, 0, len(kept))
        if not others:
            target += change
            return
        first, *rest = others
        for axis in rest:  # entries may repeat: a key that two heads of the student read
            kept = self.axes[axis]
            assert kept is not None
            shape = list(change.shape)
            shape[axis] = target.shape[axis]
            change = torch.zeros(shape, dtype=change.dtype, device=change.device).index_add_(
                axis, kept.to(change.device), change
            )
        kept = self.axes[first]
        assert kept is not None
        target.index_add_(first, kept.to(change.device), change)


def _is_prefix(kept: torch.Tensor) -> bool:
    return bool((kept == torch.arange(len(kept))).all())


@dataclass
class _Draft:
    """A cut that is put together from the maps that share the parameter.

    Args:
        source: the parameter of the largest student.
        shape: of the student's parameter.
        outputs_axis: the axis of the outputs.
        outputs: for each output of the student that of the largest student; -1 while it is not known.
        factors: by which each output is multiplied.
        inputs: for each input of the student that of the largest student; None for all of them.
        private: see `Cut`.
    """

    source: nn.Parameter
    shape: torch.Size
    outputs_axis: int
    outputs: torch.Tensor
    factors: torch.Tensor
    inputs: torch.Tensor | None
    private: bool

    def cut(self, name: str, source: str) -> Cut:
        axes: list[torch.Tensor | None] = [None] * len(self.shape)
        if self.inputs is not None and len(self.shape) == 2:
            axes[1 - self.outputs_axis] = self.inputs
        axes[self.outputs_axis] = self.outputs
        kept = tuple(_or_all(one, size) for one, size in zip(axes, self.source.shape, strict=True))
        factor = None
        if bool((self.factors != 1).any()):
            shape = [1] * len(self.shape)
            shape[self.outputs_axis] = -1
            factor = self.factors.reshape(shape)
        return Cut(name, source, kept, factor, self.private)


def _or_all(kept: torch.Tensor | None, size: int) -> torch.Tensor | None:
    """The entries that are kept of an axis; None if these are all of them in order."""
    return None if kept is None or (len(kept) == size and _is_prefix(kept)) else kept


class NestedStudent:
    """A student as a part of the largest student of its space.

    Args:
        student: the student; its parameters may be on the device `meta`.
        largest: the largest student.
        family: the table of both; by default that of their transformers configuration.
        projection_head: the path of a linear layer of both from the stream to the teacher's width.

    Raises:
        ConfigurationError: the student is no part of the largest one; all reasons in one error.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(num_hidden_layers=1, intermediate_size=8, vocab_size=9)
        >>> largest = BertModel(BertConfig(hidden_size=8, num_attention_heads=4, **sizes))
        >>> student = BertModel(BertConfig(hidden_size=4, num_attention_heads=2, **sizes))
        >>> nested = NestedStudent(student, largest)
        >>> cut = next(cut for cut in nested.cuts if cut.name.endswith("query.weight"))
        >>> torch.equal(cut.take(largest.get_parameter(cut.source)), largest.get_parameter(cut.source)[:4, :4])
        True
    """

    def __init__(
        self,
        student: nn.Module,
        largest: nn.Module,
        *,
        family: WeightTable | None = None,
        projection_head: str | None = None,
    ) -> None:
        self._head = projection_head
        self._pair = _paired(student, largest, family)
        self._problems: list[str] = []
        self._drafts: dict[nn.Parameter, _Draft] = {}
        _raise_if(list(start_method(self._pair.family).problems(self._pair)))
        _raise_if([f"{text}" for text in other_settings(self._pair)])
        self._add_all()
        self.cuts = self._finished()

    @property
    def width(self) -> int:
        """The number of channels of the student's stream."""
        return self._pair.subspace.width

    @property
    def layers(self) -> tuple[int, ...]:
        """For each block of the student, the position of the block of the largest student."""
        return self._pair.layers

    @cached_property
    def _indices(self) -> _Indices:
        sizes = self._pair.head_sizes
        return _Indices(sizes.student, sizes.teacher, rotary=self._pair.family.rotary)

    def _add_all(self) -> None:
        family = self._pair.family
        if isinstance(family, ChannelFamily):
            self._add_sites()
        else:
            self._add_embeddings(family)
            for block in range(len(self._pair.layers)):
                for unit in family.parts:
                    self._add_norm(self._pair.weight(unit.norm, block))
                    if unit.scale is not None:
                        self._add_norm(self._pair.weight(unit.scale, block))
                    add = self._add_attention if isinstance(unit, Attention) else self._add_feed_forward
                    add(unit, block)
            for norm in (family.final_norm,):
                if norm is not None:
                    self._add_norm(self._pair.weight(norm))
            for output in outputs_of(self._pair):
                self._add_output(output)
        if self._head is not None:
            weight = Both(Part(self._head), Part(self._head))
            self._add(weight, "row", "stream", private=True)

    # --- the maps of a `Family` ---

    def _add_embeddings(self, family: Family) -> None:
        pair, own = self._pair, self._pair.has_own_embeddings
        role = "embedding" if own else "stream"
        factor = (shape(pair.teacher, pair.weight(pair.embeddings[0]).teacher)[0] / self.width) ** 0.5
        for spec in pair.embeddings:
            self._add(pair.weight(spec), role, "row", factor=factor if family.scaled_embeddings else 1.0)
        if own and family.embedding_map is not None:
            self._add(pair.weight(family.embedding_map), "stream", "embedding")
        if family.embedding_norm is not None:
            self._add_norm(pair.weight(family.embedding_norm))
        if family.position_rows is not None and pair.in_both(pair.weight(family.position_rows)):
            self._add(pair.weight(family.position_rows), "stream", "row")
            if family.position_norm is not None:
                self._add_norm(pair.weight(family.position_norm))

    def _add_attention(self, unit: Attention, block: int) -> None:
        pair, sizes = self._pair, self._pair.head_sizes
        norms = [norm for name in unit.head_norms if pair.in_both(norm := pair.weight(name, block))]
        # Each model divides the scores by the square root of the channels of its heads; a norm after the queries does
        # away with their size, so that its own gain has the factor.
        scale = (sizes.student.channels / sizes.teacher.channels) ** 0.5 if unit.scaled else 1.0
        for spec in unit.queries:
            self._add_if_present(pair.weight(spec, block), "query", "stream", factor=1.0 if norms else scale)
        for spec in unit.keys:
            self._add_if_present(pair.weight(spec, block), "key", "stream")
        self._add(pair.weight(unit.value, block), "value", "stream")
        self._add(pair.weight(unit.output, block), "stream", "written")
        for position, norm in enumerate(norms):
            self._add_norm(norm, "channel", factor=scale if position == 0 else 1.0)
        if unit.position_table is not None:
            self._add_if_present(pair.weight(unit.position_table, block), "head", "row")

    def _add_feed_forward(self, unit: FeedForward, block: int) -> None:
        for spec in unit.readers:
            self._add_if_present(self._pair.weight(spec, block), "neuron", "stream")
        self._add(self._pair.weight(unit.output, block), "stream", "neuron")

    def _add_output(self, output: Output) -> None:
        pair, hidden = self._pair, output.hidden
        inputs = "stream"
        if hidden is not None:
            own = hidden.spans_stream and pair.has_own_embeddings
            inputs = "embedding" if own else "stream" if hidden.spans_stream else "hidden"
            self._add(output_weight(pair, hidden.reader), inputs, "stream")
            if hidden.norm is not None:
                self._add_norm(output_weight(pair, hidden.norm), inputs)
        if output.bias is not None:
            self._add(output_weight(pair, output.bias), "row", "row")
        if output.last is not None:
            self._add(output_weight(pair, output.last), "row", inputs, reads=output.reads)

    # --- the parameters of a `ChannelFamily` ---

    def _add_sites(self) -> None:
        names = dict(self._pair.teacher.named_parameters())
        for site in Selection(self._pair).sites():
            outputs, *inputs = site.roles
            private = site.parameter.dim() == 1
            self._draft(
                Both(site.parameter, names[site.teacher]),
                outputs_axis=0,
                outputs=self._index(outputs, site.parameter.shape[0], names[site.teacher].shape[0], site.student),
                inputs=self._index(
                    inputs[0], *(one.shape[1] for one in (site.parameter, names[site.teacher])), site.student
                )
                if inputs
                else None,
                factor=self._score_factor(site.module),
                private=private,
            )

    def _score_factor(self, module: str) -> float:
        sizes = self._pair.head_sizes
        return (sizes.student.channels / sizes.teacher.channels) ** 0.5 if module == "attention.self.query" else 1.0

    # --- drafts ---

    def _add_if_present(self, weight: Both[Part], outputs: str, inputs: str, factor: float = 1.0) -> None:
        if self._pair.in_both(weight):
            self._add(weight, outputs, inputs, factor=factor)

    def _add(
        self,
        weight: Both[Part],
        outputs: str,
        inputs: str,
        *,
        factor: float = 1.0,
        private: bool = False,
        reads: int = 1,
    ) -> None:
        """Add a map and its bias: the roles of its outputs and of its inputs."""
        pair = self._pair
        found = Both(locate(pair.student, weight.student), locate(pair.teacher, weight.teacher))
        shapes = pair.shapes(weight)
        path = weight.student.path
        of_outputs = self._index(outputs, shapes.student[0], shapes.teacher[0], path)
        of_inputs = self._index(inputs, shapes.student[1] // reads, shapes.teacher[1] // reads, path)
        of_inputs = torch.cat([of_inputs + position * (shapes.teacher[1] // reads) for position in range(reads)])
        rows = found.teacher.rows[of_outputs]
        dimensions = found.student.weight.dim()
        self._draft(
            Both(found.student.weight, found.teacher.weight),
            outputs_axis=dimensions - 1 if found.student.transposed else 0,
            outputs=rows,
            inputs=of_inputs if dimensions == 2 else None,
            factor=factor,
            private=private,
            rows=found.student.rows,
        )
        if found.student.bias is not None and found.teacher.bias is not None:
            self._draft(
                Both(found.student.bias, found.teacher.bias),
                outputs_axis=0,
                outputs=rows,
                inputs=None,
                factor=factor,
                private=private,
                rows=found.student.rows,
            )

    def _add_norm(self, norm: Both[Part], role: str = "stream", factor: float = 1.0) -> None:
        """Add the gain and the bias of a norm."""
        if not self._pair.in_both(norm):
            return
        found = Both(locate(self._pair.student, norm.student), locate(self._pair.teacher, norm.teacher))
        for name in ("weight", "bias"):
            parameters = Both(getattr(found.student, name), getattr(found.teacher, name))
            if parameters.student is not None and parameters.teacher is not None:
                sizes = len(parameters.student), len(parameters.teacher)
                kept = self._index(role, *sizes, norm.student.path)
                self._draft(parameters, outputs_axis=0, outputs=kept, inputs=None, factor=factor, private=True)

    def _draft(
        self,
        parameters: Both[nn.Parameter],
        *,
        outputs_axis: int,
        outputs: torch.Tensor,
        inputs: torch.Tensor | None,
        factor: float,
        private: bool,
        rows: torch.Tensor | None = None,
    ) -> None:
        """Note where some of the outputs of a parameter come from; those that are known already stay."""
        student = parameters.student
        count = student.shape[outputs_axis]
        draft = self._drafts.get(student)
        if draft is None:
            draft = _Draft(
                parameters.teacher,
                student.shape,
                outputs_axis,
                torch.full((count,), -1),
                torch.ones(count),
                inputs,
                private,
            )
            self._drafts[student] = draft
        rows = torch.arange(count) if rows is None else rows
        new = draft.outputs[rows] < 0
        draft.outputs[rows[new]] = outputs[new]
        draft.factors[rows[new]] = factor

    def _index(self, role: str, student: int, largest: int, path: str) -> torch.Tensor:
        """For each entry of an axis of the student that of the largest student."""
        try:
            kept = ROLES[role](self._indices, student, largest)
        except ConfigurationError as error:
            self._problems += error.problems
            return torch.zeros(student, dtype=torch.long)
        if len(kept) != student or int(kept.max()) >= largest:
            self._problems.append(
                f"a student must be no larger than the largest of its space in any part, but {path!r} has {student} "
                f"entries in the student, {largest} in the largest; leave the larger values out of the space."
            )
            return torch.zeros(student, dtype=torch.long)
        return kept

    def _finished(self) -> list[Cut]:
        names = {parameter: name for name, parameter in self._pair.teacher.named_parameters()}
        cuts, missing = [], []
        for name, parameter in self._pair.student.named_parameters():
            draft = self._drafts.get(parameter)
            if draft is None or bool((draft.outputs < 0).any()):
                missing.append(name)
            else:
                cuts.append(draft.cut(name, names[draft.source]))
        if missing:
            self._problems.append(
                "every parameter of a student must be named by the table of its family, to be a part of the largest "
                f"student's, but {', '.join(map(repr, missing[:3]))}{' and others are' if missing[3:] else ' is'} not; "
                "leave elastic out, or extend the table."
            )
        _raise_if(list(dict.fromkeys(self._problems)))
        return cuts


@dataclass(frozen=True)
class _Indices:
    """The entries that a student keeps of an axis of each role, given the sizes of both models' heads."""

    student: HeadSizes
    largest: HeadSizes
    rotary: bool

    def first(self, student: int, largest: int) -> torch.Tensor:
        return torch.arange(student)

    def trigram(self, student: int, largest: int) -> torch.Tensor:
        return torch.cat([torch.arange(student // 3) + position * (largest // 3) for position in range(3)])

    @cached_property
    def groups(self) -> list[HeadGroup]:
        """The heads: the first are the most important ones."""
        importance = torch.arange(self.largest.heads, 0, -1, dtype=torch.float64)
        groups = choose_heads(importance, self.largest, self.student)
        if sum(len(group.heads) for group in groups) != self.student.heads:
            raise ConfigurationError(
                "the heads of a student must be among those of the largest of its space, but the student has "
                f"{self.student.heads} heads and {self.student.key_value_heads} key-value heads, the largest "
                f"{self.largest.heads} and {self.largest.key_value_heads}; leave the larger values out of the space."
            )
        return groups

    @property
    def _heads(self) -> torch.Tensor:
        return torch.tensor([head for group in self.groups for head in group.heads])

    @property
    def _key_value_heads(self) -> torch.Tensor:
        return torch.tensor([group.key_value_head for group in self.groups])

    def _channels(self, rotary: bool) -> torch.Tensor:
        student, largest = self.student.channels, self.largest.channels
        if student > largest:
            raise ConfigurationError(
                "the heads of a student must be no larger than those of the largest of its space, but the student's "
                f"have {student} channels, the largest's {largest}; let the number of heads follow from the width."
            )
        return rotary_pairs(largest, student).argmax(1) if rotary and student < largest else torch.arange(student)

    def _spread(self, heads: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
        return (heads[:, None] * self.largest.channels + channels).flatten()

    def heads(self, student: int, largest: int) -> torch.Tensor:
        return self._heads

    def channels(self, student: int, largest: int) -> torch.Tensor:
        return self._channels(self.rotary)

    def queries(self, student: int, largest: int) -> torch.Tensor:
        return self._spread(self._heads, self._channels(self.rotary))

    def keys(self, student: int, largest: int) -> torch.Tensor:
        return self._spread(self._key_value_heads, self._channels(self.rotary))

    def values(self, student: int, largest: int) -> torch.Tensor:
        return self._spread(self._key_value_heads, self._channels(rotary=False))

    def written(self, student: int, largest: int) -> torch.Tensor:
        return self._spread(self._heads, self._channels(rotary=False))


ROLES: Mapping[str, Callable[[_Indices, int, int], torch.Tensor]] = {
    "row": _Indices.first,
    "position": _Indices.first,
    "stream": _Indices.first,
    "embedding": _Indices.first,
    "neuron": _Indices.first,
    "hidden": _Indices.first,
    "head": _Indices.heads,
    "channel": _Indices.channels,
    "query": _Indices.queries,
    "key": _Indices.keys,
    "value": _Indices.values,
    "written": _Indices.written,
}
"""The entries that a student keeps, by the role of an axis."""


def _paired(student: nn.Module, largest: nn.Module, family: WeightTable | None) -> Pairing[Any]:
    """The student and the largest student, whose first channels are the student's stream."""
    _, base, table = require_family(student, family, "student")
    _, largest_base, _ = require_family(largest, family, "teacher")
    width, whole = table.width(base), table.width(largest_base)
    if width is None or whole is None or width > whole:
        raise ConfigurationError(
            "a student must be no wider than the largest of its space, but it has "
            f"{width} channels, the largest {whole}; leave the larger values out of the space."
        )
    first = torch.eye(whole, dtype=torch.float64)[:, :width]
    subspace = TeacherSubspace(torch.zeros(1, whole), first, torch.ones(width), explained=1.0)
    return Pairing.of(student, largest, subspace, family=family)


def _raise_if(problems: list[str]) -> None:
    if problems:
        raise ConfigurationError(problems)
