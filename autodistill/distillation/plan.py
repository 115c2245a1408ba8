"""The plan of a trial's distillation: its stages, each with its criterion."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.phase import PhaseConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.temperature import temperature_at
from autodistill.distillation.automatic_mapping import Anatomy, automatic_stages, student_blocks
from autodistill.errors import ConfigurationError
from autodistill.losses.criterion import Criterion, Features
from autodistill.losses.functions import are_probabilities
from autodistill.losses.loss_types import LOSS_TYPES
from autodistill.losses.top_k import TopK
from autodistill.models.layer_mappings import LayerMapping, in_models, parse_mapping
from autodistill.models.taps import AUTO, Tap, returned_loss

PREDICTIONS = (LayerMapping(Tap("", AUTO), Tap("", AUTO)),)

Projection = Callable[[torch.Tensor, Tap], torch.Tensor]
"""Brings a hidden state of the teacher (..., teacher width), recorded at a tap, to the student's width."""


@dataclass(frozen=True)
class Stage:
    """One stage of distillation: what is trained, its targets, and its steps.

    Attributes:
        name: for messages and records.
        blocks: the paths of the modules that are trained; `("",)` is the whole student.
        mappings: pairs of student and teacher layers.
        loss_types: the loss of each mapping.
        loss_weights: the weight of each mapping.
        add_origin_loss: whether the student's own loss is added.
        steps: optimizer updates.
        settings: optimizer, temperature, precision.
        input: what the block is fed instead of the student's own stream: the tap of the student, and the teacher's
            hidden state; None if it is fed the student's stream.
        on_predictions: the criterion is `KnowledgeDistillationLoss`, whose two loss types and weights are those of the
            labels and of the teacher.
        top_k: which of the teacher's logits are reduced to the k largest; None for none.
    """

    name: str
    blocks: tuple[str, ...]
    mappings: tuple[LayerMapping, ...]
    loss_types: tuple[str, ...]
    loss_weights: tuple[float, ...]
    add_origin_loss: bool
    steps: int
    settings: PhaseConfig
    input: LayerMapping | None = None
    on_predictions: bool = False
    top_k: TopK | None = None

    @property
    def losses(self) -> list[tuple[LayerMapping, str]]:
        """Every mapping with its loss type; that of the labels, which has no mapping, is left out."""
        kinds = self.loss_types[1:] if self.on_predictions else self.loss_types
        return list(zip(self.mappings, kinds, strict=False))

    @property
    def pairs(self) -> list[LayerMapping]:
        """Every pair of layers of the stage: its mappings, and its input if it is teacher-fed."""
        return [*self.mappings, *([self.input] if self.input is not None else [])]

    @property
    def student_taps(self) -> list[Tap]:
        """The student's taps in the pairs, each once."""
        return list(dict.fromkeys(pair.student for pair in self.pairs))

    @property
    def teacher_taps(self) -> list[Tap]:
        """The teacher's taps in the pairs, each once."""
        return list(dict.fromkeys(pair.teacher for pair in self.pairs))


@dataclass(frozen=True)
class Plan:
    """The stages of flash distillation in order, then regular distillation; either may be absent.

    Attributes:
        flash: the stages of flash distillation.
        regular: the stage of regular distillation.
        flash_criteria: one for each stage of flash distillation.
        regular_criterion: that of regular distillation.
        projection: brings the teacher's hidden states to the student's width, for teacher-fed blocks.
        eager: the models whose attention probabilities are mapped, and which compute them only by eager attention: they
            use it while this plan runs.
    """

    flash: tuple[Stage, ...] = ()
    regular: Stage | None = None
    flash_criteria: tuple[Criterion, ...] = ()
    regular_criterion: Criterion | None = None
    projection: Projection | None = None
    eager: tuple[nn.Module, ...] = ()

    @property
    def stages(self) -> list[Stage]:
        """All stages in order."""
        return [*self.flash, *([self.regular] if self.regular is not None else [])]

    @property
    def teacher_taps(self) -> list[Tap]:
        """All taps of the teacher, each once."""
        return list(dict.fromkeys(tap for stage in self.stages for tap in stage.teacher_taps))

    @property
    def student_taps(self) -> list[Tap]:
        """All taps of the student, each once."""
        return list(dict.fromkeys(tap for stage in self.stages for tap in stage.student_taps))

    @property
    def is_teacher_fed(self) -> bool:
        """Whether the blocks are fed the teacher's hidden states."""
        return any(stage.input is not None for stage in self.flash)


def flash_stages(
    config: FlashDistillationConfig,
    student: nn.Module,
    teacher: nn.Module,
    batch: Batch | None = None,
    anatomy: Anatomy | None = None,
) -> tuple[Stage, ...]:
    """The stages of flash distillation for one student.

    Args:
        config: its settings.
        student: the student.
        teacher: the teacher.
        batch: any batch, for the automatic mapping; see `automatic_stages`.
        anatomy: of the teacher, for the same.

    Raises:
        ConfigurationError: the lists do not agree with the student's blocks; all mistakes in one error.
    """
    if config.on_predictions:
        return (_prediction_stage("flash distillation of predictions", config, _entry(config.train_steps, 0)),)
    blocks = _blocks(config, student, batch)
    given = config.layer_mappings_for_knowledge_transfer
    losses: tuple[tuple[str, ...] | None, ...] = (None,) * len(blocks)
    if given is None:
        automatic = automatic_stages(config, blocks, student, teacher, batch, anatomy)
        blocks = [stage.blocks for stage in automatic]
        mappings = tuple(stage.mappings for stage in automatic)
        losses = tuple(stage.loss_types for stage in automatic)
    elif callable(given):
        mappings = tuple(_parse_all(block) for block in given(student, teacher))
    else:
        mappings = given
    problems = list(config.length_problems(len(blocks), mappings))
    if given is not None:
        mappings = tuple(in_models(block, student, teacher) for block in mappings)
    if problems:
        raise ConfigurationError(problems)
    return tuple(
        _stage(
            name=" + ".join(paths),
            blocks=paths,
            mappings=mappings[index],
            loss_types=losses[index] or _entry(config.loss_types, index),
            loss_weights=_entry(config.loss_weights, index),
            add_origin_loss=_entry(config.add_origin_loss, index),
            steps=_entry(config.train_steps, index),
            settings=config,
        )
        for index, paths in enumerate(blocks)
    )


def regular_mappings(
    config: RegularDistillationConfig, student: nn.Module, teacher: nn.Module
) -> tuple[LayerMapping, ...]:
    """The layer mappings of regular distillation.

    Args:
        config: its settings.
        student: the student, for mappings that are a function.
        teacher: the teacher, for the same.

    Raises:
        ConfigurationError: the lists do not agree with the mappings that the function returns; all mistakes in one
            error.
    """
    mappings = config.layer_mappings_for_knowledge_transfer
    if config.on_predictions:
        return _prediction_stage("regular distillation", config, config.train_steps).mappings
    if mappings is None:
        return PREDICTIONS
    if callable(mappings):
        mappings = _parse_all(mappings(student, teacher))
        problems = list(config.length_problems(len(mappings)))
        if problems:
            raise ConfigurationError(problems)
    return in_models(mappings, student, teacher)


def regular_stage(
    config: RegularDistillationConfig, mappings: tuple[LayerMapping, ...], batch: Batch, output: Any
) -> Stage:
    """The one stage of regular distillation.

    Without mappings, all logits of the output are compared: by divergence if they are those of classes of which one is
    right, by squared error if they are a regression or independent labels.

    Args:
        config: its settings.
        mappings: `regular_mappings`.
        batch: any batch, to determine whether it has labels.
        output: what the student returned for it, to determine whether these are logits.
    """
    if config.on_predictions:
        return _prediction_stage("regular distillation", config, config.train_steps)
    loss_types, add_origin_loss = config.loss_types, config.add_origin_loss
    if config.layer_mappings_for_knowledge_transfer is None:
        mappings = _all_logits(output) or mappings
        loss_types = loss_types or tuple(_prediction_loss(mapping.student, output, batch) for mapping in mappings)
        if add_origin_loss is None:
            add_origin_loss = _has_labels(output, batch)
    return _stage(
        name="regular distillation",
        blocks=("",),
        mappings=mappings,
        loss_types=loss_types or "MSE",
        loss_weights=config.loss_weights,
        add_origin_loss=bool(add_origin_loss),
        steps=config.train_steps,
        settings=config,
    )


def with_top_k(stage: Stage, k: int | None, features: Features, targets: Features) -> Stage:
    """The stage in which the teacher's logits of more than k classes are reduced, if only divergences compare them.

    Other features are kept whole: attention maps, logits of pixels (N, C, H, W), and what another loss needs.

    Args:
        stage: of regular distillation.
        k: how many are kept; None for all.
        features: the student's, of one batch.
        targets: the teacher's.
    """
    if k is None:
        return stage
    losses = [(mapping, LOSS_TYPES[kind]) for mapping, kind in stage.losses]
    whole = {mapping.teacher for mapping, kind in losses if kind.on_top_k is None}
    taps: list[Tap] = []
    for mapping, kind in losses:
        feature, target = features[mapping.student], targets[mapping.teacher]
        if mapping.teacher in {*whole, *taps} or target.dim() not in (2, 3) or target.shape[-1] <= k:
            continue
        if kind.function_for(feature, target) is kind.on_features:
            taps.append(mapping.teacher)
    # The configuration accepts top_k with one temperature only, which is that of every step.
    return replace(stage, top_k=TopK(tuple(taps), k, temperature_at(stage.settings.temperature, 0.0)))


def _prediction_stage(name: str, config: Any, steps: int) -> Stage:
    """The stage whose criterion is that on predictions; the teacher does not run if its loss has no weight."""
    weights = config.loss_weights if isinstance(config.loss_weights, tuple) else (config.loss_weights,) * 2
    return _stage(
        name=name,
        blocks=("",),
        mappings=PREDICTIONS if weights[1] > 0 else (),
        loss_types=config.loss_types,
        loss_weights=weights,
        add_origin_loss=weights[0] > 0,
        steps=steps,
        settings=config,
        on_predictions=True,
    )


def _stage(*, mappings: tuple[LayerMapping, ...], loss_types: Any, loss_weights: Any, **others: Any) -> Stage:
    """A stage in which a single loss type or weight, if only one is given, applies to every mapping."""
    return Stage(
        mappings=mappings,
        loss_types=loss_types if isinstance(loss_types, tuple) else (loss_types,) * len(mappings),
        loss_weights=loss_weights if isinstance(loss_weights, tuple) else (loss_weights,) * len(mappings),
        **others,
    )


def _entry(value: Any, index: int) -> Any:
    return value[index] if isinstance(value, tuple) else value


def _blocks(config: FlashDistillationConfig, student: nn.Module, batch: Batch | None) -> list[tuple[str, ...]]:
    names: Sequence[Any]
    if config.block_names is None:
        names = student_blocks(student, batch)
    elif callable(config.block_names):
        names = config.block_names(student)
    else:
        names = config.block_names
    return [(name,) if isinstance(name, str) else tuple(name) for name in names]


def _parse_all(specs: Iterable[Any]) -> tuple[LayerMapping, ...]:
    return tuple(parse_mapping(spec) for spec in specs)


def _all_logits(output: Any) -> tuple[LayerMapping, ...]:
    """A mapping for each of several logits, such as those of the start and the end of an answer; none for one."""
    if not isinstance(output, Mapping) or "logits" in output:
        return ()
    taps = [Tap("", key) for key, value in output.items() if key.endswith("logits") and isinstance(value, torch.Tensor)]
    return tuple(LayerMapping(tap, tap) for tap in taps) if len(taps) > 1 else ()


def _prediction_loss(tap: Tap, output: Any, batch: Batch) -> str:
    """The loss between predictions of the student and the teacher."""
    if not _gives_logits(output, batch):
        return "NMSE"
    logits, targets = tap.extract(output), batch.targets
    independent = (  # labels of which several may be right
        isinstance(targets, torch.Tensor) and targets.shape == logits.shape and not are_probabilities(targets.float())
    )
    return "MSE" if logits.shape[-1] == 1 or independent else "KL"


def _has_labels(output: Any, batch: Batch) -> bool:
    if batch.targets is not None:
        return True
    names = batch.content if isinstance(batch.content, Mapping) else ()
    return returned_loss(output) is not None and any(
        "label" in name or name in ("start_positions", "end_positions") for name in names
    )


def _gives_logits(output: Any, batch: Batch) -> bool:
    if isinstance(output, Mapping):
        return "logits" in output or next((key for key in output if key != "loss"), "").endswith("logits")
    targets = batch.targets
    return isinstance(output, torch.Tensor) and isinstance(targets, torch.Tensor) and not targets.is_floating_point()
