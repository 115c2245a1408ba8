"""Whether logits predict the next label: by the models' own losses, whatever their names."""

from __future__ import annotations

import logging

import pytest
import torch
import torch.nn.functional as F
import transformers
from families import seeded
from torch import nn

from autodistill.batch import Batch
from autodistill.models.label_shift import find_label_shift, predicts_next_token, shift_by_loss

TOKENS = torch.randint(3, 20, (3, 6), generator=torch.Generator().manual_seed(0))
LABELS = TOKENS.masked_fill(torch.arange(6) == 5, -100)
BATCH = Batch({"input_ids": TOKENS, "labels": LABELS})

GPT2 = {
    "vocab_size": 20,
    "n_embd": 8,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 8,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MIXTRAL = {
    "vocab_size": 20,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "num_local_experts": 2,
    "output_router_logits": True,
    "router_aux_loss_coef": 0.5,
}
BERT = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
BART = {
    "vocab_size": 20,
    "d_model": 8,
    "decoder_layers": 1,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 16,
}
XLNET = {"vocab_size": 20, "d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8}
T5 = {
    "vocab_size": 20,
    "d_model": 8,
    "d_kv": 4,
    "d_ff": 8,
    "num_heads": 2,
    "num_layers": 1,
    "decoder_start_token_id": 0,
}


def made(name: str, settings: dict) -> nn.Module:
    model_class = getattr(transformers, name)
    return seeded(lambda: model_class(model_class.config_class(**settings)))


@pytest.mark.parametrize(
    ("name", "settings", "shifts"),
    [
        ("GPT2LMHeadModel", GPT2, True),
        ("MixtralForCausalLM", MIXTRAL, True),  # its loss has a term of the router
        ("BertForMaskedLM", BERT, False),
        ("BertForTokenClassification", BERT | {"num_labels": 20}, False),
        ("XLNetLMHeadModel", XLNET, False),
        ("BartForCausalLM", BART, False),
        ("T5ForConditionalGeneration", T5, False),
    ],
)
def test_label_shift_is_that_of_the_own_loss(name: str, settings: dict, shifts: bool) -> None:
    model = made(name, settings).train()
    assert find_label_shift(model, BATCH) is shifts
    assert model.training


class Renamed(nn.Module):
    """A language model inside another module."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = made("GPT2LMHeadModel", GPT2)

    def forward(self, input_ids, labels=None):
        return self.inner(input_ids=input_ids, labels=labels)


def test_model_inside_another_module_shifts_as_it_does_alone() -> None:
    assert find_label_shift(Renamed(), BATCH) is True
    assert predicts_next_token(Renamed())


def test_head_of_zeros_does_not_hide_the_shift() -> None:
    model = made("LlamaForCausalLM", MIXTRAL | {"tie_word_embeddings": False})
    nn.init.zeros_(model.lm_head.weight)
    assert find_label_shift(model, BATCH) is True


def test_loss_that_is_no_cross_entropy_is_logged(caplog) -> None:
    class Squares(nn.Module):
        def forward(self, input_ids, labels):
            logits = F.one_hot(input_ids, 20).float()
            return {"loss": logits.square().mean(), "logits": logits}

    with caplog.at_level(logging.INFO, logger="autodistill"):
        assert find_label_shift(Squares(), BATCH) is None
    (message,) = caplog.messages
    assert message.startswith("labels exclude no position from the losses between logits: the loss of Squares")


def test_exactly_one_cross_entropy_must_agree() -> None:
    logits, labels = torch.randn(2, 5, 7), torch.randint(0, 7, (2, 5))
    own = F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    assert shift_by_loss(logits, labels, own) is False
    assert shift_by_loss(logits, labels, own * (1 + 1e-3)) is None
    assert shift_by_loss(torch.zeros(2, 5, 7), labels, torch.log(torch.tensor(7.0))) is None


@pytest.mark.parametrize("labels", [torch.tensor([0, 1, 2]), None], ids=["of samples", "none"])
def test_labels_that_are_not_of_positions_are_not_shifted(labels) -> None:
    model = made("BertForSequenceClassification", BERT | {"num_labels": 3})
    content = {"input_ids": TOKENS} | ({"labels": labels} if labels is not None else {})
    assert find_label_shift(model, Batch(content)) is False
    assert not predicts_next_token(model)
