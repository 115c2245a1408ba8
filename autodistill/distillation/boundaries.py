"""The boundaries of teacher-fed blocks: which hidden state of the teacher each block is fed, and whether it fits.

A hidden state of the teacher lies at the boundary of two of its blocks. A teacher-fed block of the student gets the one
before it and has the one after it for a target, both brought to the student's width by a projection where one is given.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace

import torch
from torch import nn

from autodistill.data import Batch
from autodistill.distillation.plan import Plan, Stage, path_problems
from autodistill.distillation.replay import why_not
from autodistill.distillation.step_loop import autocast
from autodistill.errors import ConfigurationError
from autodistill.losses.criterion import Features
from autodistill.models.blocks import _row, outside_of
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.modes import frozen, plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import AUTO, INPUT, Tap, describe

Projection = Callable[[torch.Tensor, Tap], torch.Tensor]
"""Brings a hidden state of the teacher (..., teacher width), from the place of a tap, to the student's width."""


REMEDY = "set inputs='student'"


def teacher_fed_stages(
    stages: Sequence[Stage], student: nn.Module, teacher: nn.Module, batch: Batch
) -> tuple[Stage, ...]:
    """The stages of flash distillation, each with the hidden state of the teacher that its block is fed.

    That is the output of the teacher's block that the block before it is mapped to. The first block of a row of blocks,
    and so the first of all, gets what the first block of the teacher's row gets.

    Args:
        stages: one for each block.
        student: runs on `batch`, to see whether its blocks can be trained alone.
        teacher: where the rows of blocks are looked up.
        batch: any batch.

    Raises:
        ConfigurationError: a block cannot be trained alone, or does not say which block of the teacher is its own; all
            mistakes at once.
    """
    problems = path_problems(Plan(tuple(stages), None), student, teacher)
    if problems:
        raise ConfigurationError(problems)
    problems = [*_block_problems(stages, student, batch), *_row_problems(stages, student)]
    if len({stage.steps for stage in stages}) > 1:
        problems.append(
            "inputs='teacher' trains all blocks in one pass, so train_steps must be one number, but it is "
            f"{', '.join(str(stage.steps) for stage in stages)}."
        )
    outputs = [mapping for stage in stages if (mapping := output_mapping(stage)) is not None]
    if problems:
        raise ConfigurationError(problems)
    sources = _sources([mapping.teacher for mapping in outputs], teacher)
    return tuple(
        replace(stage, input=LayerMapping(Tap(stage.blocks[0], INPUT), source))
        for stage, source in zip(stages, sources, strict=True)
    )


def outside_stage(blocks: Sequence[Stage], regular: Stage | None, student: nn.Module) -> Stage:
    """What trains outside teacher-fed blocks beside them: the embeddings, and the head where there are logits.

    The embeddings learn to give the first block what it is fed; the head, behind the teacher's last hidden state, the
    teacher's logits.

    Args:
        blocks: the stages of the blocks.
        regular: the stage of regular distillation, whose losses of logits the head learns from.
        student: with something that is in none of the blocks.
    """
    first = blocks[0].input
    assert first is not None
    pairs = [(first, "NMSE", 1.0)]
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
    """The mapping of the block's own output, or None where the stage has none."""
    own = (Tap(stage.blocks[0], process) for process in ("", AUTO, "0"))
    return next((mapping for tap in own for mapping in stage.mappings if mapping.student == tap), None)


def boundary_taps(stages: Sequence[Stage]) -> set[Tap]:
    """The teacher's hidden states that the blocks are fed or have for a target."""
    pairs = [pair for stage in stages for pair in (stage.input, output_mapping(stage))]
    pairs += [pair for stage in stages for pair in stage.mappings if pair.student.process == INPUT]
    return {pair.teacher for pair in pairs if pair is not None}


def project(features: Features, boundaries: Collection[Tap], projection: Projection | None) -> Features:
    """The teacher's features, those at the boundaries brought to the student's width."""
    if projection is None:
        return features
    with torch.no_grad():
        return {tap: projection(feature, tap) if tap in boundaries else feature for tap, feature in features.items()}


def fitting_features(stage: Stage, student: Features, teacher: Features, projection: Projection | None) -> Features:
    """The teacher's features of one batch as a teacher-fed stage uses them.

    Raises:
        ConfigurationError: some of them differ in shape from the student's; every such pair is named.
    """
    boundaries = boundary_taps([stage])
    try:
        fed = project({tap: teacher[tap] for tap in stage.teacher_taps}, boundaries, projection)
    except Exception as error:
        shapes = ", ".join(str(tuple(teacher[tap].shape)) for tap in boundaries)
        raise ConfigurationError(
            "projection must bring the teacher's hidden states to the student's width, but for one of shape "
            f"{shapes} it raised {type(error).__name__}: {error}"
        ) from error
    problems = []
    for pair in stage.pairs:
        wanted, given = student[pair.student].shape, fed[pair.teacher]
        if not isinstance(given, torch.Tensor) or given.shape != wanted:
            projected = projection is not None and pair.teacher in boundaries
            problems.append(
                f"inputs='teacher' has no feature matchers, so both features must have one shape, but for {pair} the "
                f"student's is {tuple(wanted)}, the teacher's {_shape(given)}{' after the projection' * projected}; "
                f"give a projection to the student's width (for the blocks' inputs and outputs), or {REMEDY}."
            )
    if problems:
        raise ConfigurationError(problems)
    return fed


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else describe(value)


def _block_problems(stages: Sequence[Stage], student: nn.Module, batch: Batch) -> Iterator[str]:
    with frozen(student), plain_forward(student), autocast(batch.device, stages[0].settings.mixed_precision):
        reasons = why_not(stages, student, batch)
    for stage, reason in zip(stages, reasons, strict=True):
        parameters = find_module(student, stage.blocks[0]).parameters()
        if reason is None and not any(parameter.requires_grad for parameter in parameters):
            reason = "none of its parameters requires gradients"
        if reason is not None:
            yield f"inputs='teacher' trains every block alone, but {stage.name!r} cannot be: {reason}; {REMEDY}."
        elif output_mapping(stage) is None:
            given = ", ".join(map(str, stage.mappings))
            yield (
                f"inputs='teacher' needs the mapping of each block's own output, which says what the next one is fed, "
                f"but {stage.name!r} has only {given}; add ('{stage.name}', 'the block of the teacher'), or {REMEDY}."
            )


def _row_problems(stages: Sequence[Stage], student: nn.Module) -> Iterator[str]:
    """A block that is left out has no part in what the teacher gives the block after it."""
    blocks = [block for stage in stages for block in stage.blocks]
    rows = dict.fromkeys(tuple(_row(student, block)) for block in blocks)
    for row in rows:
        named = [block for block in blocks if block in row]
        if named != list(row):
            yield (
                f"inputs='teacher' needs all blocks of a row, in their order: {', '.join(row)}; "
                f"but block_names has {', '.join(named)}."
            )


def _sources(targets: Sequence[Tap], teacher: nn.Module) -> list[Tap]:
    sources: list[Tap] = []
    for index, target in enumerate(targets):
        row = _row(teacher, target.path)
        follows = index > 0 and targets[index - 1].path in row
        sources.append(targets[index - 1] if follows else Tap(row[0], INPUT))
    return sources
