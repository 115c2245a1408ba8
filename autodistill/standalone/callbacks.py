"""The loss terms of `DistilRunner`, one callback each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.temperature import Temperature, temperature_at
from autodistill.errors import ConfigurationError
from autodistill.losses import functions as losses
from autodistill.losses.loss_modules import (
    AttentionLoss,
    HiddenStates,
    KLDivLoss,
    LayerPairs,
    MSEHiddenStatesLoss,
    paired_layers,
)
from autodistill.losses.weights_and_temperature import weight_problems
from autodistill.models.masks import both_masks, counted_labels
from autodistill.samples import IGNORED_LABEL

STUDENT_HIDDEN_STATES, TEACHER_HIDDEN_STATES = "s_hidden_states", "t_hidden_states"
LOGITS_MASK, HIDDEN_STATES_MASK = "s_logits_mask", "s_hidden_states_mask"
"""The keys under which the runner adds which positions of the student's outputs count; None if all do."""


class LossCallback(nn.Module, ABC):
    """One additive term of the runner's loss; subclass it for a custom term.

    Its parameters are trained with the student. It is called with the batch, to which the runner has added the outputs
    of the models: those of the student under keys that begin with `s_`, those of the teacher under `t_`.

    Args:
        output_key: the name of the term in the runner's record, unique among the callbacks.
        weight: the non-negative factor of the term; the term is recorded without it.

    Raises:
        ConfigurationError: the weight is negative or not finite.

    Examples:
        >>> class SmallLogits(LossCallback):
        ...     def forward(self, batch, progress=0.0):
        ...         return batch["s_logits"].square().mean()
        >>> SmallLogits("size", weight=0.1)({"s_logits": torch.tensor([[3.0, 1.0]])}).item()
        5.0
    """

    def __init__(self, output_key: str, weight: float = 1.0) -> None:
        super().__init__()
        problems = weight_problems([weight])
        if problems:
            raise ConfigurationError(problems)
        self.output_key = output_key
        self.weight = weight

    @abstractmethod
    def forward(self, batch: Mapping[str, Any], progress: float = 0.0) -> torch.Tensor:
        """The term, a scalar without its weight.

        Args:
            batch: the entries of the loader and of both outputs; `labels` are those that each position predicts.
            progress: the share of the steps that are done, in [0, 1).
        """


class KLDivCallback(LossCallback):
    """`KLDivLoss` between the logits of student and teacher; padding and labels of -100 are left out.

    Args:
        output_key: see `LossCallback`.
        temperature: T: a number, an `AnnealedTemperature`, or a function of the share of steps that are done.
        student_logits_key: the key of the student's logits.
        teacher_logits_key: the key of the teacher's logits, whole or as stored in a file.
        weight: see `LossCallback`.

    Examples:
        >>> logits = torch.tensor([[1.0, 2.0]])
        >>> KLDivCallback(temperature=2.0)({"s_logits": logits, "t_logits": logits}).item()
        0.0
    """

    def __init__(
        self,
        output_key: str = "kl_div_loss",
        temperature: Temperature = 1.0,
        student_logits_key: str = "s_logits",
        teacher_logits_key: str = "t_logits",
        *,
        weight: float = 1.0,
    ) -> None:
        super().__init__(output_key, weight)
        self.temperature = temperature
        self.student_logits_key = student_logits_key
        self.teacher_logits_key = teacher_logits_key
        KLDivLoss(temperature_at(temperature, 0.0))  # raises the error for an invalid temperature now

    def forward(self, batch: Mapping[str, Any], progress: float = 0.0) -> torch.Tensor:
        student, teacher = _part(batch, self.student_logits_key), _part(batch, self.teacher_logits_key)
        padding = batch[LOGITS_MASK] if LOGITS_MASK in batch else _padding(batch)
        if padding is not None and not losses.mask_fits(padding, student.shape[:-1]):
            padding = None  # one prediction per sample, for padded inputs
        mask = both_masks(padding, counted_labels(batch.get("labels"), student))
        loss: torch.Tensor = KLDivLoss(temperature_at(self.temperature, progress))(student, teacher, mask)
        return loss


class MSEHiddenStatesCallback(LossCallback):
    """`MSEHiddenStatesLoss` between hidden states; padding is left out.

    Args:
        output_key: see `LossCallback`.
        normalize: as the other arguments up to `num_layers`, see `MSEHiddenStatesLoss`.
        need_mapping: train a linear map from the student's width to the teacher's width.
        teacher_hidden_state_dim: the teacher's width.
        student_hidden_state_dim: the student's width.
        num_layers: if given, train a separate map for each of this many layers.
        weight: see `LossCallback`.
        layer_mapping: pairs (student's layer, teacher's layer), needed if their numbers differ.

    Examples:
        >>> batch = {"s_hidden_states": (torch.zeros(2, 4),), "t_hidden_states": (torch.ones(2, 4),)}
        >>> MSEHiddenStatesCallback()(batch).item()
        1.0
    """

    def __init__(
        self,
        output_key: str = "mse_loss",
        normalize: bool = False,
        need_mapping: bool = False,
        teacher_hidden_state_dim: int | None = None,
        student_hidden_state_dim: int | None = None,
        num_layers: int | None = None,
        *,
        weight: float = 1.0,
        layer_mapping: LayerPairs | None = None,
    ) -> None:
        super().__init__(output_key, weight)
        self.loss = MSEHiddenStatesLoss(
            normalize, need_mapping, teacher_hidden_state_dim, student_hidden_state_dim, num_layers
        )
        self.layer_mapping = layer_mapping

    def forward(self, batch: Mapping[str, Any], progress: float = 0.0) -> torch.Tensor:
        student, teacher = _part(batch, STUDENT_HIDDEN_STATES), _part(batch, TEACHER_HIDDEN_STATES)
        mask = _padding_of_layers(batch, student, teacher, self.layer_mapping)
        loss: torch.Tensor = self.loss(student, teacher, mask, self.layer_mapping)
        return loss


class AttentionHiddenStatesCallback(LossCallback):
    """`AttentionLoss` between hidden states; padding is left out.

    Args:
        output_key: see `LossCallback`.
        exclude_first_and_last: leave out the first and the last layer of both models.
        p: the power of the activations.
        weight: see `LossCallback`.
        layer_mapping: pairs (student's layer, teacher's layer) of the remaining layers, needed if their numbers differ.

    Examples:
        >>> states = tuple(torch.rand(2, 3, 4, 4) for _ in range(3))
        >>> AttentionHiddenStatesCallback()({"s_hidden_states": states, "t_hidden_states": states}).item()
        0.0
    """

    def __init__(
        self,
        output_key: str = "attention_loss",
        exclude_first_and_last: bool = True,
        p: int = 2,
        *,
        weight: float = 1.0,
        layer_mapping: LayerPairs | None = None,
    ) -> None:
        super().__init__(output_key, weight)
        self.loss = AttentionLoss(p)
        self.exclude_first_and_last = exclude_first_and_last
        self.layer_mapping = layer_mapping

    def forward(self, batch: Mapping[str, Any], progress: float = 0.0) -> torch.Tensor:
        states = [_part(batch, key) for key in (STUDENT_HIDDEN_STATES, TEACHER_HIDDEN_STATES)]
        states = [[each] if isinstance(each, torch.Tensor) else each for each in states]
        if self.exclude_first_and_last:
            short = [len(each) for each in states if len(each) < 3]
            if short:
                raise ConfigurationError(
                    f"without the first and the last of {short[0]} layers none is left; give exclude_first_and_last="
                    "False, or more layers."
                )
            states = [each[1:-1] for each in states]
        student, teacher = states
        mask = _padding_of_layers(batch, student, teacher, self.layer_mapping)
        loss: torch.Tensor = self.loss(student, teacher, mask, self.layer_mapping)
        return loss


class LabelLossCallback(LossCallback):
    """Cross-entropy of the student's logits with the labels.

    Args:
        output_key: see `LossCallback`.
        student_logits_key: the key of the student's logits.
        labels_key: the key of the labels.
        ignore_index: the label of positions that do not count.
        weight: see `LossCallback`.

    Examples:
        >>> batch = {"s_logits": torch.zeros(1, 2), "labels": torch.tensor([1])}
        >>> round(LabelLossCallback()(batch).item(), 4)
        0.6931
    """

    def __init__(
        self,
        output_key: str = "label_loss",
        student_logits_key: str = "s_logits",
        labels_key: str = "labels",
        ignore_index: int = IGNORED_LABEL,
        *,
        weight: float = 1.0,
    ) -> None:
        super().__init__(output_key, weight)
        self.student_logits_key = student_logits_key
        self.labels_key = labels_key
        self.ignore_index = ignore_index

    def forward(self, batch: Mapping[str, Any], progress: float = 0.0) -> torch.Tensor:
        logits, labels = _part(batch, self.student_logits_key), _part(batch, self.labels_key)
        return losses.label_cross_entropy(losses.in_full(logits), labels, self.ignore_index)


def _part(batch: Mapping[str, Any], key: str) -> Any:
    if key not in batch:
        raise ConfigurationError(
            f"a callback reads {key!r}, but the batch and the models' outputs hold {', '.join(map(str, batch))}; name "
            "the layers of both models for the runner, or have them return it."
        )
    return batch[key]


def _padding(batch: Mapping[str, Any]) -> torch.Tensor | None:
    return Batch(batch).padding_mask


def _padding_of_layers(
    batch: Mapping[str, Any], student: HiddenStates, teacher: HiddenStates, layer_mapping: LayerPairs | None
) -> torch.Tensor | None:
    """The padding mask if a compared layer is (N, L, C); None if no layer has positions."""
    mask = batch[HIDDEN_STATES_MASK] if HIDDEN_STATES_MASK in batch else _padding(batch)
    if mask is None:
        return None
    layers = [layer for layer, _ in paired_layers(student, teacher, layer_mapping)]
    return mask if any(layer.dim() == 3 and layer.shape[:2] == mask.shape for layer in layers) else None
