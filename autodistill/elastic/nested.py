"""Nested students: how the parameters of a smaller student are cut out of those of the largest one.

In the subspace of the teacher's stream all widths are nested: the stream of a student of width d is the first d
principal directions. Heads, channels of heads and neurons are ordered by importance, and blocks are spread evenly. So
every axis of every weight has a *role*, and a smaller student keeps a selection of the entries of that role.

Related work: Cai et al. (2020), Once-for-All, https://arxiv.org/abs/1908.09791; Yu et al. (2020), BigNAS,
https://arxiv.org/abs/2003.11142; Devvrit et al. (2023), MatFormer, https://arxiv.org/abs/2310.07707.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from autodistill.errors import ConfigurationError, LayerNotFoundError, raise_problems
from autodistill.initialization.agreement import other_settings
from autodistill.initialization.channel_selection import Selection, Site
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
from autodistill.models.layer_mappings import automatic_mapping
from autodistill.models.weights import Located, Part, has, join, locate, part, shape


@dataclass(frozen=True)
class Cut:
    """How one parameter of a student is cut out of a parameter of the largest student.

    Attributes:
        name: of the student's parameter.
        source: the name of the largest student's parameter.
        axes: for each axis the entries that are kept, or None for all.
        factor: multiplies the first or last axis, whichever is that of the outputs; None for 1.
    """

    name: str
    source: str
    axes: tuple[torch.Tensor | None, ...]
    factor: torch.Tensor | None = None

    @cached_property
    def _narrowed(self) -> set[int]:
        """The axes of which the first entries are kept."""
        return {axis for axis, kept in enumerate(self.axes) if kept is not None and _is_prefix(kept)}

    def take(self, whole: torch.Tensor) -> torch.Tensor:
        """The student's values, as a tensor of its own."""
        taken = whole
        for axis, kept in enumerate(self.axes):
            if kept is None:
                continue
            if axis in self._narrowed:
                taken = taken.narrow(axis, 0, len(kept))
            else:
                taken = taken.index_select(axis, kept.to(whole.device))
        if self.factor is not None:
            return taken * self.factor.to(taken)
        return taken.clone(memory_format=torch.contiguous_format)

    def add_(self, whole: torch.Tensor, change: torch.Tensor) -> None:
        """Add to the entries of `whole` that `take` reads what changes by `change`: the transpose of `take`."""
        if self.factor is not None:
            change = change * self.factor.to(change)
        target, selected = whole, []
        for axis, kept in enumerate(self.axes):
            if axis in self._narrowed and kept is not None:
                target = target.narrow(axis, 0, len(kept))
            elif kept is not None:
                selected.append((axis, kept.to(change.device)))
        if not selected:
            target += change
            return
        (first, entries), *rest = selected
        for axis, kept in rest:  # entries may repeat: a key that two heads of the student read
            shape = list(change.shape)
            shape[axis] = target.shape[axis]
            change = torch.zeros(shape, dtype=change.dtype, device=change.device).index_add_(axis, kept, change)
        target.index_add_(first, entries, change)


def _is_prefix(kept: torch.Tensor) -> bool:
    return bool((kept == torch.arange(len(kept))).all())


@dataclass
class _Draft:
    """A cut that is put together from the maps that share the parameter.

    Args:
        source: the parameter of the largest student.
        axes: for each axis and entry of the student's parameter that of the largest student; -1 while it is not known.
        factor_axis: the axis whose entries `factors` multiplies: that of the outputs.
        factors: by which they are multiplied, float64.
    """

    source: nn.Parameter
    axes: list[torch.Tensor]
    factor_axis: int
    factors: torch.Tensor

    @property
    def complete(self) -> bool:
        return all(bool((kept >= 0).all()) for kept in self.axes)

    def set(self, axis: int, rows: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
        """Note where entries come from; those that are known already stay. Returns which of them are new."""
        new = self.axes[axis][rows] < 0
        self.axes[axis][rows[new]] = kept[new]
        return new

    def cut(self, name: str, source: str) -> Cut:
        axes = tuple(_or_all(one, size) for one, size in zip(self.axes, self.source.shape, strict=True))
        factor = None
        if bool((self.factors != 1).any()):
            shape = [1] * len(self.axes)
            shape[self.factor_axis] = -1
            factor = self.factors.reshape(shape)
        return Cut(name, source, axes, factor)


def _or_all(kept: torch.Tensor, size: int) -> torch.Tensor | None:
    """The entries that are kept of an axis; None if these are all of them in order."""
    return None if len(kept) == size and _is_prefix(kept) else kept


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
        pair = self._pair = _paired(student, largest, family)
        self._problems = [*_size_problems(pair)]
        self._too_large: set[tuple[str, int, int]] = set()
        self._drafts: dict[nn.Parameter, _Draft] = {}
        if not self._problems:  # they compare widths themselves
            self._problems += map(_of_largest, start_method(pair.family).problems(pair))
        self._problems += _setting_problems(pair)
        self._problems += _tie_problems(pair)
        try:
            self._add_all()
        except LayerNotFoundError:
            raise_problems(self._problems)  # those of the table are among them
            raise
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
        sizes, bases = self._pair.head_sizes, self._pair.base_models
        embeddings = [getattr(getattr(base, "config", None), "embedding_size", 0) for base in bases.by_owner.values()]
        return _Indices(sizes.student, sizes.teacher, self._pair.family.rotary, Both(embeddings[1], embeddings[0]))

    def _add_all(self) -> None:
        family = self._pair.family
        if isinstance(family, ChannelFamily):
            self._add_sites()
        else:
            self._add_embeddings(family)
            for block in range(len(self._pair.layers)):
                self._add_block(family, block)
            if family.final_norm is not None:
                self._add_norm(self._pair.weight(family.final_norm))
            for output in outputs_of(self._pair):
                self._add_output(output)
        if self._head is not None:
            head = Both(Part(self._head), Part(self._head))
            self._problems += _head_problems(self._pair, head)
            self._add_if_present(head, "row", "stream")

    def _add_block(self, family: Family, block: int) -> None:
        for unit in family.parts:
            self._add_norm(self._pair.weight(unit.norm, block))
            if unit.scale is not None:
                self._add_norm(self._pair.weight(unit.scale, block))
            if isinstance(unit, Attention):
                self._add_attention(unit, block)
            else:
                self._add_feed_forward(unit, block)

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
            table = pair.weight(unit.position_table, block)
            if not pair.has_weight(table).teacher:  # the table of the first block serves all of them
                table = Both(table.student, pair.teacher_weight(unit.position_table, 0))
            self._add_if_present(table, "head", "row")

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
        names = dict(self._pair.teacher.named_parameters(remove_duplicate=False))
        selection = Selection(self._pair)
        for site in selection.sites():
            student, largest = site.parameter, names[site.teacher]
            kept = [
                self._index(role, student.shape[axis], largest.shape[axis], site.student)
                for axis, role in enumerate(site.roles)
            ]
            self._draft(Both(student, largest), kept, 0, factor=self._score_factor(site))

    def _score_factor(self, site: Site) -> float:
        sizes = self._pair.head_sizes
        return (sizes.student.channels / sizes.teacher.channels) ** 0.5 if site.module == "attention.self.query" else 1

    # --- drafts ---

    def _add_if_present(self, weight: Both[Part], outputs: str, inputs: str, *, factor: float = 1.0) -> None:
        if self._pair.in_both(weight):
            self._add(weight, outputs, inputs, factor=factor)

    def _add(self, weight: Both[Part], outputs: str, inputs: str, *, factor: float = 1.0, reads: int = 1) -> None:
        """Add a map and its bias: the roles of its outputs and of its inputs."""
        pair = self._pair
        found = Both(locate(pair.student, weight.student), locate(pair.teacher, weight.teacher))
        (count, size), (largest_count, largest_size) = pair.shapes(weight).student, pair.shapes(weight).teacher
        path = weight.student.path
        size, largest_size = size // reads, largest_size // reads
        of_outputs = found.teacher.rows[self._index(outputs, count, largest_count, path)]
        of_inputs = self._index(inputs, size, largest_size, path)
        of_inputs = torch.cat([of_inputs + position * largest_size for position in range(reads)])
        kept, axis = _by_axis(found.student, of_outputs, of_inputs)
        rows = found.student.rows
        weights = Both(found.student.weight, found.teacher.weight)
        self._draft(weights, kept, axis, factor=factor, rows=rows)
        if found.student.bias is not None and found.teacher.bias is not None:
            biases = Both(found.student.bias, found.teacher.bias)
            self._draft(biases, [of_outputs], 0, factor=factor, rows=rows)

    def _add_norm(self, norm: Both[Part], role: str = "stream", factor: float = 1.0) -> None:
        """Add the gain and the bias of a norm."""
        if not self._pair.in_both(norm):
            return
        found = Both(locate(self._pair.student, norm.student), locate(self._pair.teacher, norm.teacher))
        for name in ("weight", "bias"):
            parameters = Both(getattr(found.student, name), getattr(found.teacher, name))
            if parameters.student is not None and parameters.teacher is not None:
                kept = self._index(role, len(parameters.student), len(parameters.teacher), norm.student.path)
                self._draft(parameters, [kept], 0, factor=factor)

    def _draft(
        self,
        parameters: Both[nn.Parameter],
        kept: Sequence[torch.Tensor],
        outputs_axis: int,
        *,
        factor: float,
        rows: torch.Tensor | None = None,
    ) -> None:
        """Note where entries of a parameter come from.

        A parameter may hold several maps, each with some of its outputs, and may be named several times (tied weights).

        Args:
            parameters: of the student and of the largest student.
            kept: for each axis the entries of the largest student's.
            outputs_axis: the axis of the outputs.
            factor: multiplies these outputs.
            rows: the entries of the axis of the outputs; by default all.
        """
        student = parameters.student
        draft = self._drafts.get(student)
        if draft is None:
            unknown = [torch.full((size,), -1) for size in student.shape]
            factors = torch.ones(student.shape[outputs_axis], dtype=torch.float64)
            draft = _Draft(parameters.teacher, unknown, outputs_axis, factors)
            self._drafts[student] = draft
        for axis, entries in enumerate(kept):
            own = rows if axis == outputs_axis and rows is not None else torch.arange(student.shape[axis])
            new = draft.set(axis, own, entries)
            if axis == outputs_axis == draft.factor_axis:
                draft.factors[own[new]] = factor

    def _index(self, role: str, student: int, largest: int, path: str) -> torch.Tensor:
        """For each entry of an axis of the student that of the largest student."""
        none = torch.zeros(student, dtype=torch.long)
        try:
            kept = ROLES[role](self._indices, student, largest)
        except ConfigurationError as error:
            self._problems += error.problems
            return none
        if len(kept) == student and int(kept.max()) < largest:
            return kept
        if (role, student, largest) not in self._too_large:
            self._too_large.add((role, student, largest))
            self._problems.append(
                f"a student must be no larger than the largest of its space in any part, but {path!r} has {student} "
                f"entries in the student, {largest} in the largest; leave the larger values out of the space."
            )
        return none

    def _finished(self) -> list[Cut]:
        names = {parameter: name for name, parameter in self._pair.teacher.named_parameters()}
        cuts, missing = [], []
        for name, parameter in self._pair.student.named_parameters():
            draft = self._drafts.get(parameter)
            if draft is not None and draft.complete:
                cuts.append(draft.cut(name, names[draft.source]))
            elif draft is None and self._is_apart(name, parameter):
                cuts.append(Cut(name, name, (None,)))
            else:
                missing.append(name)
        if missing:
            self._problems.append(
                "every parameter of a student must be named by the table of its family, and be in the largest student "
                f"too, but {', '.join(map(repr, missing[:3]))}{' and others' if missing[3:] else ''} "
                f"{'are' if missing[1:] else 'is'} not; leave elastic out, or extend the table."
            )
        raise_problems(self._problems)
        return cuts

    def _is_apart(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether a parameter is a vector outside of the blocks that the sizes of students do not change.

        Such as a bias of a prediction head that is read by nothing if weights are not tied.
        """
        blocks = join(self._pair.base_paths.student, self._pair.family.blocks)
        other = dict(self._pair.teacher.named_parameters()).get(name)
        same = other is not None and other.shape == parameter.shape and parameter.dim() == 1
        return same and len(parameter) != self.width and not name.startswith(f"{blocks}.")


def _by_axis(found: Located, outputs: torch.Tensor, inputs: torch.Tensor) -> tuple[list[torch.Tensor], int]:
    """What is kept of each axis of a parameter as it is stored, and which axis is that of the outputs."""
    sizes = found.weight.shape
    last = len(sizes) - 1
    axis = last if found.transposed else 0
    kept = [torch.arange(size) for size in sizes]  # the inputs of a convolution are three axes
    kept[axis] = outputs
    if len(sizes) == 2:
        kept[1 - axis] = inputs
    return kept, axis


@dataclass(frozen=True)
class _Indices:
    """The entries that a student keeps of an axis of each role.

    Args:
        student: the sizes of the student's heads.
        largest: those of the largest student's.
        rotary: whether queries and keys are rotated in pairs of channels.
        embeddings: the widths of embeddings that are narrower than the stream (MobileBERT).
    """

    student: HeadSizes
    largest: HeadSizes
    rotary: bool
    embeddings: Both[int]

    def first(self, student: int, largest: int) -> torch.Tensor:
        return torch.arange(student)

    def trigram(self, student: int, largest: int) -> torch.Tensor:
        return torch.cat([torch.arange(student // 3) + position * (largest // 3) for position in range(3)])

    def word(self, student: int, largest: int) -> torch.Tensor:
        own, whole = self.embeddings.student, self.embeddings.teacher
        return torch.cat([torch.arange(own), torch.arange(student - own) + whole])

    @cached_property
    def groups(self) -> list[HeadGroup]:
        """The heads: the first are the most important ones."""
        importance = torch.arange(self.largest.heads, 0, -1, dtype=torch.float64)
        groups = choose_heads(importance, self.largest, self.student)
        if sum(len(group.heads) for group in groups) != self.student.heads:
            raise ConfigurationError(
                "the heads of a student must be among those of the largest of its space, but the student has "
                f"{self.student.heads} heads and {self.student.key_value_heads} key-value heads, the largest "
                f"{self.largest.heads} and {self.largest.key_value_heads}; leave out the larger values, or "
                "those with more heads for each key-value head."
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
    "trigram": _Indices.trigram,
    "word": _Indices.word,
    "other word": _Indices.first,
    "pooled": _Indices.first,
    "inner": _Indices.first,
    "shared": _Indices.first,
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
    _, largest_base, largest_table = require_family(largest, family, "largest student")
    if table is not largest_table:
        raise ConfigurationError(
            "a student must be of the family of the largest of its space, but it is a "
            f"{type(base).__name__}, the largest a {type(largest_base).__name__}; build all students of one family."
        )
    width, whole = table.width(base), table.width(largest_base)
    if width is None or whole is None:
        raise ConfigurationError(
            "a model must have one of the embeddings that the table of its family names, but the "
            f"{'student' if width is None else 'largest student'} has none of "
            f"{', '.join(repr(part(spec).path) for spec in table.embeddings)}; fix the table."
        )
    width = min(width, whole)  # `_size_problems` refuses a wider student
    first = torch.eye(whole, dtype=torch.float64)[:, :width]
    subspace = TeacherSubspace(torch.zeros(1, whole), first, torch.ones(width), explained=1.0)
    layers = _spread_layers(table.kinds(base), table.kinds(largest_base))
    return Pairing.of(student, largest, subspace, layers=layers, family=family)


def _spread_layers(student: Sequence[object], largest: Sequence[object]) -> list[int] | None:
    """For each block of the student one of the largest's of the same kind, in order, spread as evenly as possible.

    Returns:
        None if there are no such blocks.
    """
    if len(student) > len(largest):
        return None
    even = automatic_mapping(len(student), len(largest))
    # best[layer]: the smallest distance from an even spread of the blocks so far that end at this layer or before it.
    best: list[tuple[float, list[int]]] = [(0.0, [])] * (len(largest) + 1)
    for kind, target in zip(student, even, strict=True):
        ending: list[tuple[float, list[int]]] = [(float("inf"), [])]
        for layer, known in enumerate(largest):
            distance, chosen = best[layer]
            here = (distance + abs(layer - target), [*chosen, layer]) if known == kind else ending[0]
            ending.append(min(ending[-1], here, key=lambda one: one[0]))
        best = ending
    distance, chosen = best[-1]
    return chosen if distance < float("inf") else None


def _size_problems(pair: Pairing[Any]) -> Iterator[str]:
    """A student must be neither wider nor deeper than the largest one."""
    bases = pair.base_models
    widths = Both(pair.family.width(bases.student), pair.family.width(bases.teacher))
    if widths.student > widths.teacher:
        yield (
            "a student must be no wider than the largest of its space, but it has "
            f"{widths.student} channels, the largest {widths.teacher}; leave the larger values out of the space."
        )
    depths = pair.depths
    if depths.student > depths.teacher:
        yield (
            "a student must be no deeper than the largest of its space, but it has "
            f"{depths.student} blocks, the largest {depths.teacher}; leave the larger values out of the space."
        )
    elif _spread_layers(pair.family.kinds(bases.student), pair.family.kinds(bases.teacher)) is None:
        yield (
            "every block of a student must be a block of the largest of its space, of the same kind (its norms, and "
            f"what it attends to), but its {depths.student} blocks are not found in order among the "
            f"{depths.teacher} of the largest; build students whose blocks are of the kinds of the largest's."
        )


def _setting_problems(pair: Pairing[Any]) -> Iterator[str]:
    for text in other_settings(pair):
        yield (
            "a student must compute as the largest of its space does, but "
            f"{_of_largest(text).removesuffix('.')}; leave the setting out of the space."
        )


def _of_largest(text: str) -> str:
    """A sentence about a student and its teacher, as one about a student and the largest one."""
    for old, new in (("its teacher", "the largest student"), ("the teacher", "the largest student")):
        text = text.replace(old, new)
    return text.replace("leave init out", "leave elastic out").replace("init='teacher'", "elastic")


def _head_problems(pair: Pairing[Any], head: Both[Part]) -> Iterator[str]:
    for owner, name in (("student", "student"), ("teacher", "largest student")):
        if not has(pair.models.by_owner[owner], head.by_owner[owner]):
            yield (
                f"projection_head must be the path of a linear layer of all students, but the {name} has none at "
                f"{head.student.path!r}; fix the path, or add the layer to the model."
            )


_Name = tuple[int | None, str]
"""The position of a block of the largest student, or None, and the path from there."""


def _tie_problems(pair: Pairing[Any]) -> Iterator[str]:
    """What is one parameter in the student must be one in the largest, and the other way round; blocks share none."""
    of_student, of_largest = _names(pair, "student"), _names(pair, "teacher")
    for named, owner in ((of_student, "student"), (of_largest, "largest student")):
        for names in _aliases(named).values():
            if len({block for block, _ in names} - {None}) > 1:
                yield (
                    "the blocks of a student must have parameters of their own, since smaller students leave blocks "
                    f"out, but in the {owner} {_listed(named, names)} are one parameter; leave elastic out."
                )
                return
    both = of_student.keys() & of_largest.keys()
    for one, other, owner in ((of_student, of_largest, "student"), (of_largest, of_student, "largest student")):
        for names in _aliases({name: one[name] for name in one if name in both}).values():
            if len({other[name][1] for name in names}) > 1:
                yield (
                    "weights must be tied in all students of a space, or in none, but only in the "
                    f"{owner} {_listed(one, names)} are one parameter; set tie_word_embeddings alike for all."
                )


def _names(pair: Pairing[Any], owner: str) -> dict[_Name, tuple[str, nn.Parameter]]:
    """All names of the parameters of a model, with tied ones: the name in both models, then that in its own."""
    base = pair.base_paths.by_owner[owner]
    blocks = join(base, pair.family.blocks) + "."
    found: dict[_Name, tuple[str, nn.Parameter]] = {}
    for name, parameter in pair.models.by_owner[owner].named_parameters(remove_duplicate=False):
        block, rest = None, name.removeprefix(f"{base}.") if base else name
        if name.startswith(blocks):
            number, _, rest = name.removeprefix(blocks).partition(".")
            block = pair.layers[int(number)] if owner == "student" else int(number)
        found[block, rest] = name, parameter
    return found


def _aliases(named: Mapping[_Name, tuple[str, nn.Parameter]]) -> dict[nn.Parameter, list[_Name]]:
    """The names of each parameter."""
    found: dict[nn.Parameter, list[_Name]] = {}
    for name, (_, parameter) in named.items():
        found.setdefault(parameter, []).append(name)
    return found


def _listed(named: Mapping[_Name, tuple[str, nn.Parameter]], names: Sequence[_Name]) -> str:
    return " and ".join(repr(named[name][0]) for name in names)
