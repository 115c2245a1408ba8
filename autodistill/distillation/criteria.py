"""Criteria: what flash and regular distillation minimise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.data import Batch
from autodistill.distillation import losses
from autodistill.distillation.layers import Tap, parse_mapping
from autodistill.distillation.matchers import ChannelMatcher, matcher_for
from autodistill.errors import ConfigurationError

LOSS_TYPES = ("MSE", "NMSE", "L1", "KL", "cosine")
"""The known losses: squared error, the same normalised by the teacher's power, absolute error,
Kullback-Leibler divergence, cosine distance."""

Features = Mapping[Tap, torch.Tensor]


class IntermediateLayersKnowledgeDistillationLoss(nn.Module):
    """The weighted sum of losses between mapped layers of a student and a teacher.

    Its parameters are those of the feature matchers; give them to the optimizer together with the student's.
    The matchers exist once `init_feature_matcher` has seen one pair of features.

    Args:
        layer_mappings: pairs of layers; every form of `parse_mapping` is accepted.
        loss_types: one of `LOSS_TYPES` for each mapping.
        loss_weights: one weight for each mapping; 1 each if not given.

    Raises:
        ConfigurationError: a mapping, a loss type or the length of a list is wrong.

    Examples:
        >>> criterion = IntermediateLayersKnowledgeDistillationLoss([("encoder", "encoder")], ["MSE"])
        >>> student, teacher = {Tap("encoder"): torch.zeros(8, 128)}, {Tap("encoder"): torch.ones(8, 512)}
        >>> criterion.init_feature_matcher(student, teacher)
        >>> [tuple(p.shape) for p in criterion.parameters()]
        [(512, 128), (512,)]
    """

    def __init__(
        self,
        layer_mappings: Sequence[Any],
        loss_types: Sequence[str],
        loss_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.layer_mappings = tuple(parse_mapping(mapping) for mapping in layer_mappings)
        self.loss_types = tuple(loss_types)
        self.loss_weights = tuple(loss_weights) if loss_weights is not None else (1.0,) * len(self.layer_mappings)
        self._check()
        self.feature_matchers = nn.ModuleList()
        self._are_probabilities: list[bool] = []

    def _check(self) -> None:
        count = len(self.layer_mappings)
        problems = [
            f"{name} must have one entry for each mapping, but has {len(value)} for {count} mappings."
            for name, value in (("loss_types", self.loss_types), ("loss_weights", self.loss_weights))
            if len(value) != count
        ]
        unknown = [kind for kind in self.loss_types if kind not in LOSS_TYPES]
        problems += [f"a loss type is one of {', '.join(LOSS_TYPES)}, but got {kind!r}." for kind in unknown]
        if problems:
            raise ConfigurationError(problems)

    @property
    def student_taps(self) -> list[Tap]:
        """The student's mapped outputs, each once."""
        return list(dict.fromkeys(mapping.student for mapping in self.layer_mappings))

    @property
    def teacher_taps(self) -> list[Tap]:
        """The teacher's mapped outputs, each once."""
        return list(dict.fromkeys(mapping.teacher for mapping in self.layer_mappings))

    def init_feature_matcher(self, student: Features, teacher: Features) -> None:
        """Create the matchers that the shapes of one pair of features ask for.

        Raises:
            ConfigurationError: some mapped features cannot be matched; every such mapping is named.
        """
        problems: list[str] = []
        matchers: list[nn.Module] = []
        self._are_probabilities = []
        for mapping, loss_type in zip(self.layer_mappings, self.loss_types, strict=True):
            student_feature, teacher_feature = student[mapping.student], teacher[mapping.teacher]
            probabilities = (
                loss_type == "KL"
                and losses.are_probabilities(student_feature)
                and losses.are_probabilities(teacher_feature)
            )
            self._are_probabilities.append(probabilities)
            try:
                matcher = matcher_for(mapping, student_feature, teacher_feature, probabilities=probabilities)
                matchers.append(matcher.to(student_feature.device))
            except ConfigurationError as error:
                problems.extend(error.problems)
        if problems:
            raise ConfigurationError(problems)
        self.feature_matchers = nn.ModuleList(matchers)

    def loss_cal(
        self,
        student: Features,
        teacher: Features,
        batch: Batch | None = None,
        *,
        temperature: float = 1.0,
        label_shift: bool = False,
    ) -> torch.Tensor:
        """The loss of one batch, a scalar.

        Args:
            student: a feature for each student tap, with its graph.
            teacher: a feature for each teacher tap.
            batch: where the padding and the ignored labels are read from; without it every position counts.
            temperature: of the Kullback-Leibler terms between logits.
            label_shift: logits predict the next label, as in causal language models.
        """
        total = torch.zeros((), device=next(iter(student.values())).device)
        for index, mapping in enumerate(self.layer_mappings):
            # In 32 bits whatever the models' own precision: matchers and losses need the digits.
            feature = self.feature_matchers[index](student[mapping.student].float())
            term = self._term(index, feature, teacher[mapping.teacher], batch, temperature, label_shift)
            total = total + self.loss_weights[index] * term
        return total

    def _term(
        self,
        index: int,
        student: torch.Tensor,
        teacher: torch.Tensor,
        batch: Batch | None,
        temperature: float,
        label_shift: bool,
    ) -> torch.Tensor:
        padding = batch.padding_mask if batch is not None else None
        student, teacher = student.float(), teacher.float()  # under autocast a matcher answers in fewer bits
        if self._are_probabilities[index]:
            return losses.probability_kl_divergence(student, teacher, padding)
        if self._channel_axis(index, student) == 1:
            student, teacher = student.movedim(1, -1), teacher.movedim(1, -1)
        match self.loss_types[index]:
            case "KL":
                labels = batch.label_mask(label_shift) if batch is not None else None
                return losses.kl_divergence(student, teacher, _both(padding, labels), temperature)
            case "MSE":
                return losses.mse_loss(student, teacher, padding)
            case "NMSE":
                return losses.normalized_mse_loss(student, teacher, padding)
            case "L1":
                return losses.l1_loss(student, teacher, padding)
            case _:
                return losses.cosine_loss(student, teacher, padding)

    def _channel_axis(self, index: int, feature: torch.Tensor) -> int:
        """Axis 1 of image features (N, C, H, W), else the last; a matcher that ran along the last axis says so."""
        matcher = self.feature_matchers[index]
        if isinstance(matcher, ChannelMatcher):
            return matcher.axis
        return 1 if feature.dim() == 4 else -1


def _both(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    if left is None or right is None:
        return left if right is None else right
    return left & right
