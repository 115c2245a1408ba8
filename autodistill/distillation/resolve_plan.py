"""From settings to a plan: all checks of one student before any of it is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.distillation.automatic_mapping import Anatomy
from autodistill.distillation.boundaries import boundary_taps, outside_stage, project, teacher_fed_stages
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.plan import (
    PREDICTIONS,
    Plan,
    Projection,
    Stage,
    flash_stages,
    regular_mappings,
    regular_stage,
    with_top_k,
)
from autodistill.distillation.plan_checks import (
    REMEDY,
    feeding_problems,
    frozen_problems,
    label_problems,
    layout_problems,
    path_problems,
    precision_problems,
    prediction_problems,
    shape_problems,
    top_k_problems,
)
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.errors import ConfigurationError, attempt, raise_problems
from autodistill.losses.criterion import Criterion, Features
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
from autodistill.losses.origin_loss import default_loss_problem, origin_loss
from autodistill.models.attention import eager_attention, needs_eager_attention
from autodistill.models.calls import unknown_arguments
from autodistill.models.label_shift import find_label_shift
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.masks import Masks, Positions, find_masks
from autodistill.models.modes import plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import Tap, TapRecorder, main_part
from autodistill.randomness import isolated_random_state
from autodistill.samples import Padded, Padding
from autodistill.seeds import derive_seed

T = TypeVar("T")


LossFunction = Callable[[Any, Any], torch.Tensor]
"""`(outputs, targets) -> loss`, for a student that does not compute a loss itself."""


@dataclass(frozen=True)
class Phases:
    """The phases of distillation that a process runs.

    Attributes:
        flash: the settings of flash distillation; None leaves it out.
        regular: those of regular distillation; None leaves it out.
        init: those of a start inside the teacher; None keeps the weights with which students were built.
        seed: of the search.
    """

    flash: FlashDistillationConfig | None
    regular: RegularDistillationConfig | None
    init: InitializationConfig | None
    seed: int

    @classmethod
    def of(cls, config: AutoDistillationConfig, *, leads: bool = True) -> Phases:
        """The phases of a configuration.

        Args:
            config: the configuration.
            leads: False for a process that follows another one: it receives the student that flash distillation trained
                there, and runs regular distillation only.
        """
        if leads:
            return cls(config.flash_distillation, config.regular_distillation, config.init, config.seed)
        return cls(None, config.regular_distillation, None, config.seed)

    @property
    def are_teacher_fed(self) -> bool:
        """Whether blocks are fed the teacher's hidden states."""
        return self.flash is not None and self.flash.inputs == "teacher" and not self.flash.on_predictions


class TeacherSubspaces(Protocol):
    """The part of a start inside the teacher on which a plan depends."""

    def check(self, student: nn.Module, also: Sequence[Tap]) -> None:
        """Raise a `ConfigurationError` if the student cannot start inside the teacher."""

    def projection(self, student: nn.Module, also: Sequence[Tap]) -> Projection:
        """Brings the teacher's hidden states to the student's subspace."""


def resolve(
    phases: Phases,
    student: nn.Module,
    flash_set: FlashSet,
    *,
    anatomy: Anatomy | None = None,
    subspaces: TeacherSubspaces | None = None,
    loss_func: LossFunction = nn.functional.cross_entropy,
) -> Plan:
    """The plan of one student's distillation: stages, and their criteria with new matchers.

    The student runs once on the first batch of the flash set, once more if its blocks or its attention are inspected,
    and once on a batch of other sizes if the batch has tokens or a mask; the teacher's features of the first batch are
    kept in the cache.

    Args:
        phases: the settings.
        student: on the device of the flash set.
        flash_set: student and teacher are compared on its first batch; its cache has the teacher.
        anatomy: the teacher's, for the automatic mapping; see `automatic_stages`.
        subspaces: for students that start inside the teacher; None skips the checks that need them.
        loss_func: for students that compute no loss of their own.

    Raises:
        ConfigurationError: the settings do not fit this student; all mistakes in one error.
    """
    teacher, batch = flash_set.cache.teacher, flash_set.batch(0)
    raise_problems(
        [
            *unknown_arguments(student, batch, "student"),
            *unknown_arguments(teacher, batch, "teacher"),
            *precision_problems(student),
        ]
    )
    layers = _layers(phases, student, flash_set, anatomy)
    eager = _computed_by_eager_attention(layers, student, flash_set)
    with eager_attention(*eager):
        plan = _resolved(phases, student, flash_set, layers, subspaces, loss_func)
    return replace(plan, eager=eager)


Layers = tuple[tuple[Stage, ...], tuple[LayerMapping, ...]]
"""The stages of flash distillation, and the mappings of regular distillation."""


def _resolved(
    phases: Phases,
    student: nn.Module,
    flash_set: FlashSet,
    layers: Layers,
    subspaces: TeacherSubspaces | None,
    loss_func: LossFunction,
) -> Plan:
    """The plan of these layers, in models that compute them."""
    teacher, batch = flash_set.cache.teacher, flash_set.batch(0)
    problems: list[str] = []
    plan, features, output = _planned(phases, student, flash_set, layers, problems)
    adds_loss = features is not None and plan.regular is not None and plan.regular.add_origin_loss
    if adds_loss and loss_func is nn.functional.cross_entropy:
        problem = default_loss_problem(output, batch)
        problems += [] if problem is None else [problem]
    targets = attempt(problems, lambda: flash_set.cache.features(batch, plan.teacher_taps))
    masks = Masks()
    if features is not None and targets is not None and not problems:
        if plan.regular is not None and phases.regular is not None:
            plan = _with_top_k(plan, phases.regular, features, targets)
        masks = _masks(student, batch, features, output, loss_func)
        _keep_by_sample(plan, masks, flash_set.cache, targets, batch)  # first: other checks run the teacher too
    starts = subspaces is None or attempt(problems, lambda: _starts_inside(student, plan, subspaces))
    if features is None or targets is None or not starts:
        raise ConfigurationError(problems)
    plan = replace(plan, projection=_projection(phases, student, plan, subspaces))
    compared = plan
    if phases.init is not None and subspaces is None:  # no projection to the subspace: widths may differ
        compared = replace(plan, flash=tuple(replace(stage, input=None) for stage in plan.flash))
    criteria = attempt(
        problems,
        lambda: criteria_for(compared, student, teacher, features, targets, loss_func=loss_func, seed=phases.seed),
    )
    raise_problems(problems)
    assert criteria is not None
    raise_problems(list(layout_problems(plan.stages, masks, flash_set.cache, targets, batch)))
    for criterion in criteria:
        criterion.masks = masks
    regular_criterion = criteria.pop() if plan.regular is not None else None
    return replace(plan, flash_criteria=tuple(criteria), regular_criterion=regular_criterion)


def _padded_side(positions: Positions, batch: Batch) -> Padded | None:
    """Which padding the second axis of a feature has; None for features of another form, and without a mask."""
    if positions.side == "frames" or (positions.samples, positions.axis) != (0, 1):
        return None
    return positions.side if Padding.of(batch.model_inputs, positions.side) is not None else None


def _with_top_k(plan: Plan, settings: RegularDistillationConfig, features: Features, targets: Features) -> Plan:
    """The plan in which logits are reduced as configured; in flash distillation too, if the temperature is the same."""
    if settings.top_k is None or plan.regular is None:
        return plan
    flash = []
    for stage in plan.flash:
        reduced = with_top_k(stage, settings.top_k, features, targets)
        alike = stage.settings.temperature == settings.temperature and reduced.top_k is not None and reduced.top_k.taps
        flash.append(reduced if alike else stage)
    return replace(plan, flash=tuple(flash), regular=with_top_k(plan.regular, settings.top_k, features, targets))


def _keep_by_sample(plan: Plan, masks: Masks, cache: TeacherCache, targets: Features, batch: Batch) -> None:
    """Have the teacher's outputs in regular distillation kept by sample; what is padding counts in no loss."""
    if plan.regular is None:
        return
    padded: dict[Tap, Padded | None] = {}
    for tap in plan.regular.teacher_taps:
        compared = {
            masks.positions.get(pair.student) for stage in plan.stages for pair in stage.pairs if pair.teacher == tap
        }
        (positions,) = compared if len(compared) == 1 else (None,)
        padded[tap] = _padded_side(positions, batch) if positions is not None else None
    cache.keep_by_sample(batch, targets, padded, plan.regular.top_k)


def _planned(
    phases: Phases, student: nn.Module, flash_set: FlashSet, layers: Layers, problems: list[str]
) -> tuple[Plan, Features | None, Any]:
    """The stages: what each trains, and with which losses; with the student's features of the first batch, and output.

    Args:
        phases: the settings.
        student: runs once; the features are None if this raises a configuration error.
        flash_set: has the batch and the teacher.
        layers: all exist.
        problems: mistakes are appended.
    """
    teacher, batch = flash_set.cache.teacher, flash_set.batch(0)
    flash, mappings = layers
    if phases.are_teacher_fed:
        unfit = list(feeding_problems(flash, student, batch))
        problems += unfit
        flash = flash if unfit else teacher_fed_stages(flash, teacher)
    else:
        problems += frozen_problems(flash, student)
    taps = [*(tap for stage in flash for tap in stage.student_taps), *(mapping.student for mapping in mappings)]
    features, output = attempt(problems, lambda: _run(student, batch, taps)) or (None, None)
    regular = None
    if phases.regular is not None:
        regular = regular_stage(phases.regular, mappings, batch, output)
        if features is not None:  # the stage may map parts of the output
            parts = [tap for tap in regular.student_taps if tap not in features and not tap.path]
            features = {**features, **{tap: tap.extract(output) for tap in parts}}
        problems += frozen_problems([regular], student)
    plan = Plan(flash, regular)
    problems += label_problems(plan.stages, batch)
    if phases.init is not None and plan.is_teacher_fed:
        plan = replace(plan, flash=(*flash, *_outside(plan, student)))
    return plan, features, output


def criteria_for(
    plan: Plan,
    student: nn.Module,
    teacher: nn.Module,
    features: Features,
    targets: Features,
    *,
    loss_func: LossFunction,
    seed: int,
) -> list[Criterion]:
    """A criterion for each stage of a plan, with the matchers that the features of one batch require.

    Args:
        plan: the stages.
        student: its configuration may contain the number of classes.
        teacher: the same.
        features: a feature of the student for each of the plan's taps.
        targets: a feature of the teacher for each of the plan's taps.
        loss_func: for students that compute no loss of their own.
        seed: the first weights of matchers derive from it.

    Raises:
        ConfigurationError: features cannot be compared; all mistakes in one error.
    """
    criteria: list[Criterion] = []
    problems: list[str] = []
    for index, stage in enumerate(plan.stages):
        is_fed = plan.is_teacher_fed and stage is not plan.regular
        unlike = [
            *prediction_problems(stage, student, teacher, features, targets),
            *top_k_problems(stage, targets),
        ]
        if is_fed and not unlike:
            unlike = shape_problems(stage, features, targets, plan.projection)
        problems += unlike
        if unlike:
            continue
        if stage.on_predictions:
            criteria.append(KnowledgeDistillationLoss(1.0, stage.loss_types, stage.loss_weights))
            continue
        criterion = IntermediateLayersKnowledgeDistillationLoss(
            stage.mappings, stage.loss_types, stage.loss_weights, stage.add_origin_loss, loss_func=loss_func
        )
        criteria.append(criterion)
        stage_targets = project(targets, boundary_taps([stage]), plan.projection) if is_fed else targets
        with isolated_random_state(derive_seed(seed, "matchers", index)):
            try:
                criterion.init_feature_matcher(features, stage_targets)
            except ConfigurationError as error:
                problems += error.problems
        if is_fed and any(True for _ in criterion.parameters()):
            problems.append(
                f"inputs='teacher' has no feature matchers, but the loss types of {stage.name!r}, "
                f"{', '.join(stage.loss_types)}, have parameters to train; {REMEDY}."
            )
    raise_problems(problems)
    return criteria


def _layers(phases: Phases, student: nn.Module, flash_set: FlashSet, anatomy: Anatomy | None) -> Layers:
    """The stages of flash distillation and the mappings of regular distillation, whose layers all exist.

    Raises:
        ConfigurationError: some layers do not exist, or the lists of the settings do not agree.
    """
    teacher, batch = flash_set.cache.teacher, flash_set.batch(0)
    problems: list[str] = []
    flash: tuple[Stage, ...] = ()
    mappings: tuple[LayerMapping, ...] = ()
    if (settings := phases.flash) is not None:
        flash = attempt(problems, lambda: flash_stages(settings, student, teacher, batch, anatomy)) or ()
    if (regular_settings := phases.regular) is not None:
        mappings = attempt(problems, lambda: regular_mappings(regular_settings, student, teacher)) or ()
    blocks = [block for stage in flash for block in stage.blocks]
    pairs = [*(mapping for stage in flash for mapping in stage.mappings), *mappings]
    problems += path_problems(blocks, pairs, student, teacher)
    if problems:
        _run(student, batch, ())  # a student that cannot run raises its own error, which is not about settings
        raise ConfigurationError(problems)
    return flash, mappings


def _computed_by_eager_attention(layers: Layers, student: nn.Module, flash_set: FlashSet) -> tuple[nn.Module, ...]:
    """Those of the two models that compute mapped attention probabilities only by eager attention."""
    flash, mappings = layers
    pairs = [*(pair for stage in flash for pair in stage.mappings), *mappings]
    batch, cache = flash_set.batch(0), flash_set.cache
    models = []
    if needs_eager_attention(student.eval(), [pair.student for pair in pairs], batch):
        models.append(student)
    if cache.needs_eager_attention(batch, [pair.teacher for pair in pairs]):
        models.append(cache.teacher)
    return tuple(models)


@torch.no_grad()
def _run(student: nn.Module, batch: Batch, taps: Sequence[Tap]) -> tuple[Features, Any]:
    """The student's features of one batch in eval mode, and its output."""
    output: list[Any] = []
    with TapRecorder(student, taps, owner="student") as recorder, plain_forward(student):
        features = recorder.run(lambda: output.append(batch.call(student.eval())))
    return features, output[0]


def _masks(student: nn.Module, batch: Batch, features: Features, output: Any, loss_func: LossFunction) -> Masks:
    """Which positions of the student's features count."""
    logits = main_part(output)
    if isinstance(logits, torch.Tensor):
        features = {**features, PREDICTIONS[0].student: logits}
    shift = find_label_shift(student, batch, lambda output, batch: origin_loss(output, batch, loss_func), output)
    return replace(find_masks(student, features, batch), label_shift=shift)


def _outside(plan: Plan, student: nn.Module) -> list[Stage]:
    """The stage outside teacher-fed blocks, if anything there can be trained."""
    outside = outside_stage(plan.flash, plan.regular, student)
    parameters = [p for path in outside.blocks for p in find_module(student, path).parameters()]
    return [outside] if any(parameter.requires_grad for parameter in parameters) else []


def _starts_inside(student: nn.Module, plan: Plan, subspaces: TeacherSubspaces) -> bool:
    subspaces.check(student, plan.teacher_taps)
    return True


def _projection(
    phases: Phases, student: nn.Module, plan: Plan, subspaces: TeacherSubspaces | None
) -> Projection | None:
    """The user's projection to the student's width, or the one to its subspace."""
    if phases.flash is None or not plan.is_teacher_fed:
        return None
    configured = phases.flash.projection
    if configured is not None:
        return lambda hidden, tap: configured(hidden)
    return subspaces.projection(student, plan.teacher_taps) if subspaces is not None else None
