"""The criterion on predictions: the loss against the labels, and that against the teacher's logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch, next_labels
from autodistill.errors import ConfigurationError
from autodistill.losses.criterion import Criterion, Features, TrainingStep, run_in_eval
from autodistill.losses.functions import in_full
from autodistill.losses.loss_types import LOSS_TYPES, pair_type_problems
from autodistill.losses.origin_loss import origin_loss
from autodistill.losses.top_k import TeacherFeatures, TopKLogits
from autodistill.losses.weights_and_temperature import check_temperature, temperature_problems, weight_problems
from autodistill.models.label_shift import find_label_shift, has_token_labels, shift_by_loss
from autodistill.models.masks import OUTPUT, counted_labels, masks_by_shape
from autodistill.models.taps import main_part, returned_loss
from autodistill.samples import IGNORED_LABEL


class KnowledgeDistillationLoss(Criterion):
    """`w₀ · loss(student, labels) + w₁ · loss(student, teacher)` on predictions (Hinton et al. 2015,
    https://arxiv.org/abs/1503.02531).

    With `loss_types=("CE", "KL")` and `loss_weights=(1 - α, α)` it is `(1 - α) · CE + α · T² · KL`. Classes are the
    last axis; a loss is averaged over all positions but those whose label is `ignore_index`. The teacher does not run
    if its weight is zero.

    Args:
        temperature: T of the teacher's loss, which has the factor T².
        loss_types: of the labels' loss, 'CE' or 'MSE' (labels are then real numbers), and of the teacher's: 'CE' (soft
            cross-entropy), 'KL' or 'MSE' (of logits).
        loss_weights: of both, in that order; neither is negative.
        student_model: if its own loss compares a position's logits with the next label, so does this one; the model
            is called once to find out.
        teacher_model: what `teacher_model_forward` runs.
        ignore_index: the label of positions that do not count.

    Raises:
        ConfigurationError: a temperature, a loss type or a weight is wrong; all mistakes in one error.

    Examples:
        >>> student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
        >>> criterion = KnowledgeDistillationLoss(2.0, ["CE", "KL"], [0.5, 0.5], student, teacher)
        >>> inputs, labels = torch.randn(8, 4), torch.randint(0, 3, (8,))
        >>> outputs = criterion.teacher_model_forward(inputs)
        >>> loss = criterion(student(inputs), labels)
        >>> loss.backward()
        >>> teacher.weight.grad is None
        True
    """

    def __init__(
        self,
        temperature: float = 1.0,
        loss_types: Sequence[str] = ("CE", "CE"),
        loss_weights: Sequence[float] = (0.5, 0.5),
        student_model: nn.Module | None = None,
        teacher_model: nn.Module | None = None,
        *,
        ignore_index: int = IGNORED_LABEL,
    ) -> None:
        super().__init__(student_model, teacher_model, temperature)
        self.loss_types = tuple(loss_types)
        self.loss_weights = tuple(loss_weights)
        self.ignore_index = ignore_index
        self.teacher_outputs: Any = None
        self._inputs: Any = None
        self._shift: bool | None = None
        problems = [*temperature_problems(temperature), *self._problems()]
        if problems:
            raise ConfigurationError(problems)

    def _problems(self) -> Iterator[str]:
        for name, value in (("loss_types", self.loss_types), ("loss_weights", self.loss_weights)):
            if len(value) != 2:
                yield f"{name} must have two entries, the labels' and the teacher's, but has {len(value)}."
        yield from pair_type_problems(self.loss_types)
        yield from weight_problems(self.loss_weights)

    def teacher_model_forward(self, inputs: Any, teacher_model: nn.Module | None = None) -> Any:
        """Run the teacher, in eval mode and without gradients, and keep its outputs for the next `loss_cal`.

        Args:
            inputs: a mapping (keyword arguments), a tuple (arguments), or the only argument.
            teacher_model: used instead of the criterion's teacher.

        Returns:
            The teacher's outputs; None if its weight is zero: it does not run then.
        """
        self._inputs, self.teacher_outputs = inputs, None
        if self.loss_weights[1] > 0:
            self.teacher_outputs = run_in_eval(self._teacher(teacher_model), inputs)
        return self.teacher_outputs

    def teacher_student_loss_cal(
        self,
        student_outputs: torch.Tensor,
        teacher_outputs: torch.Tensor | TopKLogits,
        mask: torch.Tensor | None = None,
        *,
        temperature: float | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The teacher's term without its weight, of two sets of logits (..., C); includes T².

        Args:
            student_outputs: logits (..., C), not divided by the temperature.
            teacher_outputs: the same shape, or for 'KL' the k largest logits of the same positions.
            mask: (N,) or (N, L), True where a position counts.
            temperature: of this loss; the criterion's own if not given.
            labels: (...), the class number of each position, for loss types that need it.
        """
        loss_type = LOSS_TYPES[self.loss_types[1]]
        temperature = check_temperature(self.temperature if temperature is None else temperature)
        if isinstance(teacher_outputs, TopKLogits):
            return loss_type.between(in_full(student_outputs), teacher_outputs, mask, temperature, labels)
        if student_outputs.shape != teacher_outputs.shape:
            raise ConfigurationError(
                f"student and teacher must predict in one shape, but got {tuple(student_outputs.shape)} and "
                f"{tuple(teacher_outputs.shape)}."
            )
        student, teacher = (_classes_last(in_full(logits), labels) for logits in (student_outputs, teacher_outputs))
        return loss_type.between(student, teacher, mask, temperature, labels)

    def student_targets_loss_cal(self, student_outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The labels' term without its weight.

        Args:
            student_outputs: logits (..., C), or predictions of any shape for 'MSE'.
            targets: class numbers (...) or class probabilities (..., C); for 'MSE' real numbers of the predictions'
                shape, except for a last axis of 1.
        """
        on_labels = LOSS_TYPES[self.loss_types[0]].on_labels
        assert on_labels is not None  # checked when the criterion was made
        return on_labels(_classes_last(in_full(student_outputs), targets), targets, self.ignore_index)

    def loss_cal(self, student_outputs: Any, targets: Any = None) -> torch.Tensor:
        """The loss of the batch on which `teacher_model_forward` ran, a scalar.

        Args:
            student_outputs: what the student returned: logits, or an output that holds them.
            targets: the labels; may be None if their weight is zero.

        Raises:
            ConfigurationError: the teacher has not run, or there are no labels though their loss has a weight.
        """
        logits = main_part(student_outputs)
        if self.loss_weights[1] > 0 and self.teacher_outputs is None:
            raise ConfigurationError("the teacher's loss needs its outputs: call teacher_model_forward(inputs) first.")
        if self.loss_weights[0] > 0 and targets is None:
            raise ConfigurationError("the labels' loss needs labels, but targets is None; pass them or a weight of 0.")
        if has_token_labels(targets, logits) and self._shifts_labels(student_outputs, targets):
            targets = next_labels(targets, self.ignore_index)
        own = self.student_targets_loss_cal(logits, targets) if self.loss_weights[0] > 0 else None
        mask = counted_labels(targets, _classes_last(logits, targets), self.ignore_index)
        return self._sum(own, logits, self.teacher_outputs, mask, labels=targets)

    def loss_cal_sloss(
        self,
        student_outputs: Any,
        teacher_outputs: Any,
        student_loss: torch.Tensor | None,
        mask: Any = None,
        *,
        temperature: float | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss if the student's own is already known, as for a model that computes it; a scalar.

        Args:
            student_outputs: what the student returned.
            teacher_outputs: what the teacher returned, or the k largest of its logits; may be None if its weight is
                zero.
            student_loss: replaces the labels' term; may be None if that has no weight.
            mask: (N,) or (N, L), True where a position of the teacher's term counts.
            temperature: of the teacher's term; the criterion's own if not given.
            labels: (...), the class number of each position, for loss types of the teacher's term that need it.
        """
        logits = main_part(student_outputs)
        return self._sum(student_loss, logits, teacher_outputs, mask, temperature, labels)

    def forward(self, student_outputs: Any, targets: Any = None) -> torch.Tensor:
        """`loss_cal`."""
        return self.loss_cal(student_outputs, targets)

    def step_loss(self, student: Features, teacher: TeacherFeatures, step: TrainingStep) -> torch.Tensor:
        batch, output = step.batch, step.output
        logits = main_part(output)
        masks = self.masks if self.masks is not None else masks_by_shape({OUTPUT: logits}, batch)
        mask = masks.of(OUTPUT, logits, batch, labels=True)
        own = origin_loss(output, batch, self.student_targets_loss_cal) if self.loss_weights[0] > 0 else None
        labels = batch.targets_of(logits, self.masks is not None and self.masks.label_shift is True)
        return self.loss_cal_sloss(
            output, next(iter(teacher.values()), None), own, mask, temperature=step.temperature, labels=labels
        )

    def _shifts_labels(self, outputs: Any, labels: torch.Tensor) -> bool:
        """Whether the student's logits predict the next label, determined once; False if it is unknown."""
        if self._shift is None:
            self._shift = False
            loss = returned_loss(outputs)
            found = shift_by_loss(main_part(outputs), labels, loss) if loss is not None else None
            if found is None and self.student_model is not None and isinstance(self._inputs, Mapping):
                found = find_label_shift(self.student_model, Batch({**self._inputs, "labels": labels}))
            self._shift = found is True
        return self._shift

    def _sum(
        self,
        own: Any,
        student: torch.Tensor,
        teacher: Any,
        mask: Any,
        temperature: float | None = None,
        labels: torch.Tensor | None = None,
    ) -> torch.Tensor:
        total = torch.zeros((), device=student.device)
        if self.loss_weights[0] > 0:
            total = total + self.loss_weights[0] * own
        if self.loss_weights[1] > 0:
            expected = teacher if isinstance(teacher, TopKLogits) else main_part(teacher)
            total = total + self.loss_weights[1] * self.teacher_student_loss_cal(
                student, expected, mask, temperature=temperature, labels=labels
            )
        return total


def _classes_last(logits: torch.Tensor, labels: Any) -> torch.Tensor:
    """Logits of pixels (N, C, H, W), whose labels are (N, H, W), as (N, H, W, C); others as they are."""
    of_pixels = logits.dim() == 4 and isinstance(labels, torch.Tensor) and labels.shape != logits.shape[:-1]
    return logits.movedim(1, -1) if of_pixels and labels.shape == logits[:, 0].shape else logits
