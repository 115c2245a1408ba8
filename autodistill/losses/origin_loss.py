"""The student's own loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.functions import are_probabilities, label_cross_entropy
from autodistill.models.taps import describe, returned_loss


def origin_loss(output: Any, batch: Batch, loss_func: Callable[[Any, Any], torch.Tensor]) -> torch.Tensor:
    """The student's own loss: `output.loss` if the model returns one, else `loss_func(outputs, targets)`.

    For PyTorch's cross-entropy, logits of sequences (N, L, classes) are brought to the layout that it expects, and
    integer one-hot targets to class probabilities.

    Raises:
        ConfigurationError: the model returns no loss and the batch has no targets.
    """
    loss = returned_loss(output)
    if loss is not None:
        return loss
    if batch.targets is None:
        raise ConfigurationError(
            "add_origin_loss needs a model that returns a loss or batches with targets, but there is neither; "
            "set add_origin_loss to False, or provide labels."
        )
    predictions = _predictions(output)
    if loss_func is nn.functional.cross_entropy and _has_classes_last(predictions, batch.targets):
        return label_cross_entropy(predictions, batch.targets)
    return loss_func(predictions, batch.targets)


def _predictions(output: Any) -> Any:
    return output["logits"] if isinstance(output, Mapping) and "logits" in output else output


def _has_classes_last(predictions: Any, targets: Any) -> bool:
    """Whether `label_cross_entropy` reads these targets, where PyTorch's default takes axis 1 as classes or fails.

    Logits (N, L, classes) have labels (N, L), or rows of the same shape that sum to one; integer rows are one-hot.
    """
    if not isinstance(predictions, torch.Tensor) or not isinstance(targets, torch.Tensor):
        return False
    if targets.shape == predictions.shape:
        return (predictions.dim() == 2 and not targets.is_floating_point()) or (
            predictions.dim() == 3 and are_probabilities(targets.float())
        )
    return predictions.dim() > 2 and targets.shape == predictions.shape[:-1]


def default_loss_problem(output: Any, batch: Batch) -> str | None:
    """The reason why PyTorch's cross-entropy cannot be the own loss of a student that returns none; None if it can.

    Args:
        output: what the student returned for the batch.
        batch: with its targets, if any.

    Examples:
        >>> default_loss_problem(torch.zeros(2, 1), Batch((torch.zeros(2, 4), torch.zeros(2, 1))))
        'the default loss_func, cross-entropy, is always 0 for one class; pass loss_func, such as mse_loss.'
    """
    if returned_loss(output) is not None or batch.targets is None:
        return None
    predictions = _predictions(output)
    if not isinstance(predictions, torch.Tensor):
        return (
            f"the default loss_func, cross-entropy, needs logits, but the student returns {describe(predictions)}; "
            "pass loss_func, a function of what the student returns and the targets."
        )
    if predictions.dim() == 2 and predictions.shape[1] == 1:
        return "the default loss_func, cross-entropy, is always 0 for one class; pass loss_func, such as mse_loss."
    return None
