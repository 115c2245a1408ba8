"""The attention implementation of transformers' models: only the plain one ("eager") computes probabilities."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.models.modes import plain_forward
from autodistill.models.taps import Tap, any_absent


def attention_configurations(model: nn.Module) -> list[Any]:
    """The configurations inside a model that have an attention implementation, each once, outer ones first.

    Examples:
        >>> attention_configurations(nn.Linear(2, 2))
        []
    """
    found: dict[int, Any] = {}
    for module in model.modules():
        _collect(getattr(module, "config", None), found)
    return list(found.values())


def implementations(configurations: Iterable[Any]) -> tuple[str | None, ...]:
    """The attention implementation of each configuration."""
    return tuple(configuration._attn_implementation for configuration in configurations)


@contextlib.contextmanager
def eager_attention(*models: nn.Module) -> Iterator[None]:
    """Within the context, transformers' models among these and inside them compute attention probabilities.

    Afterwards every configuration has the implementation that it had before, also after an exception. A model that
    does not support the switch stays as it is.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=4, num_hidden_layers=1, num_attention_heads=2, intermediate_size=4, vocab_size=9)
        >>> model = BertModel(BertConfig(**sizes, attn_implementation="sdpa"))
        >>> with eager_attention(model):
        ...     implementations(attention_configurations(model))
        ('eager',)
        >>> implementations(attention_configurations(model))
        ('sdpa',)
    """
    before = [(config, config._attn_implementation) for model in models for config in attention_configurations(model)]
    try:
        for model in models:
            for switchable in _outermost(model):
                switchable.set_attn_implementation("eager")
        yield
    finally:
        for config, implementation in before:  # an outer configuration sets those inside it, which follow
            config._attn_implementation = implementation


@torch.no_grad()
def needs_eager_attention(model: nn.Module, taps: Iterable[Tap], batch: Batch) -> bool:
    """Whether a tap selects a part of an output that is None, in a model whose attention can be switched to eager.

    Args:
        model: in eval mode; it runs only if one of its implementations is not eager, and a tap selects a part.
        taps: existing layers of the model.
        batch: any batch.
    """
    parts = [tap for tap in taps if tap.selects_a_part]
    if not parts or set(implementations(attention_configurations(model))) <= {None, "eager"}:
        return False
    with plain_forward(model):
        return any_absent(model, parts, lambda: batch.call(model))


def _collect(config: Any, found: dict[int, Any]) -> None:
    """Add a configuration and those inside it, each once."""
    if not hasattr(config, "_attn_implementation") or id(config) in found:
        return
    found[id(config)] = config
    for name in getattr(config, "sub_configs", {}):
        _collect(getattr(config, name, None), found)


def _outermost(module: nn.Module) -> Iterator[Any]:
    """The largest modules that have a switch of their own."""
    if callable(getattr(module, "set_attn_implementation", None)):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)
