"""The layer mappings by default: hidden states; in transformers' models also attention and embeddings.

Student block i of n is paired with teacher block `ceil((i + 1) * m / n) - 1` of m, and their hidden states are compared
by normalised squared error. If both models compute attention probabilities with equally many heads, those of a pair of
blocks are compared by Kullback-Leibler divergence. The embeddings are trained with the first block, and the input of
that block is compared with the input of the teacher's first block, unless the configuration names the blocks, which
then are all that is trained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.losses.functions import are_probabilities
from autodistill.models.blocks import repeated_blocks
from autodistill.models.layer_mappings import LayerMapping, automatic_mapping
from autodistill.models.modes import frozen, plain_forward
from autodistill.models.module_paths import is_inside
from autodistill.models.taps import AUTO, INPUT, Tap


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
        embeddings: the modules with parameters that run before the first block; empty if not all of them are
            embeddings, as when a whole encoder runs before the blocks of a decoder.
        attention: for each block that computes attention probabilities (N, heads, L, L), the tap that has them.
        heads: for each of these blocks, the number of heads.
    """

    embeddings: tuple[str, ...]
    attention: Mapping[str, Tap]
    heads: Mapping[str, int]


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
    """
    targets = repeated_blocks(teacher)
    partners = [targets[index] for index in automatic_mapping(len(blocks), len(targets))]
    hidden = [
        AutomaticStage(paths, (LayerMapping(Tap(paths[-1], AUTO), Tap(partner, AUTO)),))
        for paths, partner in zip(blocks, partners, strict=True)
    ]
    if teacher_anatomy is None or batch is None or not _is_transformer(student):
        return tuple(hidden)
    student_anatomy = anatomy(student, [paths[-1] for paths in blocks], batch)
    joined = config.block_names is None and config.inputs == "student"
    stages = []
    for index, stage in enumerate(hidden):
        block, partner, extra = stage.blocks[-1], partners[index], []
        if block in student_anatomy.attention and student_anatomy.heads[block] == teacher_anatomy.heads.get(partner):
            extra.append((LayerMapping(student_anatomy.attention[block], teacher_anatomy.attention[partner]), "KL"))
        trained = stage.blocks
        if index == 0 and joined and student_anatomy.embeddings and teacher_anatomy.embeddings:
            trained = (*student_anatomy.embeddings, *trained)
            extra.append((LayerMapping(Tap(block, INPUT), Tap(targets[0], INPUT)), "NMSE"))
        mappings = (*(mapping for mapping, _ in extra), *stage.mappings)
        stages.append(AutomaticStage(trained, mappings, (*(kind for _, kind in extra), "NMSE")))
    return tuple(stages)


def anatomy_of_teacher(config: FlashDistillationConfig, teacher: nn.Module, batch: Batch) -> Anatomy | None:
    """The anatomy of a teacher; None if only its hidden states are mapped, so that the teacher need not run.

    Args:
        config: only hidden states are mapped if it has mappings or loss types, or weights for each block.
        teacher: runs on `batch`.
        batch: any batch.
    """
    configured_losses = config.loss_types != "NMSE" or isinstance(config.loss_weights, tuple)
    configured = config.layer_mappings_for_knowledge_transfer is not None or configured_losses
    if configured or config.automatic_mapping != "all" or not _is_transformer(teacher):
        return None
    return anatomy(teacher, repeated_blocks(teacher), batch)


def _is_transformer(model: nn.Module) -> bool:
    return hasattr(getattr(model, "config", None), "model_type")


@torch.no_grad()
def anatomy(model: nn.Module, blocks: Sequence[str], batch: Batch) -> Anatomy:
    """What one forward pass of a model reveals; `blocks` are in order.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, vocab_size=9)
        >>> model = BertModel(BertConfig(**sizes, attn_implementation="eager"))
        >>> found = anatomy(model, ["encoder.layer.0"], Batch({"input_ids": torch.ones(1, 3, dtype=torch.long)}))
        >>> found.embeddings, [str(tap) for tap in found.attention.values()]
        (('embeddings',), ["'encoder.layer.0.attention.self'[1]"])
    """
    before: list[str] = []
    attention: dict[str, Tap] = {}
    heads: dict[str, int] = {}
    started = False

    def enter(path: str) -> Any:
        def record(module: nn.Module, arguments: Any) -> None:
            nonlocal started
            started = started or any(is_inside(path, block) for block in blocks)
            if not started and any(True for _ in module.parameters(recurse=False)):
                before.append(path)

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
    try:
        with frozen(model), plain_forward(model):
            batch.call(model)
    finally:
        for hook in hooks:
            hook.remove()
    return Anatomy(_embeddings(model, before, blocks), attention, heads)


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
