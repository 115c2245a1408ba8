"""Students made by selection of the teacher's strongest channels, heads and neurons, for families without norms.

MobileBERT scales and shifts each channel separately where other families have norms. A rotation does not commute with
that, but a selection of channels does, and it is exact for the channels that it keeps. Therefore P is a selection of
channels, and every weight of the student is a weight of the teacher without some rows and columns. Each axis of each
weight has a *role*, and each role has its own selection: the outer stream has one for the whole model; the inner
streams, heads and neurons have one for each block. The maps that read the outer stream absorb the mean of the channels
that are left out.

Source of the family: Sun et al. (2020), MobileBERT, https://arxiv.org/abs/2004.02984.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import nn

from autodistill.initialization.checks import (
    boundary_problems,
    embedding_problems,
    layer_problems,
    missing_embeddings,
)
from autodistill.initialization.importance import Kind
from autodistill.initialization.pairing import Both, Pairing
from autodistill.initialization.start_method import Fitted, StartMethod
from autodistill.models.families import ChannelFamily
from autodistill.models.layer_mappings import automatic_mapping
from autodistill.models.weights import Affine, join, norm_of, read


class ChannelSelection(StartMethod[ChannelFamily]):
    """For families that scale and shift each channel separately."""

    def importance_problem(self, setting: str, model: nn.Module) -> str | None:
        if setting in ("auto", "weights"):
            return None
        return (
            f"init.importance must be 'auto' or 'weights' for a {type(model).__name__}, whose students are selections "
            f"of channels, but is {setting!r}."
        )

    def importance(self, setting: str) -> Kind | None:
        return None

    def least_squares(self, setting: str, teacher: nn.Module) -> Fitted:
        return "none"

    def subspace_problems(self, pair: Pairing[ChannelFamily]) -> Iterator[str]:
        yield from boundary_problems(pair)

    def problems(self, pair: Pairing[ChannelFamily]) -> list[str]:
        problems = [*layer_problems(pair)] or [*missing_embeddings(pair)]
        problems += embedding_problems(pair)
        return problems or [*selection_problems(pair)]

    def lost_weights(self, pair: Pairing[ChannelFamily]) -> Iterator[str]:
        yield from ()

    def write(self, pair: Pairing[ChannelFamily], *, embeddings_only: bool) -> None:
        selection = Selection(pair)
        for site in selection.sites():
            if not embeddings_only or site.module.startswith("embeddings."):
                _write(pair, selection, site)

    def matcher(self, pair: Pairing[ChannelFamily]) -> Affine:
        return Affine(pair.subspace.up, pair.subspace.mean(pair.boundary(len(pair.layers))))


def selection_problems(pair: Pairing[ChannelFamily]) -> Iterator[str]:
    """A sentence for each mismatch."""
    subspace = pair.subspace
    one_hot = torch.equal(subspace.directions, (subspace.directions == 1).double())
    if not one_hot or bool((subspace.scale != 1).any()):
        yield (
            "students of this family are selections of channels, so P must be one, and the scale 1; use "
            "decompose(..., selects=True)."
        )
    selection = Selection(pair)
    configs = selection.configs
    for name in ("key_query_shared_bottleneck", "use_bottleneck", "use_bottleneck_attention", "trigram_input"):
        required = name != "use_bottleneck_attention"
        for owner, config in (("student", configs.student), ("teacher", configs.teacher)):
            if getattr(config, name) is not required:
                yield f"init='teacher' needs {name}={required} of a MobileBERT, but the {owner} has {not required}."
    networks = Both(configs.student.num_feedforward_networks, configs.teacher.num_feedforward_networks)
    if networks.student > networks.teacher:
        yield (
            "a student's blocks must not have more feed-forward networks than its teacher's, but "
            f"{networks.student} > {networks.teacher}."
        )
    parameters = dict(pair.teacher.named_parameters())
    for site in selection.sites():
        source = parameters.get(site.teacher)
        for axis, role in enumerate(site.roles):
            if source is not None and role == "row" and source.shape[axis] != site.parameter.shape[axis]:
                yield (
                    f"rows are copied unchanged, so both models must have as many, but {site.student!r} has "
                    f"{site.parameter.shape[axis]} in the student, {source.shape[axis]} in the teacher."
                )


@dataclass(frozen=True)
class Site:
    """One parameter of the student, and the parameter of the teacher that it comes from.

    Args:
        parameter: the parameter of the student.
        student: its name in the student.
        teacher: the name of the teacher's parameter.
        module: the path of its module in the table.
        block: the position of the student's block; None outside of the blocks.
        network: the teacher's path of the feed-forward network that it belongs to.
        roles: the roles of its axes.
    """

    parameter: torch.nn.Parameter
    student: str
    teacher: str
    module: str
    block: int | None
    network: str
    roles: tuple[str, ...]


class Selection:
    """The teacher's channels, heads and neurons that the student keeps, by role."""

    def __init__(self, pair: Pairing[ChannelFamily]) -> None:
        self._pair = pair
        self._chosen: dict[tuple[str, str, int], torch.Tensor] = {}

    @property
    def configs(self) -> Both[Any]:
        """The two configurations."""
        bases = self._pair.base_models
        return Both(bases.student.config, bases.teacher.config)

    @cached_property
    def kept(self) -> torch.Tensor:
        """The channels of the outer stream, (d,)."""
        return self._pair.subspace.directions.argmax(0)

    def sites(self) -> Iterator[Site]:
        """Every parameter that the table lists and the teacher has."""
        names = dict(self._pair.teacher.named_parameters(remove_duplicate=False))
        for name, parameter in self._pair.student.named_parameters():
            site = self._site(name, parameter)
            if site is not None and site.teacher in names:
                yield site

    def _site(self, name: str, parameter: torch.nn.Parameter) -> Site | None:
        family, paths = self._pair.family, self._pair.base_paths
        inside = name.startswith(f"{paths.student}.") if paths.student else True
        owners = paths if inside else Both(paths.student.rpartition(".")[0], paths.teacher.rpartition(".")[0])
        relative = name.removeprefix(f"{owners.student}.")
        block, network = None, ""
        found = re.match(rf"{re.escape(family.blocks)}\.(\d+)\.(.*)", relative)
        if found:
            block, relative = int(found[1]), found[2]
            ffn = re.match(r"ffn\.(\d+)\.", relative)
            if ffn:
                network = f"ffn.{self._networks[int(ffn[1])]}"
                relative = relative.replace(ffn[0], "ffn.", 1)
        module = relative.rpartition(".")[0]
        roles = family.axes.get(module)
        if roles is None:
            return None
        source = relative.replace("ffn.", f"{network}.", 1) if network else relative
        if block is not None:
            source = f"{family.blocks}.{self._pair.layers[block]}.{source}"
        source = join(owners.teacher, source)
        return Site(parameter, name, source, module, block, network, roles[: parameter.dim()])

    @cached_property
    def _networks(self) -> list[int]:
        configs = self.configs
        of_student, of_teacher = (one.num_feedforward_networks - 1 for one in (configs.student, configs.teacher))
        return automatic_mapping(of_student, of_teacher) if of_student else []

    def of(self, site: Site, axis: int) -> torch.Tensor:
        """The teacher's indices along one axis of a parameter."""
        role, size = self._role(site.roles[axis]), site.parameter.shape[axis]
        rule = SELECTIONS[role]
        block = "" if site.block is None else f"{self._pair.family.blocks}.{self._pair.layers[site.block]}"
        where = {"model": "", "block": block, "network": join(block, site.network)}[rule.scope]
        key = (role, where, size)
        if key not in self._chosen:
            self._chosen[key] = rule.choose(self, where, size)
        return self._chosen[key]

    def reads_stream(self, site: Site) -> bool:
        """Whether the site's module reads the outer stream."""
        inputs = self._pair.family.axes[site.module][1:]
        return [self._role(role) for role in inputs] == ["stream"] and not site.module.startswith("embeddings.")

    def _role(self, role: str) -> str:
        """The role; without a pooler, as in a classifier of tokens, the classifier reads the stream itself."""
        pooling = any(name.endswith("pooler.dense.weight") for name, _ in self._pair.student.named_parameters())
        return "stream" if role == "pooled" and not pooling else role

    # One method for each role. It receives the path in the base model and the student's size, and returns the teacher's
    # indices.

    def rows(self, where: str, size: int) -> torch.Tensor:
        return torch.arange(size)

    def stream(self, where: str, size: int) -> torch.Tensor:
        return self.kept

    def embedding(self, where: str, size: int) -> torch.Tensor:
        return self._pair.strongest(
            self._weight("embeddings.word_embeddings").norm(dim=1), self.configs.student.embedding_size
        )

    def trigram(self, where: str, size: int) -> torch.Tensor:
        chosen = self.embedding(where, size)
        return torch.cat([chosen + part * self.configs.teacher.embedding_size for part in range(3)])

    def other_word(self, where: str, size: int) -> torch.Tensor:
        return self._pair.strongest(self._outside("cls.predictions.dense").norm(dim=1), size)

    def word(self, where: str, size: int) -> torch.Tensor:
        chosen, config = self.embedding(where, size), self.configs.student
        others = self.other_word(where, config.hidden_size - config.embedding_size)
        return torch.cat([chosen, others + self.configs.teacher.embedding_size])

    def pooled(self, where: str, size: int) -> torch.Tensor:
        return self._pair.strongest(self._weight("pooler.dense").norm(dim=1), self.configs.student.hidden_size)

    def inner(self, where: str, size: int) -> torch.Tensor:
        written = self._scaled_rows(where, "bottleneck.input")
        return self._pair.strongest(written * self._weight(where, "output.bottleneck.dense").norm(dim=0), size)

    def shared(self, where: str, size: int) -> torch.Tensor:
        queries, keys = (self._weight(where, f"attention.self.{name}").norm(dim=0) for name in ("query", "key"))
        return self._pair.strongest(self._scaled_rows(where, "bottleneck.attention") * queries * keys, size)

    def neuron(self, where: str, size: int) -> torch.Tensor:
        rows = self._weight(where, "intermediate.dense").norm(dim=1)
        return self._pair.strongest(rows * self._weight(where, "output.dense").norm(dim=0), size)

    def query(self, where: str, size: int) -> torch.Tensor:
        queries, keys = (self._weight(where, f"attention.self.{name}").norm(dim=1) for name in ("query", "key"))
        return self._channels_of_heads(where, queries * keys)

    def value(self, where: str, size: int) -> torch.Tensor:
        return self._channels_of_heads(where, self._written(where))

    def _written(self, where: str) -> torch.Tensor:
        values = self._weight(where, "attention.self.value").norm(dim=1)
        written: torch.Tensor = values * self._weight(where, "attention.output.dense").norm(dim=0)
        return written

    def _channels_of_heads(self, where: str, importance: torch.Tensor) -> torch.Tensor:
        """The most important channels of the heads that write the most."""
        sizes = self._pair.head_sizes
        teacher, student = sizes.teacher, sizes.student
        heads = self._pair.strongest(self._written(where).reshape(teacher.heads, -1).square().sum(1), student.heads)
        by_head = importance.reshape(teacher.heads, teacher.channels)
        return torch.cat(
            [head * teacher.channels + self._pair.strongest(by_head[head], student.channels) for head in heads]
        )

    def _scaled_rows(self, where: str, layer: str) -> torch.Tensor:
        gain, _ = norm_of(self._pair.teacher, join(self._pair.base_paths.teacher, where, f"{layer}.LayerNorm"))
        scaled: torch.Tensor = self._weight(where, f"{layer}.dense").norm(dim=1) * gain.abs()
        return scaled

    def _weight(self, *path: str) -> torch.Tensor:
        return read(self._pair.teacher, join(self._pair.base_paths.teacher, *path)).weight

    def _outside(self, path: str) -> torch.Tensor:
        return read(self._pair.teacher, join(self._pair.base_paths.teacher.rpartition(".")[0], path)).weight


@dataclass(frozen=True)
class Rule:
    """How the entries of one axis are chosen.

    Args:
        choose: `(selection, path, size) -> indices` of the teacher, from the path of a block or feed-forward network in
            the base model and the student's size.
        scope: whether one selection serves the whole model, or each block or feed-forward network has its own.
    """

    choose: Callable[[Selection, str, int], torch.Tensor]
    scope: Literal["model", "block", "network"]


SELECTIONS: Mapping[str, Rule] = {
    "row": Rule(Selection.rows, "model"),
    "position": Rule(Selection.rows, "model"),
    "stream": Rule(Selection.stream, "model"),
    "embedding": Rule(Selection.embedding, "model"),
    "trigram": Rule(Selection.trigram, "model"),
    "word": Rule(Selection.word, "model"),
    "other word": Rule(Selection.other_word, "model"),
    "pooled": Rule(Selection.pooled, "model"),
    "inner": Rule(Selection.inner, "block"),
    "shared": Rule(Selection.shared, "block"),
    "query": Rule(Selection.query, "block"),
    "value": Rule(Selection.value, "block"),
    "neuron": Rule(Selection.neuron, "network"),
}
"""The selections by role of an axis, as the tables of families name the roles."""


@torch.no_grad()
def _write(pair: Pairing[ChannelFamily], selection: Selection, site: Site) -> None:
    """Copy the selected entries of a parameter; entries that the teacher lacks stay as built, and are not read."""
    source = pair.teacher.get_parameter(site.teacher).detach().double().cpu()
    indices = [selection.of(site, axis) for axis in range(source.dim())]
    taken = source[indices[0]] if len(indices) == 1 else source[indices[0][:, None], indices[1]]
    if site.student.endswith(".bias") and selection.reads_stream(site):
        taken = taken + _left_out(pair, selection, site)[indices[0]]
    if site.module == "attention.self.query":
        sizes = pair.head_sizes
        taken = taken * (sizes.student.channels / sizes.teacher.channels) ** 0.5
    site.parameter[: len(taken)] = 0
    site.parameter[tuple(slice(size) for size in taken.shape)] = taken.to(site.parameter)
    pair.written.add(site.parameter)


def _left_out(pair: Pairing[ChannelFamily], selection: Selection, site: Site) -> torch.Tensor:
    """What the mean of the channels that are left out adds to a map that reads the outer stream, (outputs,)."""
    blocks_before = len(pair.layers) if site.block is None else site.block
    mean = pair.subspace.mean(pair.boundary(blocks_before)).clone()
    mean[selection.kept] = 0
    return read(pair.teacher, site.teacher.removesuffix(".bias")).weight @ mean
