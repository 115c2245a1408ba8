"""The boundaries of teacher-fed blocks: which hidden state of the teacher each block is fed, and whether it fits.

A hidden state of the teacher lies at the boundary of two of its blocks. A teacher-fed block of the student receives
the one before it, and its target is the one after it, both brought to the student's width by a projection, if any.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

import torch
from torch import nn

from autodistill.distillation.plan import Projection, Stage
from autodistill.losses.criterion import Features
from autodistill.models.blocks import outside_of, sibling_blocks
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import AUTO, INPUT, Tap


def teacher_fed_stages(stages: Sequence[Stage], teacher: nn.Module) -> tuple[Stage, ...]:
    """The stages of flash distillation, each with the hidden state of the teacher that its block is fed.

    That is the output of the teacher's block to which the preceding block is mapped. The first block of a row of
    blocks, and so the first of all, receives the input of the first block of the teacher's row.

    Args:
        stages: one for each block, in which `plan_checks.feeding_problems` finds no mistake.
        teacher: the model in which the rows of blocks are looked up.
    """
    outputs = [mapping for stage in stages if (mapping := output_mapping(stage)) is not None]
    sources = _sources([mapping.teacher for mapping in outputs], teacher)
    return tuple(
        replace(stage, input=LayerMapping(Tap(stage.blocks[0], INPUT), source))
        for stage, source in zip(stages, sources, strict=True)
    )


def outside_stage(blocks: Sequence[Stage], regular: Stage | None, student: nn.Module) -> Stage:
    """The stage that trains what is outside teacher-fed blocks: the embeddings, and the head if there are logits.

    The embeddings learn to return what the first block of each row is fed; the head, fed the teacher's last hidden
    state, the teacher's logits.

    Args:
        blocks: the stages of the blocks.
        regular: the stage of regular distillation, from whose losses of logits the head learns.
        student: has parameters outside the blocks.
    """
    inputs = [stage.input for stage in blocks if stage.input is not None]
    pairs = [(pair, "NMSE", 1.0) for pair in inputs if pair.teacher.process == INPUT]
    if regular is not None:
        losses = zip(regular.mappings, regular.loss_types, regular.loss_weights, strict=True)
        pairs += [
            (mapping, kind, weight) for mapping, kind, weight in losses if kind == "KL" and not mapping.student.path
        ]
    mappings, loss_types, loss_weights = zip(*pairs, strict=True)
    return Stage(
        name="outside the blocks",
        blocks=tuple(outside_of(student, [path for stage in blocks for path in stage.blocks])),
        mappings=mappings,
        loss_types=loss_types,
        loss_weights=loss_weights,
        add_origin_loss=False,
        steps=blocks[0].steps,
        settings=blocks[0].settings,
    )


def output_mapping(stage: Stage) -> LayerMapping | None:
    """The mapping of the block's own output; None if the stage has none."""
    own = (Tap(stage.blocks[0], process) for process in ("", AUTO, "0"))
    return next((mapping for tap in own for mapping in stage.mappings if mapping.student == tap), None)


def boundary_taps(stages: Sequence[Stage]) -> set[Tap]:
    """The teacher's hidden states that are inputs or targets of the blocks."""
    pairs = [pair for stage in stages for pair in (stage.input, output_mapping(stage))]
    pairs += [pair for stage in stages for pair in stage.mappings if pair.student.process == INPUT]
    return {pair.teacher for pair in pairs if pair is not None}


def project(features: Features, boundaries: Collection[Tap], projection: Projection | None) -> Features:
    """The teacher's features, those at the boundaries brought to the student's width."""
    if projection is None:
        return features
    with torch.no_grad():
        return {tap: projection(feature, tap) if tap in boundaries else feature for tap, feature in features.items()}


def _sources(targets: Sequence[Tap], teacher: nn.Module) -> list[Tap]:
    sources: list[Tap] = []
    for index, target in enumerate(targets):
        row = sibling_blocks(teacher, target.path)
        follows = index > 0 and targets[index - 1].path in row
        sources.append(targets[index - 1] if follows else Tap(row[0], INPUT))
    return sources
