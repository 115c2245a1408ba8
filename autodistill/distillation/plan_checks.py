"""Whether the stages of a plan fit the student and the teacher: a sentence for each mistake.

`resolve` runs all of these checks, and raises what they find in one error.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.boundaries import boundary_taps, output_mapping, project
from autodistill.distillation.plan import Projection, Stage
from autodistill.distillation.replay import replay_blockers
from autodistill.distillation.step_loop import autocast
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import LayerNotFoundError
from autodistill.losses.criterion import Features
from autodistill.losses.loss_types import LOSS_TYPES, top_k_types
from autodistill.models.blocks import sibling_blocks
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.masks import Masks
from autodistill.models.modes import frozen, nothing_to_train, plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import describe

CLASSES = {"vocab_size": "tokens", "num_labels": "labels"}
"""Settings of a transformers configuration that are a model's number of classes, and the names of these."""


REMEDY = "set inputs='student'"


def path_problems(
    blocks: Iterable[str], mappings: Sequence[LayerMapping], student: nn.Module, teacher: nn.Module
) -> list[str]:
    """A sentence for each path that a model does not have; empty if all exist.

    Args:
        blocks: the paths of the trained modules.
        mappings: the compared layers.
        student: the model with the blocks, and one side of the mappings.
        teacher: the model with the other side.
    """
    problems: dict[str, None] = {}
    expected = [(student, "student", block) for block in blocks]
    expected += [(student, "student", mapping.student.path) for mapping in mappings]
    expected += [(teacher, "teacher", mapping.teacher.path) for mapping in mappings]
    for model, owner, path in expected:
        try:
            find_module(model, path, owner)
        except LayerNotFoundError as error:
            problems[str(error)] = None
    return list(problems)


def frozen_problems(stages: Sequence[Stage], student: nn.Module) -> list[str]:
    """A sentence for each stage that has nothing to train, in a student in which all paths exist."""
    return [
        nothing_to_train(stage.blocks)
        for stage in stages
        if not any(p.requires_grad for block in stage.blocks for p in find_module(student, block).parameters())
    ]


def label_problems(stages: Sequence[Stage], batch: Batch) -> list[str]:
    """A sentence if a loss type needs labels that the data do not have.

    Args:
        stages: their loss types.
        batch: any batch.
    """
    kinds = dict.fromkeys(kind for stage in stages for kind in stage.loss_types if LOSS_TYPES[kind].needs_labels)
    labels = batch.targets
    if isinstance(labels, torch.Tensor) and not labels.is_floating_point():
        return []
    received = "the batch has none" if labels is None else f"the batch's are {describe(labels)}"
    return [f"{kind} needs labels that are class numbers, but {received}; use KL without them." for kind in kinds]


def precision_problems(student: nn.Module) -> list[str]:
    """A sentence if trained weights are float16: the steps of Adam divide by an epsilon that is zero in float16."""
    names = [name for name, p in student.named_parameters() if p.requires_grad and p.dtype == torch.float16]
    if not names:
        return []
    return [
        f"trained weights must be float32 (or bfloat16), but those of the student are float16, such as {names[0]!r}; "
        "build it in float32, and set mixed_precision='fp16' to compute in float16."
    ]


def prediction_problems(
    stage: Stage, student: nn.Module, teacher: nn.Module, features: Features, targets: Features
) -> Iterator[str]:
    """A sentence for each pair of logits that cannot be compared class by class.

    Their numbers of classes may differ between student and teacher: a matcher would learn the correspondence of classes
    instead of the student. A divergence over one class is always zero.

    Args:
        stage: its mappings.
        student: its configuration may contain the number of classes.
        teacher: the same.
        features: the student's, of one batch.
        targets: the teacher's.
    """
    for mapping, kind in stage.losses:
        output, expected = features[mapping.student], targets[mapping.teacher]
        if LOSS_TYPES[kind].compares_logits and output.dim() < 4 and output.shape[-1] == 1:
            yield (
                f"a loss of type {kind!r} compares distributions over classes, but for {mapping} there is one class, "
                "whose probability is always 1; use 'MSE'."
            )
        if output.shape[-1:] == expected.shape[-1:]:
            continue
        student_classes, teacher_classes = _classes(student, output), _classes(teacher, expected)
        between_classes = student_classes is not None and teacher_classes is not None
        if stage.on_predictions or (LOSS_TYPES[kind].compares_logits and between_classes):
            yield (
                f"logits are compared class by class, but for {mapping} the student has {output.shape[-1]} "
                f"{student_classes or 'classes'} and the teacher {expected.shape[-1]} {teacher_classes or 'classes'}; "
                "use the same vocabulary and labels for both, or map hidden states."
            )


def top_k_problems(stage: Stage, targets: Features) -> list[str]:
    """A sentence if none of the teacher's logits can be reduced to the k largest, though it is configured.

    Args:
        stage: its mappings, and which logits are reduced.
        targets: the teacher's features of one batch.
    """
    if stage.top_k is None or stage.top_k.taps or not stage.mappings:  # a teacher of no weight does not run
        return []
    present = [f"{kind} of {mapping} {tuple(targets[mapping.teacher].shape)}" for mapping, kind in stage.losses]
    return [
        "top_k reduces logits (N, classes) or (N, positions, classes) of more than k classes, if they are compared by "
        f"{' or '.join(top_k_types())} alone, but with k = {stage.top_k.k} there are none: {', '.join(present)}; "
        "configure a smaller k, or leave top_k out."
    ]


def _classes(model: nn.Module, feature: torch.Tensor) -> str | None:
    """What the last axis of a feature counts, as named in `CLASSES`, if it is the model's classes."""
    config: Any = getattr(model, "config", None)
    return next((word for name, word in CLASSES.items() if getattr(config, name, None) == feature.shape[-1]), None)


# --- teacher-fed blocks ----------------------------------------------------------------------------------------------


def feeding_problems(stages: Sequence[Stage], student: nn.Module, batch: Batch) -> Iterator[str]:
    """A sentence for each reason why the stages of flash distillation cannot be teacher-fed.

    Args:
        stages: one for each block.
        student: has all the paths; runs on `batch`, to check whether its blocks can be trained alone.
        batch: any batch.
    """
    yield from _block_problems(stages, student, batch)
    yield from _row_problems(stages, student)
    if len({stage.steps for stage in stages}) > 1:
        yield (
            "inputs='teacher' trains all blocks in one pass, so train_steps must be one number, but it is "
            f"{', '.join(str(stage.steps) for stage in stages)}."
        )


def _block_problems(stages: Sequence[Stage], student: nn.Module, batch: Batch) -> Iterator[str]:
    with frozen(student), plain_forward(student), autocast(batch.device, stages[0].settings.mixed_precision):
        blockers = replay_blockers(stages, student, batch)
    for stage, blocker in zip(stages, blockers, strict=True):
        parameters = find_module(student, stage.blocks[0]).parameters()
        if blocker is None and not any(parameter.requires_grad for parameter in parameters):
            blocker = "none of its parameters requires gradients"
        if blocker is not None:
            yield f"inputs='teacher' trains every block alone, but {stage.name!r} cannot be: {blocker}; {REMEDY}."
        elif output_mapping(stage) is None:
            present = ", ".join(map(str, stage.mappings))
            yield (
                "inputs='teacher' needs the mapping of each block's output, which determines the input of the next, "
                f"but {stage.name!r} has only {present}; add ('{stage.name}', 'the block of the teacher'), or {REMEDY}."
            )


def _row_problems(stages: Sequence[Stage], student: nn.Module) -> Iterator[str]:
    """A sentence for each row of which blocks are left out: they would not take part in training."""
    blocks = [block for stage in stages for block in stage.blocks]
    rows = dict.fromkeys(tuple(sibling_blocks(student, block)) for block in blocks)
    for row in rows:
        named = [block for block in blocks if block in row]
        if named != list(row):
            yield (
                f"inputs='teacher' needs all blocks of a row, in their order: {', '.join(row)}; "
                f"but block_names has {', '.join(named)}."
            )


def shape_problems(stage: Stage, student: Features, teacher: Features, projection: Projection | None) -> list[str]:
    """A sentence for each pair of a teacher-fed stage whose features differ in shape, since it has no matchers.

    Args:
        stage: teacher-fed.
        student: the student's features, of one batch.
        teacher: the teacher's.
        projection: brings the teacher's hidden states to the student's width; None where the widths agree.
    """
    boundaries = boundary_taps([stage])
    try:
        projected = project({tap: teacher[tap] for tap in stage.teacher_taps}, boundaries, projection)
    except Exception as error:
        shapes = ", ".join(str(tuple(teacher[tap].shape)) for tap in boundaries)
        return [
            "projection must bring the teacher's hidden states to the student's width, but for one of shape "
            f"{shapes} it raised {type(error).__name__}: {error}"
        ]
    problems = []
    for pair in stage.pairs:
        expected, received = student[pair.student].shape, projected[pair.teacher]
        if not isinstance(received, torch.Tensor) or received.shape != expected:
            suffix = " after the projection" if projection is not None and pair.teacher in boundaries else ""
            problems.append(
                f"inputs='teacher' has no feature matchers, so both features must have one shape, but for {pair} the "
                f"student's is {tuple(expected)}, the teacher's {_shape(received)}{suffix}; "
                f"configure a projection to the student's width (for the blocks' inputs and outputs), or {REMEDY}."
            )
    return problems


def _shape(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else describe(value)


def layout_problems(
    stages: Iterable[Stage], masks: Masks, cache: TeacherCache, targets: Features, batch: Batch
) -> Iterator[str]:
    """Mapped features must have their samples on the same axis: XLNet's are (L, N, C), those of others (N, L, C).

    Where the sizes of the axes differ, shapes that disagree are found without this check. The teacher runs on a batch
    of other sizes, once for all students, if a feature has equally many samples and positions.

    Args:
        stages: of the plan.
        masks: of the student's features.
        cache: of the teacher.
        targets: the teacher's features of the batch.
        batch: with which both were called.
    """
    pairs = dict.fromkeys(pair for stage in stages for pair in stage.pairs if pair.student in masks.positions)
    square = {
        pair.teacher: feature
        for pair in pairs
        if (feature := targets.get(pair.teacher)) is not None and feature.dim() > 2 and len({*feature.shape[:2]}) == 1
    }
    positions = cache.positions(batch, square)
    for pair in pairs:
        expected = positions.get(pair.teacher)
        if expected is not None and expected.samples != masks.positions[pair.student].samples:
            yield (
                f"mapped features must have their samples on the same axis, but {pair.student} of the student has them "
                f"on axis {masks.positions[pair.student].samples}, {pair.teacher} of the teacher on axis "
                f"{expected.samples}; map the layer with an output process that transposes it, such as "
                "lambda output: output.transpose(0, 1)."
            )
