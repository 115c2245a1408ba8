"""Embeddings equal the pooling written out here; a saved encoder is loaded unchanged; other folders are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from saved_teachers import BERT, save_teacher
from torch import nn

from autodistill.cli.sentence_encoder import SentenceEncoder
from autodistill.errors import ConfigurationError

TOKENS = torch.tensor([[2, 5, 6, 3], [2, 7, 3, 0]])
MASK = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]])


def make(**options):
    torch.manual_seed(0)
    return SentenceEncoder(transformers.BertModel(transformers.BertConfig(**BERT, vocab_size=20)), **options).eval()


@torch.no_grad()
def test_mean_leaves_out_padding():
    encoder = make()
    states = encoder.model(input_ids=TOKENS, attention_mask=MASK).last_hidden_state
    expected = torch.stack([states[0].mean(dim=0), states[1, :3].mean(dim=0)])
    torch.testing.assert_close(encoder(TOKENS, MASK), expected)


@torch.no_grad()
def test_first_token_is_projected_and_normalised_to_length_one():
    encoder = make(pooling="cls", projection=nn.Linear(16, 5), normalize=True)
    first = encoder.model(input_ids=TOKENS, attention_mask=MASK).last_hidden_state[:, 0]
    projected = first @ encoder.projection.weight.T + encoder.projection.bias
    torch.testing.assert_close(encoder(TOKENS, MASK), projected / projected.norm(dim=1, keepdim=True))
    assert encoder.width == 5


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
@pytest.mark.parametrize("bias", [True, False, None])
@pytest.mark.parametrize("normalize", [True, False])
def test_saved_encoder_is_loaded_unchanged(pooling, bias, normalize):
    projection = None if bias is None else nn.Linear(16, 5, bias=bias)
    encoder = make(pooling=pooling, projection=projection, normalize=normalize)
    encoder.save_pretrained("saved")
    loaded = SentenceEncoder.from_pretrained("saved").eval()
    assert torch.equal(loaded(TOKENS, MASK), encoder(TOKENS, MASK))


def test_plain_model_is_pooled_by_the_mean():
    encoder = SentenceEncoder.from_pretrained(save_teacher(Path("plain"), "BertModel", **BERT))
    assert (encoder.pooling, encoder.projection, encoder.normalize) == ("mean", None, False)
    assert encoder.model.pooler is None


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("modules.json", lambda modules: [*modules, modules[1]], "consist of Transformer, Pooling, Dense, Normalize"),
        ("1_Pooling/config.json", lambda c: c | {"pooling_mode_max_tokens": True}, r"but .* has \['max', 'mean'\]"),
        (
            "2_Dense/config.json",
            lambda c: c | {"activation_function": "torch.nn.Tanh"},
            "linear projection, but saved/2_Dense has torch.nn.Tanh",
        ),
    ],
)
def test_other_module_pooling_or_activation_is_refused(file, change, message):
    make(projection=nn.Linear(16, 5)).save_pretrained("saved")
    path = Path("saved") / file
    path.write_text(json.dumps(change(json.loads(path.read_text(encoding="utf-8")))), encoding="utf-8")
    with pytest.raises(ConfigurationError, match=message):
        SentenceEncoder.from_pretrained("saved")
