"""The device of a model."""

from __future__ import annotations

import itertools

import torch
from torch import nn


def device_of(model: nn.Module) -> torch.device:
    """The device of the model's first parameter, else of its first buffer; the CPU for a model without tensors.

    Examples:
        >>> device_of(nn.Linear(2, 1, device="meta")), device_of(nn.ReLU())
        (device(type='meta'), device(type='cpu'))
    """
    first = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if first is None else first.device
