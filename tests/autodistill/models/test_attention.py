"""Switching transformers' models to the attention that computes probabilities, and back."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, CLIPConfig, CLIPModel

from autodistill.batch import Batch
from autodistill.models.attention import (
    attention_configurations,
    eager_attention,
    implementations,
    needs_eager_attention,
)
from autodistill.models.taps import Tap

SIZES = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
TOKENS = Batch({"input_ids": torch.tensor([[1, 2, 3]])})


def bert(attention: str = "sdpa") -> BertModel:
    return BertModel(BertConfig(**SIZES, vocab_size=9, attn_implementation=attention)).eval()


def clip() -> CLIPModel:
    special = {"vocab_size": 9, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    vision = SIZES | {"image_size": 8, "patch_size": 4}
    return CLIPModel(CLIPConfig(text_config=SIZES | special, vision_config=vision, projection_dim=4))


class Wrapper(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: torch.Tensor):
        return self.inner(input_ids=input_ids)


@pytest.mark.parametrize("make", [bert, clip, lambda: Wrapper(bert())], ids=["BERT", "CLIP", "inside a wrapper"])
def test_every_configuration_is_eager_within_the_context_alone(make) -> None:
    model = make()
    configurations = attention_configurations(model)
    if isinstance(model, CLIPModel):
        model.config.text_config._attn_implementation = "eager"  # one tower was loaded differently
    before = implementations(configurations)
    assert "sdpa" in before
    within = []

    def fail() -> None:
        with eager_attention(model):
            within.extend(implementations(configurations))
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert set(within) == {"eager"}
    assert implementations(configurations) == before


@pytest.mark.parametrize(
    ("attention", "tap", "needed"),
    [
        ("sdpa", Tap("encoder.layer.0.attention.self", "1"), True),
        ("sdpa", Tap("encoder.layer.0.attention.self", "0"), False),
        ("sdpa", Tap("encoder.layer.0"), False),
        ("sdpa", Tap("encoder.layer.0", "7"), False),  # a mistake that is reported later
        ("eager", Tap("encoder.layer.0.attention.self", "1"), False),
    ],
)
def test_eager_attention_is_needed_for_parts_that_are_none(attention: str, tap: Tap, needed: bool) -> None:
    assert needs_eager_attention(bert(attention), [tap], TOKENS) == needed


def test_model_without_attention_implementation_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    with eager_attention(model):
        assert not needs_eager_attention(model, [Tap("0", "1")], Batch((torch.zeros(1, 2), None)))
