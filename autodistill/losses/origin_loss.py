"""The student's own loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.functions import are_probabilities, label_cross_entropy


def origin_loss(output: Any, batch: Batch, loss_func: Callable[[Any, Any], torch.Tensor]) -> torch.Tensor:
    """The student's own loss: `output.loss` if the model returns one, else `loss_func(outputs, targets)`.

    For PyTorch's cross-entropy, logits of sequences (N, L, classes) are brought to the layout that it expects, and
    integer one-hot targets to class probabilities.

    Raises:
        ConfigurationError: the model returns no loss and the batch has no targets.
    """
    loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
    if loss is not None:
        return loss  # type: ignore[no-any-return]
    if batch.targets is None:
        raise ConfigurationError(
            "add_origin_loss needs a model that returns a loss or batches with targets, but there is neither; "
            "set add_origin_loss to False, or provide labels."
        )
    predictions = output["logits"] if isinstance(output, Mapping) and "logits" in output else output
    if loss_func is nn.functional.cross_entropy and _has_classes_last(predictions, batch.targets):
        return label_cross_entropy(predictions, batch.targets)
    return loss_func(predictions, batch.targets)


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
