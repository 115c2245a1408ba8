"""The layer mappings by default: hidden states; in transformers' models also attention and embeddings.

Every row of the student's blocks (an encoder's, a decoder's, a second tower's) is paired with the corresponding row of
the teacher's. Block i of n in a row is paired with block `ceil((i + 1) * m / n) - 1` of the m in the teacher's row, and
their hidden states are compared by normalised squared error. If both models compute attention probabilities with
equally many heads, those of a pair of blocks are compared by Kullback-Leibler divergence. The embeddings of a row are
trained with its first block, and the input of that block is compared with the input of the first block in the teacher's
row, unless the configuration names the blocks, which then are all that is trained.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError
from autodistill.losses.functions import are_probabilities
from autodistill.models.blocks import block_rows
from autodistill.models.calls import removing
from autodistill.models.families import FAMILIES
from autodistill.models.layer_mappings import LayerMapping, automatic_mapping
from autodistill.models.modes import frozen, plain_forward
from autodistill.models.module_paths import find_module, is_inside
from autodistill.models.taps import AUTO, INPUT, Tap
from search_spaces import SearchSpace

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutomaticStage:
    """One stage of the automatic mapping.

    Attributes:
        blocks: the paths of the trained modules.
        mappings: the pairs of layers.
        loss_types: of each mapping; None if the configuration determines them.
    """

    blocks: tuple[str, ...]
    mappings: tuple[LayerMapping, ...]
    loss_types: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Anatomy:
    """What one forward pass of a model reveals.

    Attributes:
        embeddings: for the first block of each row, the modules with parameters that run before it; empty if not all of
            them are embeddings, as when a whole encoder runs before the blocks of a decoder. In a model with several
            rows, those of a later row are inside its own tower, and share no parameter with what is outside.
        attention: for each block that computes attention probabilities (N, heads, L, L), the tap that has them.
        heads: for each of these blocks, the number of heads.
    """

    embeddings: Mapping[str, tuple[str, ...]]
    attention: Mapping[str, Tap]
    heads: Mapping[str, int]

    def as_json(self) -> dict[str, Any]:
        """The anatomy as JSON, which `from_json` reads."""
        attention = {block: [tap.path, tap.process] for block, tap in self.attention.items()}
        return {"embeddings": dict(self.embeddings), "attention": attention, "heads": dict(self.heads)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Anatomy:
        """The anatomy from JSON.

        Examples:
            >>> anatomy = Anatomy({"layer.0": ("embeddings",)}, {"layer.0": Tap("layer.0.self", "1")}, {"layer.0": 2})
            >>> Anatomy.from_json(anatomy.as_json()) == anatomy
            True
        """
        embeddings = {block: tuple(paths) for block, paths in value["embeddings"].items()}
        attention = {block: Tap(*tap) for block, tap in value["attention"].items()}
        return cls(embeddings, attention, value["heads"])


def automatic_stages(
    config: FlashDistillationConfig,
    blocks: Sequence[tuple[str, ...]],
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch | None = None,
    teacher_anatomy: Anatomy | None = None,
) -> tuple[AutomaticStage, ...]:
    """The stages of flash distillation if no layer mappings are configured.

    Args:
        config: its block names and its inputs.
        blocks: the student's, in order.
        student: runs on `batch`.
        teacher: whose blocks are mapped.
        batch: any batch.
        teacher_anatomy: see `anatomy_of_teacher`; without it, only hidden states are mapped.

    Raises:
        ConfigurationError: the rows of the student's blocks cannot be paired with the teacher's.
    """
    pairs = _row_pairs(blocks, student, teacher)
    partners: dict[tuple[str, ...], str] = {}
    first: dict[tuple[str, ...], str] = {}  # for the first block of each row of the student, the teacher's first block
    for row, targets in pairs:
        first[row[0]] = targets[0]
        chosen = automatic_mapping(len(row), len(targets))
        partners |= {paths: targets[index] for paths, index in zip(row, chosen, strict=True)}
    hidden = [
        AutomaticStage(paths, (LayerMapping(Tap(paths[-1], AUTO), Tap(partners[paths], AUTO)),)) for paths in blocks
    ]
    if teacher_anatomy is None or batch is None or not _is_transformer(student):
        return tuple(hidden)
    student_anatomy = anatomy(student, [[paths[-1] for paths in row] for row, _ in pairs], batch)
    joined = config.block_names is None and config.inputs == "student"
    stages = []
    for stage in hidden:
        block, partner, extra = stage.blocks[-1], partners[stage.blocks], []
        if block in student_anatomy.attention and student_anatomy.heads[block] == teacher_anatomy.heads.get(partner):
            extra.append((LayerMapping(student_anatomy.attention[block], teacher_anatomy.attention[partner]), "KL"))
        trained, target = stage.blocks, first.get(stage.blocks, "")
        embeddings = student_anatomy.embeddings.get(block, ())
        if joined and target and embeddings and teacher_anatomy.embeddings.get(target):
            trained = (*embeddings, *trained)
            extra.append((LayerMapping(Tap(block, INPUT), Tap(target, INPUT)), "NMSE"))
        mappings = (*(mapping for mapping, _ in extra), *stage.mappings)
        stages.append(AutomaticStage(trained, mappings, (*(kind for _, kind in extra), "NMSE")))
    return tuple(stages)


def student_blocks(student: nn.Module, batch: Batch | None = None) -> list[str]:
    """The blocks of every row of a student, in the order in which they run.

    Args:
        student: runs on `batch` if it has several rows; a row of which nothing runs is left out.
        batch: any batch; without it, the order is the model's.
    """
    rows = block_rows(student)
    blocks = [block for row in rows for block in row]
    if len(rows) == 1 or batch is None:
        return blocks
    order = run_order(student, blocks, batch)
    unused = [row for row in rows if not any(block in order for block in row)]
    for row in unused:
        logger.info("the student's blocks %s to %s never run: they are not distilled", row[0], row[-1])
    never = [block for row in rows if row not in unused for block in row if block not in order]
    return [*order, *never]


def mapped_blocks(row: Sequence[str], space: SearchSpace) -> list[str]:
    """Those blocks in a teacher's only row to which the students of a space are mapped.

    They are all blocks, unless one dimension of the space has the name of a known family's number of blocks, and lists
    its values.

    Args:
        row: the teacher's blocks, in order.
        space: of the architectures.

    Examples:
        >>> mapped_blocks(["0", "1", "2", "3"], SearchSpace({"num_hidden_layers": [1, 2]}))
        ['1', '3']
    """
    names = {family.fields.layers for family in FAMILIES.values()}
    depths = [domain for name, domain in space.dimensions.items() if name in names]
    if len(depths) != 1 or depths[0].size is None:
        return list(row)
    chosen = {index for depth in depths[0].values() for index in automatic_mapping(int(cast(Any, depth)), len(row))}
    return [block for index, block in enumerate(row) if index in chosen]


@torch.no_grad()
def run_order(model: nn.Module, paths: Sequence[str], batch: Batch) -> list[str]:
    """Those of these modules that run in one forward pass, in the order of their first calls.

    Examples:
        >>> model = nn.Sequential(nn.ReLU(), nn.Tanh())
        >>> run_order(model, ["1", "0"], Batch((torch.zeros(1, 2), None)))
        ['0', '1']
    """
    order: dict[str, None] = {}

    def record(path: str) -> Any:
        return find_module(model, path).register_forward_pre_hook(lambda *_: order.setdefault(path))

    with removing(*(record(path) for path in paths)), frozen(model), plain_forward(model):
        batch.call(model)
    return list(order)


def pair_rows(student: Sequence[str], teacher: Sequence[str]) -> list[int]:
    """For each row of the student's blocks, the index of the teacher's row that corresponds to it.

    If both models have one row, the two correspond. Otherwise rows correspond by their paths: equal ones, or those
    that contain the names by which the rows of a model differ ("encoder", "decoder"); rows without such names
    correspond by their order, if there are equally many.

    Args:
        student: the path that contains the blocks of each row.
        teacher: the same for the teacher.

    Raises:
        ConfigurationError: rows cannot be paired with certainty.

    Examples:
        >>> pair_rows(["encoder.block", "decoder.block"], ["model.encoder.layers", "model.decoder.layers"])
        [0, 1]
        >>> pair_rows(["encoder.block"], ["model.decoder.layers", "model.encoder.layers"])
        [1]
    """
    if len(student) == len(teacher) == 1:
        return [0]
    if set(student) <= set(teacher):
        return [teacher.index(path) for path in student]
    names, targets = _distinguishing(student), _distinguishing(teacher)
    found = [
        [
            index
            for index, target in enumerate(teacher)
            if name | targets[index]
            and targets[index] <= set(path.split("."))
            and (len(student) == 1 or name <= set(target.split(".")))
        ]
        for path, name in zip(student, names, strict=True)
    ]
    chosen = [matches[0] for matches in found if len(matches) == 1]
    if len(set(chosen)) == len(student):
        return chosen
    if len(student) == len(teacher) and not any(name & target for name in names for target in targets):
        return list(range(len(student)))
    raise ConfigurationError(
        "automatic mapping pairs each row of the student's blocks with one of the teacher's, but the student has "
        f"{', '.join(map(repr, student))} and the teacher {', '.join(map(repr, teacher))}; "
        "pass block_names and layer_mappings_for_knowledge_transfer."
    )


def _distinguishing(paths: Sequence[str]) -> list[set[str]]:
    """For each path, its names that some other path does not contain."""
    names = [set(path.split(".")) for path in paths]
    common = functools.reduce(set.__and__, names, names[0])
    return [name - common for name in names]


def _row_pairs(
    blocks: Sequence[tuple[str, ...]], student: nn.Module, teacher: nn.Module
) -> list[tuple[list[tuple[str, ...]], list[str]]]:
    """The student's blocks by rows, each with the row of the teacher that corresponds to it."""
    targets = block_rows(teacher)
    names = {path: name for row, name in _named_rows(student).items() for path in row}
    rows: dict[str, list[tuple[str, ...]]] = {}
    for paths in blocks:
        rows.setdefault(names.get(paths[-1], paths[-1].rpartition(".")[0]), []).append(paths)
    if len(targets) == 1 and len(set(names.values())) <= 1:
        return [(list(blocks), targets[0])] if blocks else []
    of_teacher = list(_named_rows(teacher).values())
    chosen = pair_rows(list(rows), of_teacher)
    for index, name in enumerate(of_teacher):
        if index not in chosen:
            logger.info("the teacher's blocks in %r have no counterpart in the student: they are not mapped", name)
    return [(row, targets[index]) for row, index in zip(rows.values(), chosen, strict=True)]


def _named_rows(model: nn.Module) -> dict[tuple[str, ...], str]:
    """A path for each row of a model's blocks: what contains them, with their class if it contains several rows."""
    try:
        rows = block_rows(model)
    except ConfigurationError:
        return {}
    containers = [row[0].rpartition(".")[0] for row in rows]
    return {
        tuple(row): path if containers.count(path) == 1 else f"{path}.{type(find_module(model, row[0])).__name__}"
        for row, path in zip(rows, containers, strict=True)
    }


def anatomy_of_teacher(config: FlashDistillationConfig, cache: TeacherCache, batch: Batch) -> Anatomy | None:
    """The anatomy of a teacher; None if only its hidden states are mapped, so that the teacher need not run.

    Args:
        config: only hidden states are mapped if it has mappings or loss types, or weights for each block.
        cache: of the teacher, which runs on `batch` if its anatomy is not known.
        batch: any batch.
    """
    teacher = cache.teacher
    configured_losses = config.loss_types != "NMSE" or isinstance(config.loss_weights, tuple)
    configured = config.layer_mappings_for_knowledge_transfer is not None or configured_losses
    if configured or config.automatic_mapping != "all" or not _is_transformer(teacher):
        return None
    found = cache.fact("anatomy", batch, (), lambda: anatomy(teacher, block_rows(teacher), batch).as_json())
    return Anatomy.from_json(found)


def _is_transformer(model: nn.Module) -> bool:
    return hasattr(getattr(model, "config", None), "model_type")


@torch.no_grad()
def anatomy(model: nn.Module, rows: Sequence[Sequence[str]], batch: Batch) -> Anatomy:
    """What one forward pass of a model reveals.

    Args:
        model: runs on `batch`.
        rows: its blocks, in order, row by row.
        batch: any batch.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, vocab_size=9)
        >>> model = BertModel(BertConfig(**sizes, attn_implementation="eager"))
        >>> found = anatomy(model, [["encoder.layer.0"]], Batch({"input_ids": torch.ones(1, 3, dtype=torch.long)}))
        >>> found.embeddings, [str(tap) for tap in found.attention.values()]
        ({'encoder.layer.0': ('embeddings',)}, ["'encoder.layer.0.attention.self'[1]"])
    """
    blocks = [block for row in rows for block in row]
    before: dict[str, list[str]] = {row[0]: [] for row in rows}
    attention: dict[str, Tap] = {}
    heads: dict[str, int] = {}
    started: dict[str, None] = {}

    def enter(path: str) -> Any:
        def record(module: nn.Module, arguments: Any) -> None:
            started.update({row[0]: None for row in rows if any(is_inside(path, block) for block in row)})
            outside = not any(is_inside(path, block) for block in blocks)
            if outside and any(True for _ in module.parameters(recurse=False)):
                for row in rows:
                    if row[0] not in started:
                        before[row[0]].append(path)

        return record

    def leave(path: str) -> Any:
        def record(module: nn.Module, arguments: Any, output: Any) -> None:
            block = next((block for block in blocks if is_inside(path, block)), None)
            if block is None or block in attention or not isinstance(output, tuple) or len(output) < 2:
                return
            maps = output[1]
            if isinstance(maps, torch.Tensor) and maps.dim() == 4 and are_probabilities(maps):
                attention[block], heads[block] = Tap(path, "1"), maps.shape[1]

        return record

    hooks = []
    for path, module in model.named_modules():
        hooks += [module.register_forward_pre_hook(enter(path)), module.register_forward_hook(leave(path))]
    with removing(*hooks), frozen(model), plain_forward(model):
        batch.call(model)
    order = list(dict.fromkeys([*started, *before]))  # the rows in the order in which they run
    own = _modules_of_rows(model, before, order)
    return Anatomy({first: _embeddings(model, paths, blocks) for first, paths in own.items()}, attention, heads)


def _modules_of_rows(
    model: nn.Module, before: Mapping[str, Sequence[str]], order: Sequence[str]
) -> dict[str, Sequence[str]]:
    """By the first block of each row, the modules that run before it and belong to this row.

    Args:
        model: has these modules.
        before: by the first block of each row, all modules outside blocks that run before it.
        order: the first blocks, in the order in which the rows run.
    """
    first, *later = order
    own = before[first]
    if later:  # a module that contains several rows, such as the model itself, is not an embedding of one of them
        own = [path for path in own if sum(is_inside(block, path) for block in order) < 2]
    return {first: own, **{block: _of_its_own(model, block, before[block], order) for block in later}}


def _of_its_own(model: nn.Module, first: str, before: Iterable[str], firsts: Sequence[str]) -> list[str]:
    """Those of the modules before a row's first block that are inside its tower and share no parameter with others.

    Its tower is the largest module that holds this row of blocks and no other.
    """
    tower = first
    while "." in tower and not any(is_inside(other, tower.rpartition(".")[0]) for other in firsts if other != first):
        tower = tower.rpartition(".")[0]
    modules = dict(model.named_modules(remove_duplicate=False))
    outside = {
        id(parameter)
        for path, module in modules.items()
        if not is_inside(path, tower)
        for parameter in module.parameters(recurse=False)
    }
    return [
        path
        for path in before
        if is_inside(path, tower) and not any(id(p) in outside for p in modules[path].parameters(recurse=False))
    ]


def _embeddings(model: nn.Module, before: Iterable[str], blocks: Sequence[str]) -> tuple[str, ...]:
    """The largest modules that hold what ran before the first block, and none of the blocks."""
    modules = dict(model.named_modules())
    found: dict[str, None] = {}
    for path in before:
        largest = path
        while "." in largest and not any(is_inside(block, largest.rpartition(".")[0]) for block in blocks):
            largest = largest.rpartition(".")[0]
        found[largest] = None
    holds_a_list = any(isinstance(inner, nn.ModuleList) for path in found for inner in modules[path].modules())
    return () if holds_a_list or "" in found else tuple(found)
