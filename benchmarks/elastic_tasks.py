"""The tasks of `elastic.py`: a teacher, a space of architectures, data and a score."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import start_tasks
from start_tasks import NO_DROPOUT, Encoder, Task
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    ViTConfig,
    ViTForImageClassification,
)

Architecture = Mapping[str, Any]


@dataclass(frozen=True)
class ElasticTask:
    """A task of `start_tasks`, with a space of architectures.

    Attributes:
        task: the teacher, the data and the score.
        space: the values of each dimension; `feed_forward` is relative to `width`.
        build: `architecture -> student`.
        budget: the CPU seconds of a student that is trained alone.
        learning_rate: of students that start inside the teacher and train for this budget.
    """

    task: Task
    space: Mapping[str, Sequence[int]]
    build: Callable[[Architecture], nn.Module]
    budget: float
    learning_rate: float


def minilm() -> ElasticTask:
    """The pre-trained MiniLM (6 x 384): 48 architectures."""

    def build(architecture: Architecture) -> nn.Module:
        width = architecture["width"]
        config = BertConfig(
            hidden_size=width,
            num_hidden_layers=architecture["depth"],
            num_attention_heads=width // 32,
            intermediate_size=architecture["feed_forward"] * width,
            **NO_DROPOUT,
        )
        return Encoder(BertModel(config, add_pooling_layer=False), nn.Linear(width, 384))

    space = {"width": (64, 128, 192, 256), "depth": (2, 3, 4, 6), "feed_forward": (1, 2, 4)}
    return ElasticTask(start_tasks.minilm(), space, build, 40.0, 2e-3)


def digits() -> ElasticTask:
    """A vision transformer (4 x 128) of scikit-learn's digits: 18 architectures."""

    def build(architecture: Architecture) -> nn.Module:
        width = architecture["width"]
        config = ViTConfig(
            hidden_size=width,
            num_hidden_layers=architecture["depth"],
            num_attention_heads=width // 16,
            intermediate_size=architecture["feed_forward"] * width,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
            **NO_DROPOUT,
        )
        return ViTForImageClassification(config)

    space = {"width": (16, 32, 64), "depth": (1, 2, 4), "feed_forward": (1, 4)}
    return ElasticTask(start_tasks.digits(128), space, build, 3.0, 2e-3)


def gpt2() -> ElasticTask:
    """A GPT-2 (4 x 192) of characters of source code: 12 architectures."""
    task = start_tasks.language("gpt2")

    def build(architecture: Architecture) -> nn.Module:
        width = architecture["width"]
        sizes = {"n_embd": width, "n_layer": architecture["depth"], "n_head": width // 32}
        config: GPT2Config = task.teacher.config.__class__(**{**_plain(task.teacher), **sizes})
        config.n_inner = architecture["feed_forward"] * width
        return GPT2LMHeadModel(config)

    return ElasticTask(task, _LANGUAGE, build, 15.0, 2e-3)


def llama() -> ElasticTask:
    """A Llama (4 x 192) of characters of source code: 12 architectures."""
    task = start_tasks.language("llama")

    def build(architecture: Architecture) -> nn.Module:
        width = architecture["width"]
        sizes = {
            "hidden_size": width,
            "num_hidden_layers": architecture["depth"],
            "num_attention_heads": width // 32,
            "num_key_value_heads": width // 32,
            "intermediate_size": architecture["feed_forward"] * width,
        }
        return LlamaForCausalLM(LlamaConfig(**{**_plain(task.teacher), **sizes}))

    return ElasticTask(task, _LANGUAGE, build, 15.0, 2e-3)


_LANGUAGE = {"width": (64, 96, 128), "depth": (2, 4), "feed_forward": (1, 3)}


def _plain(model: nn.Module) -> dict[str, Any]:
    settings: dict[str, Any] = model.config.to_diff_dict()
    return settings


TASKS: Mapping[str, Callable[[], ElasticTask]] = {"minilm": minilm, "digits": digits, "gpt2": gpt2, "llama": llama}
