"""A hash of what a model computes."""

from __future__ import annotations

from typing import Any

from torch import nn

from autodistill.tensors import content_hash

UNIMPORTANT_SETTINGS = ("_name_or_path", "transformers_version", "problem_type")
"""Entries of a configuration that no feature depends on; a forward with labels sets the last one itself."""


def model_fingerprint(model: nn.Module) -> str:
    """A hash of what a model computes: class, configuration, weights and buffers (also those not in its state dict).

    Examples:
        >>> import torch
        >>> layer = nn.Linear(2, 2)
        >>> before = model_fingerprint(layer)
        >>> with torch.no_grad():
        ...     _ = layer.bias.add_(1)
        >>> before == model_fingerprint(layer)
        False
    """
    config: Any = getattr(model, "config", None)
    settings = config.to_dict() if hasattr(config, "to_dict") else {}
    settings = {key: value for key, value in settings.items() if key not in UNIMPORTANT_SETTINGS}
    attention = getattr(config, "_attn_implementation", None)
    tensors = [(name, tensor.detach()) for name, tensor in (*model.named_parameters(), *model.named_buffers())]
    return content_hash((type(model).__module__, str(model), settings, attention, tensors))
