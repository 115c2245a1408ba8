"""Whether the logits of a position predict the label of the next position, as in causal language models.

Neither the class of a model nor its configuration determines it: the model's own loss does. It equals the cross-entropy
of the logits with the labels, or that with the labels shifted by one position.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from autodistill.batch import Batch, next_labels
from autodistill.models.calls import call_by_names
from autodistill.models.modes import evaluating, plain_forward
from autodistill.models.taps import main_part, returned_loss
from autodistill.samples import IGNORED_LABEL

logger = logging.getLogger(__name__)

TOLERANCE = 1e-4  # relative

OwnLoss = Callable[[Any, Batch], torch.Tensor | None]
"""The model's own loss, from its output and the batch; None if there is none."""


def has_token_labels(labels: Any, logits: Any) -> bool:
    """Whether these are class numbers (N, L) for logits (N, L, classes).

    Examples:
        >>> has_token_labels(torch.tensor([[1, 2]]), torch.zeros(1, 2, 5))
        True
    """
    if not isinstance(labels, torch.Tensor) or not isinstance(logits, torch.Tensor) or labels.dim() != 2:
        return False
    return not labels.is_floating_point() and labels.shape == logits.shape[:-1]


def shift_by_loss(logits: torch.Tensor, labels: torch.Tensor, loss: torch.Tensor) -> bool | None:
    """Whether a loss is the cross-entropy with the shifted labels; None if it is neither or both.

    Args:
        logits: (N, L, classes).
        labels: (N, L).
        loss: a scalar.

    Examples:
        >>> logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
        >>> shift_by_loss(logits, labels, F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()))
        True
    """
    rows = logits.detach().double().flatten(0, -2)
    own = loss.detach().double().mean()
    agrees = []
    for expected in (labels, next_labels(labels)):
        value = F.cross_entropy(rows, expected.flatten().to(rows.device), ignore_index=IGNORED_LABEL)
        agrees.append(bool(torch.isclose(own, value, rtol=TOLERANCE, atol=0.0)))
    return None if agrees[0] == agrees[1] else agrees[1]


def find_label_shift(
    model: nn.Module, batch: Batch, own_loss: OwnLoss = lambda output, batch: returned_loss(output), output: Any = None
) -> bool | None:
    """Whether a position's logits predict the next label; None if that is not certain, which is logged.

    If the model's own loss is neither cross-entropy, or both, since it has a further term (a router's) or its head is
    zero, the label of each position is read from the gradient of the loss: that of a logit is negative for the label.

    Args:
        model: any model; False for one without a loss of its own or without labels of positions.
        batch: with labels.
        own_loss: of the model.
        output: of the model for this batch, in eval mode; the model runs if it is not passed.

    Examples:
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> sizes = dict(n_embd=8, n_layer=1, n_head=1, vocab_size=20, bos_token_id=0, eos_token_id=0)
        >>> tokens = torch.arange(12).view(2, 6)
        >>> find_label_shift(GPT2LMHeadModel(GPT2Config(**sizes)), Batch({"input_ids": tokens, "labels": tokens}))
        True
    """
    labels = batch.targets
    if not isinstance(labels, torch.Tensor) or labels.dim() != 2 or labels.is_floating_point():
        return False
    if output is None:
        with torch.no_grad():
            output = _run(model, batch)
    logits = main_part(output)
    if not has_token_labels(labels, logits):
        return False
    loss = own_loss(output, batch)
    if loss is None:
        return False
    shift = shift_by_loss(logits, labels, loss)
    if shift is None:
        shift = _shift_by_gradient(model, batch, own_loss)
    if shift is None:
        logger.info(
            "labels exclude no position from the losses between logits: the loss of %s is the cross-entropy neither "
            "with the labels nor with the next ones",
            type(model).__name__,
        )
    return shift


def predicts_next_token(model: nn.Module) -> bool:
    """Whether a model of text, called with tokens and labels, computes the loss of the next token.

    It runs on six tokens with the numbers 0 and 1.

    Examples:
        >>> predicts_next_token(nn.Linear(2, 2))
        False
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    tokens = torch.tensor([[0, 1, 1, 0, 1, 0]], device=device)
    try:
        return find_label_shift(model, Batch({"input_ids": tokens, "labels": tokens})) is True
    except Exception as error:  # of any kind: models of other inputs raise different ones
        logger.debug("%s does not run on tokens with labels: %s", type(model).__name__, error)
        return False


def _run(model: nn.Module, batch: Batch) -> Any:
    with evaluating(model), plain_forward(model):
        return call_by_names(model, batch)


def _shift_by_gradient(model: nn.Module, batch: Batch, own_loss: OwnLoss) -> bool | None:
    with torch.enable_grad():
        output = _run(model, batch)
        logits, loss = main_part(output), own_loss(output, batch)
        if loss is None or not logits.requires_grad or not loss.requires_grad:
            return None
        (gradient,) = torch.autograd.grad(loss.mean(), logits, allow_unused=True)
    if gradient is None:
        return None
    counted = (gradient != 0).any(-1)
    read = gradient.argmin(-1).masked_fill(~counted, IGNORED_LABEL)
    agrees = [torch.equal(read, labels.to(read.device)) for labels in (batch.targets, next_labels(batch.targets))]
    return None if agrees[0] == agrees[1] else agrees[1]
