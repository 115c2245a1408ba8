"""Which positions count."""

from __future__ import annotations

import torch
from torch import nn

from autodistill.batch import IGNORED_LABEL


def predicts_next_token(model: nn.Module) -> bool:
    """Whether a position's logits predict the label of the next one, as in transformers' causal language models."""
    return any(mark in type(model).__name__ for mark in ("CausalLM", "LMHeadModel"))


def both_masks(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    """The positions that count in both masks; None is the mask in which every position counts."""
    if left is None or right is None:
        return left if right is None else right
    return left & right


def counted_labels(labels: object, logits: torch.Tensor, ignore_index: int = IGNORED_LABEL) -> torch.Tensor | None:
    """(N, L) or (N,), True where a position's label counts; None if `labels` are not class numbers of `logits`.

    Examples:
        >>> counted_labels(torch.tensor([[2, -100]]), torch.zeros(1, 2, 5))
        tensor([[ True, False]])
    """
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        return None
    return labels != ignore_index
