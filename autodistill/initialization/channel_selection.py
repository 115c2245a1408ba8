"""Students made by selection: the teacher's strongest channels, heads and neurons, for families without true norms.

MobileBERT scales and shifts every channel by itself where others have norms. A rotation does not commute with that, but
there is nothing else in its way: a subspace of whole channels is exact as far as it goes. So P is a selection of
channels, and every weight of the student is one of the teacher's with rows and columns left out. Each axis of each
weight has a *role*, and each role its own selection: the outer stream's is one for the whole model, those of a block's
inner streams, heads and neurons are the block's own. What reads the outer stream takes in the mean of the channels that
are left out.

Source of the family: Sun et al. (2020), MobileBERT, https://arxiv.org/abs/2004.02984.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from autodistill.initialization.heads import strongest
from autodistill.initialization.pairing import Pairing
from autodistill.models.layer_mappings import automatic_mapping
from autodistill.models.weights import join, norm_of, read


def write_selected(pair: Pairing, *, embeddings_only: bool) -> None:
    """Write a student of a family whose table gives the roles of its axes."""
    selection = Selection(pair)
    for site in selection.sites():
        if not embeddings_only or site.module.startswith("embeddings."):
            _write(pair, selection, site)


def selection_problems(pair: Pairing) -> Iterator[str]:
    """What does not fit, a sentence each."""
    subspace = pair.subspace
    one_hot = torch.equal(subspace.directions, (subspace.directions == 1).double())
    if not one_hot or bool((subspace.scale != 1).any()):
        yield (
            "students of this family are selections of channels, so P must be one, and the scale 1; use "
            "decompose(..., selects=True)."
        )
    selection = Selection(pair)
    for name in ("key_query_shared_bottleneck", "use_bottleneck", "use_bottleneck_attention", "trigram_input"):
        wanted = name != "use_bottleneck_attention"
        for owner, config in zip(("student", "teacher"), selection.configs, strict=True):
            if getattr(config, name) is not wanted:
                yield f"init='teacher' needs {name}={wanted} of a MobileBERT, but the {owner} has {not wanted}."
    ours, theirs = (config.num_feedforward_networks for config in selection.configs)
    if ours > theirs:
        yield f"a student's blocks must not have more feed-forward networks than its teacher's, but {ours} > {theirs}."
    parameters = dict(pair.teacher.named_parameters())
    for site in selection.sites():
        given = parameters.get(site.teacher)
        for axis, role in enumerate(site.roles):
            if given is not None and role == "row" and given.shape[axis] != site.parameter.shape[axis]:
                yield (
                    f"rows are taken as they are, so both models must have as many, but {site.student!r} has "
                    f"{site.parameter.shape[axis]} in the student, {given.shape[axis]} in the teacher."
                )


@dataclass(frozen=True)
class Site:
    """One parameter of the student, and where it comes from.

    Args:
        parameter: the student's.
        student: its name.
        teacher: the name of the teacher's.
        module: its module's path in the table.
        block: of the student; None outside of the blocks.
        network: the path of the feed-forward network that it belongs to, in the teacher.
        roles: of its axes.
    """

    parameter: torch.nn.Parameter
    student: str
    teacher: str
    module: str
    block: int | None
    network: str
    roles: tuple[str, ...]


class Selection:
    """Which of the teacher's channels, heads and neurons the student has, by role."""

    def __init__(self, pair: Pairing) -> None:
        self._pair = pair
        self._chosen: dict[tuple[str, str], torch.Tensor] = {}

    @property
    def configs(self) -> tuple[Any, Any]:
        """The student's, and the teacher's."""
        student, teacher = self._pair.base_models
        return student.config, teacher.config

    @cached_property
    def kept(self) -> torch.Tensor:
        """The channels of the outer stream, (d,)."""
        return self._pair.subspace.directions.argmax(0)

    def sites(self) -> Iterator[Site]:
        """Every parameter that the table knows and the teacher has."""
        names = dict(self._pair.teacher.named_parameters(remove_duplicate=False))
        for name, parameter in self._pair.student.named_parameters():
            site = self._site(name, parameter)
            if site is not None and site.teacher in names:
                yield site

    def _site(self, name: str, parameter: torch.nn.Parameter) -> Site | None:
        student, teacher = self._pair.bases
        outer_student, outer_teacher = (base.rpartition(".")[0] for base in (student, teacher))
        inside = name.startswith(f"{student}.") if student else True
        relative = name.removeprefix(f"{student if inside else outer_student}.")
        block, network = None, ""
        found = re.match(rf"{re.escape(self._pair.family.blocks)}\.(\d+)\.(.*)", relative)
        if found:
            block, relative = int(found[1]), found[2]
            ffn = re.match(r"ffn\.(\d+)\.", relative)
            if ffn:
                network = f"ffn.{self._networks[int(ffn[1])]}"
                relative = relative.replace(ffn[0], "ffn.", 1)
        module = relative.rpartition(".")[0]
        roles = (self._pair.family.axes or {}).get(module)
        if roles is None:
            return None
        own = relative.replace("ffn.", f"{network}.", 1) if network else relative
        if block is not None:
            own = f"{self._pair.family.blocks}.{self._pair.layers[block]}.{own}"
        source = join(teacher if inside else outer_teacher, own)
        return Site(parameter, name, source, module, block, network, roles[: parameter.dim()])

    @cached_property
    def _networks(self) -> list[int]:
        own, theirs = (config.num_feedforward_networks - 1 for config in self.configs)
        return automatic_mapping(own, theirs) if own else []

    def of(self, site: Site, axis: int) -> torch.Tensor:
        """The teacher's indices along one axis of a parameter."""
        role, size = self._role(site.roles[axis]), site.parameter.shape[axis]
        if role in ("row", "position"):
            return torch.arange(size)
        where = "" if site.block is None else f"{self._pair.family.blocks}.{self._pair.layers[site.block]}"
        key = (role, join(where, site.network) if role == "neuron" else where if role not in _OF_THE_MODEL else "")
        if key not in self._chosen:
            self._chosen[key] = getattr(self, "_" + role.replace(" ", "_"))(key[1], size)
        return self._chosen[key]

    def reads_stream(self, site: Site) -> bool:
        """Whether the site's module reads the outer stream."""
        inputs = (self._pair.family.axes or {})[site.module][1:]
        return [self._role(role) for role in inputs] == ["stream"] and not site.module.startswith("embeddings.")

    def _role(self, role: str) -> str:
        """A classifier of tokens reads the stream itself: there is no pooling."""
        pooling = any(name.endswith("pooler.dense.weight") for name, _ in self._pair.student.named_parameters())
        return "stream" if role == "pooled" and not pooling else role

    # One method for each role: the teacher's indices, given the path in the base model and the student's number.

    def _stream(self, where: str, size: int) -> torch.Tensor:
        return self.kept

    def _embedding(self, where: str, size: int) -> torch.Tensor:
        return strongest(self._weight("embeddings.word_embeddings").norm(dim=1), self.configs[0].embedding_size)

    def _trigram(self, where: str, size: int) -> torch.Tensor:
        chosen = self._embedding(where, size)
        return torch.cat([chosen + part * self.configs[1].embedding_size for part in range(3)])

    def _other_word(self, where: str, size: int) -> torch.Tensor:
        return strongest(self._outside("cls.predictions.dense").norm(dim=1), size)

    def _word(self, where: str, size: int) -> torch.Tensor:
        chosen, own = self._embedding(where, size), self.configs[0]
        others = self._other_word(where, own.hidden_size - own.embedding_size)
        return torch.cat([chosen, others + self.configs[1].embedding_size])

    def _pooled(self, where: str, size: int) -> torch.Tensor:
        return strongest(self._weight("pooler.dense").norm(dim=1), self.configs[0].hidden_size)

    def _inner(self, where: str, size: int) -> torch.Tensor:
        written = self._scaled_rows(where, "bottleneck.input")
        return strongest(written * self._weight(where, "output.bottleneck.dense").norm(dim=0), size)

    def _shared(self, where: str, size: int) -> torch.Tensor:
        queries, keys = (self._weight(where, f"attention.self.{name}").norm(dim=0) for name in ("query", "key"))
        return strongest(self._scaled_rows(where, "bottleneck.attention") * queries * keys, size)

    def _neuron(self, where: str, size: int) -> torch.Tensor:
        rows = self._weight(where, "intermediate.dense").norm(dim=1)
        return strongest(rows * self._weight(where, "output.dense").norm(dim=0), size)

    def _query(self, where: str, size: int) -> torch.Tensor:
        queries, keys = (self._weight(where, f"attention.self.{name}").norm(dim=1) for name in ("query", "key"))
        return self._channels_of_heads(where, queries * keys)

    def _value(self, where: str, size: int) -> torch.Tensor:
        return self._channels_of_heads(where, self._written(where))

    def _written(self, where: str) -> torch.Tensor:
        values = self._weight(where, "attention.self.value").norm(dim=1)
        written: torch.Tensor = values * self._weight(where, "attention.output.dense").norm(dim=0)
        return written

    def _channels_of_heads(self, where: str, importance: torch.Tensor) -> torch.Tensor:
        """Of the heads that write the most, the channels that matter the most."""
        teacher, student = self._pair.head_sizes
        heads = strongest(self._written(where).reshape(teacher.heads, -1).square().sum(1), student.heads)
        by_head = importance.reshape(teacher.heads, teacher.channels)
        return torch.cat([head * teacher.channels + strongest(by_head[head], student.channels) for head in heads])

    def _scaled_rows(self, where: str, layer: str) -> torch.Tensor:
        gain, _ = norm_of(self._pair.teacher, join(self._pair.bases[1], where, f"{layer}.LayerNorm"))
        scaled: torch.Tensor = self._weight(where, f"{layer}.dense").norm(dim=1) * gain.abs()
        return scaled

    def _weight(self, *path: str) -> torch.Tensor:
        return read(self._pair.teacher, join(self._pair.bases[1], *path)).weight

    def _outside(self, path: str) -> torch.Tensor:
        return read(self._pair.teacher, join(self._pair.bases[1].rpartition(".")[0], path)).weight


_OF_THE_MODEL = ("stream", "embedding", "trigram", "word", "other word", "pooled")


@torch.no_grad()
def _write(pair: Pairing, selection: Selection, site: Site) -> None:
    """Gather a parameter; what the teacher lacks stays as built, and is not read."""
    given = pair.teacher.get_parameter(site.teacher).detach().double().cpu()
    indices = [selection.of(site, axis) for axis in range(given.dim())]
    taken = given[indices[0]] if len(indices) == 1 else given[indices[0][:, None], indices[1]]
    if site.student.endswith(".bias") and selection.reads_stream(site):
        taken = taken + _left_out(pair, selection, site)[indices[0]]
    if site.module == "attention.self.query":
        teacher, student = pair.head_sizes
        taken = taken * (student.channels / teacher.channels) ** 0.5
    site.parameter[: len(taken)] = 0
    site.parameter[tuple(slice(size) for size in taken.shape)] = taken.to(site.parameter)
    pair.written.add(site.parameter)


def _left_out(pair: Pairing, selection: Selection, site: Site) -> torch.Tensor:
    """What the mean of the channels that are left out adds where the outer stream is read, (outputs,)."""
    behind = len(pair.layers) if site.block is None else site.block  # so many of the student's blocks come before
    boundary = pair.layers[behind - 1] + 1 if behind else 0
    mean = pair.subspace.mean(boundary).clone()
    mean[selection.kept] = 0
    return read(pair.teacher, site.teacher.removesuffix(".bias")).weight @ mean
