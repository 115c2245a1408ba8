"""The criterion on intermediate layers: weighted losses between mapped features of student and teacher."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.criterion import Criterion, Features, TrainingStep, features_of
from autodistill.losses.feature_matchers import ChannelMatcher
from autodistill.losses.functions import in_full
from autodistill.losses.loss_types import LOSS_TYPES, LossFunction, type_problems
from autodistill.losses.origin_loss import origin_loss
from autodistill.losses.top_k import TeacherFeatures, TopKLogits
from autodistill.losses.weights_and_temperature import check_temperature, temperature_problems, weight_problems
from autodistill.models.label_shift import find_label_shift
from autodistill.models.layer_mappings import in_models, parse_mapping
from autodistill.models.masks import Masks, Positions, find_masks, masks_by_shape
from autodistill.models.modes import plain_forward
from autodistill.models.taps import OutputProcess, TapRecorder


class IntermediateLayersKnowledgeDistillationLoss(Criterion):
    """The weighted sum of losses between mapped layers of a student and a teacher.

    Its parameters are those of the feature matchers, linear maps from the student's width to the teacher's where they
    differ (the hint regressors of FitNets, https://arxiv.org/abs/1412.6550); pass them to the optimizer together with
    the student's. As a context manager it records the student's mapped layers, and removes its hooks on exit.

    Args:
        layer_mappings: pairs of layers; every form of `parse_mapping` is accepted. One student layer may be mapped to
            several teacher layers.
        loss_types: a name in `autodistill.losses.loss_types.LOSS_TYPES` for each mapping.
        loss_weights: one weight for each mapping; 1 each if not given.
        add_origin_loss: add the student's own loss: `outputs.loss` if the model returns one, else `loss_func`.
        student_model: the student whose layers the context manager records.
        teacher_model: the teacher that `teacher_model_forward` runs.
        temperature: T of the losses between logits.
        loss_func: `(outputs, targets) -> loss`, for students that compute no loss of their own.
        example: inputs with which both models are called once, in eval mode, to create the matchers; without them
            call `init_feature_matcher`.

    Raises:
        ConfigurationError: a mapping, a loss type, a weight, the temperature or the length of a list is wrong.

    Examples:
        >>> student = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> teacher = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3))
        >>> inputs, labels = torch.randn(32, 4), torch.randint(0, 3, (32,))
        >>> criterion = IntermediateLayersKnowledgeDistillationLoss(
        ...     [("1", "1"), ("2", "2")], ["MSE", "KL"], add_origin_loss=True,
        ...     student_model=student, teacher_model=teacher, example=inputs,
        ... )
        >>> [tuple(parameter.shape) for parameter in criterion.parameters()]
        [(16, 8), (16,)]
        >>> optimizer = torch.optim.Adam([*student.parameters(), *criterion.parameters()])
        >>> with criterion:
        ...     features = criterion.teacher_model_forward(inputs)
        ...     criterion(student(inputs), labels).backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        layer_mappings: Sequence[Any],
        loss_types: Sequence[str],
        loss_weights: Sequence[float] | None = None,
        add_origin_loss: bool = False,
        *,
        student_model: nn.Module | None = None,
        teacher_model: nn.Module | None = None,
        temperature: float = 1.0,
        loss_func: Callable[[Any, Any], torch.Tensor] = F.cross_entropy,
        example: Any = None,
    ) -> None:
        super().__init__(student_model, teacher_model, temperature)
        self.layer_mappings = tuple(parse_mapping(mapping) for mapping in layer_mappings)
        if student_model is not None and teacher_model is not None:
            self.layer_mappings = in_models(self.layer_mappings, student_model, teacher_model)
        self.loss_types = tuple(loss_types)
        self.loss_weights = tuple(loss_weights) if loss_weights is not None else (1.0,) * len(self.layer_mappings)
        self.add_origin_loss = add_origin_loss
        self._check()
        self.student_features: Features = {}
        self.teacher_features: Features = {}
        self.loss_funcs: list[LossFunction] = []
        self._loss_func = loss_func
        self._recorder: TapRecorder | None = None
        self._hooks = contextlib.ExitStack()
        self._inputs: Any = None
        self._teacher_has_run = False
        if example is not None:
            student = features_of(self._student(), self.student_taps, "student", example)
            self.init_feature_matcher(student, self._teacher_features(example))

    def _check(self) -> None:
        count = len(self.layer_mappings)
        problems = [
            f"{name} must have one entry for each mapping, but has {len(value)} for {count} mappings."
            for name, value in (("loss_types", self.loss_types), ("loss_weights", self.loss_weights))
            if len(value) != count
        ]
        problems += type_problems(self.loss_types)
        problems += weight_problems(self.loss_weights)
        problems += temperature_problems(self.temperature)
        if problems:
            raise ConfigurationError(problems)

    @property
    def layer_output_process(self) -> list[tuple[OutputProcess, OutputProcess]]:
        """For each mapping, how the student's and the teacher's outputs become tensors; see `Tap`."""
        return [(mapping.student.process, mapping.teacher.process) for mapping in self.layer_mappings]

    def init_loss_funcs(self, student: Features, teacher: Features) -> None:
        """Choose the function of each mapping: its loss type's, in the form for probabilities where both features are.

        Args:
            student: one feature for each student tap.
            teacher: one feature for each teacher tap.
        """
        self.loss_funcs = [
            LOSS_TYPES[name].function_for(student[mapping.student], teacher[mapping.teacher])
            for mapping, name in zip(self.layer_mappings, self.loss_types, strict=True)
        ]

    def init_feature_matcher(self, student: Features, teacher: Features) -> None:
        """Create the matchers that the features' shapes require, and choose the function of each loss.

        Args:
            student: one feature for each student tap.
            teacher: one feature for each teacher tap.

        Raises:
            ConfigurationError: some mapped features cannot be matched; every such mapping is named.
        """
        problems: list[str] = []
        matchers: list[nn.Module] = []
        self.init_loss_funcs(student, teacher)
        for index, mapping in enumerate(self.layer_mappings):
            feature = in_full(student[mapping.student])
            try:
                matcher = LOSS_TYPES[self.loss_types[index]].matcher(
                    mapping, feature, teacher[mapping.teacher], probabilities=self._compares_probabilities(index)
                )
                matchers.append(matcher.to(feature.device, feature.dtype))
            except ConfigurationError as error:
                problems.extend(error.problems)
        if problems:
            raise ConfigurationError(problems)
        self.feature_matchers = nn.ModuleList(matchers)

    def _compares_probabilities(self, index: int) -> bool:
        return self.loss_funcs[index] is LOSS_TYPES[self.loss_types[index]].on_probabilities

    def _student(self) -> nn.Module:
        if self.student_model is None:
            raise ConfigurationError(
                "recording the student's layers needs the student, but there is none; pass student_model."
            )
        return self.student_model

    def __enter__(self) -> IntermediateLayersKnowledgeDistillationLoss:
        student = self._student()
        self._recorder = TapRecorder(student, self.student_taps, owner="student")
        self._hooks.enter_context(plain_forward(student))
        self._hooks.enter_context(self._recorder)
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.close()
        self._recorder = None

    def teacher_model_forward(self, inputs: Any, teacher_model: nn.Module | None = None) -> Features:
        """Run the teacher, in eval mode and without gradients, and keep its features for the next call.

        Args:
            inputs: a mapping (keyword arguments; its `attention_mask` and `labels` determine which positions count), a
                tuple (arguments), or the only argument.
            teacher_model: used instead of the criterion's teacher.

        Returns:
            A feature for each teacher tap; none if all weights are zero: the teacher does not run then.
        """
        self._inputs, self._teacher_has_run = inputs, True
        self.teacher_features = self._teacher_features(inputs, teacher_model) if any(self.loss_weights) else {}
        return self.teacher_features

    def _teacher_features(self, inputs: Any, teacher_model: nn.Module | None = None) -> Features:
        return features_of(self._teacher(teacher_model), self.teacher_taps, "teacher", inputs)

    def forward(self, student_outputs: Any, targets: Any = None) -> torch.Tensor:
        """The loss of the batch on which student and teacher have just run, within the context manager; a scalar.

        Args:
            student_outputs: what the student returned, for the origin loss.
            targets: the labels, for the origin loss, and to exclude ignored ones from the losses between logits.

        Raises:
            ConfigurationError: the context manager was not entered, or one of the models has not run.
        """
        if self._recorder is None:
            raise ConfigurationError("the criterion records the student within `with criterion:` only; enter it first.")
        if not self._teacher_has_run:
            raise ConfigurationError("the loss needs the teacher's features: call teacher_model_forward(inputs) first.")
        features = self._recorder.collect()
        self._teacher_has_run = False  # the next loss requires the next batch's features
        self.student_features = {tap: feature.detach() for tap, feature in features.items()}
        batch = Batch((self._inputs, targets))
        if isinstance(self._inputs, Mapping):
            batch = Batch(self._inputs if targets is None else {**self._inputs, "labels": targets})
        if self.masks is None:
            shift = (
                self._label_shift(batch) if any(LOSS_TYPES[kind].compares_logits for kind in self.loss_types) else None
            )
            self.masks = replace(find_masks(self._student(), features, batch), label_shift=shift)
        step = TrainingStep(batch, check_temperature(self.temperature), student_outputs)
        return self.step_loss(features, self.teacher_features, step)

    def step_loss(self, student: Features, teacher: TeacherFeatures, step: TrainingStep) -> torch.Tensor:
        loss = self.loss_cal(student, teacher, step.batch, temperature=step.temperature)
        return loss + origin_loss(step.output, step.batch, self._loss_func) if self.add_origin_loss else loss

    def loss_cal(
        self,
        student: Features,
        teacher: TeacherFeatures,
        batch: Batch | None = None,
        *,
        temperature: float | None = None,
    ) -> torch.Tensor:
        """The loss of one batch between the mapped layers, without the origin loss; a scalar.

        Args:
            student: a feature for each student tap, with its autograd graph.
            teacher: a feature for each teacher tap, which for 'KL' may be the k largest logits of (N, C) or (N, L, C);
                may be empty if all weights are zero.
            batch: where the padding and the ignored labels are read from; without it all positions count.
            temperature: of the losses between logits; the criterion's own if not given.

        Raises:
            ConfigurationError: there are no feature matchers yet.
        """
        if len(self.feature_matchers) != len(self.layer_mappings):
            raise ConfigurationError(
                "feature matchers must exist before the loss, to be passed to the optimizer, but there are none; "
                "pass an example to the criterion, or call init_feature_matcher."
            )
        temperature = self.temperature if temperature is None else temperature
        masks = self.masks
        if masks is None and batch is not None:
            masks = masks_by_shape(student, batch)
        total = torch.zeros((), device=next(iter(student.values())).device)
        for index, mapping in enumerate(self.layer_mappings):
            if not self.loss_weights[index] and mapping.teacher not in teacher:
                continue
            term = self._term(
                index, student[mapping.student], teacher[mapping.teacher], masks or Masks(), batch, temperature
            )
            total = total + self.loss_weights[index] * term
        return total

    def _term(
        self,
        index: int,
        feature: torch.Tensor,
        teacher: torch.Tensor | TopKLogits,
        masks: Masks,
        batch: Batch | None,
        temperature: float,
    ) -> torch.Tensor:
        tap, matcher = self.layer_mappings[index].student, self.feature_matchers[index]
        loss_type = LOSS_TYPES[self.loss_types[index]]
        probabilities = self._compares_probabilities(index)
        # In at least 32 bits: the models' precision may be too low for matchers and losses.
        student = in_full(matcher(in_full(feature)))  # a matcher returns less under autocast
        mask = targets = None
        if batch is not None:
            mask = masks.of(tap, feature, batch, labels=loss_type.compares_logits and not probabilities)
            targets = batch.targets_of(student, masks.label_shift is True) if loss_type.needs_labels else None
        positions = masks.positions.get(tap)
        arranged = positions.arranged if positions is not None else lambda feature: feature
        student = arranged(student)
        if isinstance(teacher, TopKLogits):
            return loss_type.between(student, teacher.arranged(arranged), mask, temperature, targets, matcher)
        teacher = arranged(in_full(teacher))
        if probabilities:
            return self.loss_funcs[index](student, teacher, mask)
        for axis, target in self._moves(index, student, positions):
            student, teacher = student.movedim(axis, target), teacher.movedim(axis, target)
        return loss_type.between(student, teacher, mask, temperature, targets, matcher)

    def _moves(self, index: int, feature: torch.Tensor, positions: Positions | None) -> list[tuple[int, int]]:
        """The axes to move to bring a feature to (N, L, ..., C)."""
        if feature.dim() != 4:
            return []
        if self._channel_axis(index, positions) == 1:
            return [(1, -1)]
        return [(2, 1)] if positions is not None and positions.axis == 2 else []

    def _channel_axis(self, index: int, positions: Positions | None) -> int:
        """The channel axis of a feature of four axes: that of its matcher; else 1, as of images (N, C, H, W) and
        attention (N, heads, L, L), unless the positions are there."""
        matcher = self.feature_matchers[index]
        if isinstance(matcher, ChannelMatcher):
            return matcher.axis
        return -1 if positions is not None and positions.axis == 1 else 1

    def _label_shift(self, batch: Batch) -> bool | None:
        return find_label_shift(
            self._student(), batch, lambda output, batch: origin_loss(output, batch, self._loss_func)
        )
