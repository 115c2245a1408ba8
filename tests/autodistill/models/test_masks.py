"""The positions that count, in models whose features have every layout."""

from __future__ import annotations

import logging

import pytest
import torch
import transformers
from families import seeded
from small_models import Around
from torch import nn

from autodistill.batch import Batch
from autodistill.losses.criterion import features_of
from autodistill.models.masks import both_masks, counted_labels, find_masks
from autodistill.models.taps import AUTO, Tap

LEFT, RIGHT = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])


def test_positions_count_for_both_masks_and_none_leaves_the_other() -> None:
    assert both_masks(LEFT, RIGHT).tolist() == [True, False, False, False]
    assert both_masks(LEFT, None) is LEFT
    assert both_masks(None, RIGHT) is RIGHT
    assert both_masks(None, None) is None


@pytest.mark.parametrize(
    ("labels", "shape", "counted"),
    [
        (torch.tensor([[2, -100], [-100, 0]]), (2, 2, 5), [[True, False], [False, True]]),
        (torch.tensor([1, -100]), (2, 5), [True, False]),
    ],
    ids=["sequences", "samples"],
)
def test_label_counts_unless_it_is_ignored(labels: torch.Tensor, shape: tuple[int, ...], counted: list) -> None:
    assert counted_labels(labels, torch.zeros(shape)).tolist() == counted


def test_index_that_is_ignored_is_an_argument() -> None:
    assert counted_labels(torch.tensor([0, -100]), torch.zeros(2, 5), ignore_index=0).tolist() == [False, True]


@pytest.mark.parametrize(
    "labels", [None, [0, 1], torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]]), torch.tensor(0)], ids=str
)
def test_labels_that_are_no_class_numbers_of_the_logits_have_no_mask(labels: object) -> None:
    assert counted_labels(labels, torch.zeros(2, 5)) is None


def made(name: str, **settings) -> nn.Module:
    model_class = getattr(transformers, name)
    return seeded(lambda: model_class(model_class.config_class(**settings))).eval()


def text(samples: int, length: int, targets: int | None = None) -> dict[str, torch.Tensor]:
    """Tokens of which the last two of the first sample are padding; the last label of the last sample is ignored."""
    generator = torch.Generator().manual_seed(0)
    tokens, mask = torch.randint(3, 20, (samples, length), generator=generator), torch.ones(samples, length).long()
    mask[0, -2:] = 0
    batch = {"input_ids": tokens, "attention_mask": mask}
    if targets is not None:
        batch["labels"] = torch.randint(3, 20, (samples, targets), generator=generator)
        batch["labels"][-1, -1] = -100
    return batch


def masks_of(model: nn.Module, content: dict, *paths: str, process: str = AUTO) -> list:
    """For each path the mask and its feature, samples first."""
    batch, taps = Batch(content), [Tap(path, process) for path in paths]
    features = features_of(model, taps, "model", content)
    masks = find_masks(model, features, batch)
    return [
        (masks.of(tap, features[tap], batch), masks.positions[tap].arranged(features[tap]).shape)
        if tap in masks.positions
        else None
        for tap in taps
    ]


BART = {
    "vocab_size": 20,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 8,
    "decoder_ffn_dim": 8,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "decoder_start_token_id": 2,
    "attn_implementation": "eager",
}


@pytest.mark.parametrize(("samples", "length", "targets"), [(3, 8, 5), (3, 6, 6), (6, 6, 6), (8, 8, 8)], ids=str)
def test_encoder_features_follow_the_attention_mask_and_decoder_features_the_labels(samples, length, targets) -> None:
    batch = text(samples, length, targets)
    model = made("BartForConditionalGeneration", d_model=8, **BART)
    encoder, decoder, logits = masks_of(model, batch, "model.encoder.layers.0", "model.decoder.layers.0", "")
    assert torch.equal(encoder[0], batch["attention_mask"].bool())
    assert torch.equal(decoder[0], batch["labels"] != -100)
    assert torch.equal(logits[0], batch["labels"] != -100)
    ((cross, _),) = masks_of(model, batch, "model.decoder.layers.0.encoder_attn", process="1")
    assert torch.equal(cross, batch["labels"] != -100)  # its rows are the decoder's


def test_decoder_attention_mask_takes_precedence_over_labels() -> None:
    batch = text(3, 8, 5)
    batch["decoder_attention_mask"] = torch.ones(3, 5).long()
    batch["decoder_attention_mask"][1, 3:] = 0
    (decoder,) = masks_of(made("BartForConditionalGeneration", d_model=8, **BART), batch, "model.decoder.layers.0")
    assert torch.equal(decoder[0], batch["decoder_attention_mask"].bool())


def test_decoder_without_inputs_of_its_own_has_no_mask_and_is_logged(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="autodistill"):
        encoder, decoder = masks_of(
            made("BartModel", d_model=8, **BART), text(3, 8), "encoder.layers.0", "decoder.layers.0"
        )
    assert encoder is not None
    assert decoder is None
    assert [message for message in caplog.messages if "all positions count in 'decoder.layers.0'[auto]:" in message]


@pytest.mark.parametrize("inside", [True, False], ids=["in another module", "alone"])
def test_encoder_of_an_encoder_decoder_family_follows_the_attention_mask(inside) -> None:
    batch = text(3, 8)
    model = made("T5EncoderModel", vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_heads=2, num_layers=1)
    model = Around(model) if inside else model
    for block in masks_of(model, batch, "model.encoder.block.0" if inside else "encoder.block.0", ""):
        assert torch.equal(block[0], batch["attention_mask"].bool())


@pytest.mark.parametrize(("samples", "length"), [(3, 7), (8, 8), (7, 7)], ids=str)
def test_features_with_the_samples_second_are_arranged(samples, length) -> None:
    batch = text(samples, length)
    model = made("XLNetLMHeadModel", vocab_size=20, d_model=8, n_layer=1, n_head=2, d_inner=8)
    layer, logits = masks_of(model, batch, "transformer.layer.0", "")
    assert torch.equal(layer[0], batch["attention_mask"].bool())
    assert layer[1] == (samples, length, 8)
    assert torch.equal(logits[0], batch["attention_mask"].bool())


def test_pooled_blocks_have_no_mask_and_are_logged(caplog) -> None:
    batch = text(3, 8)
    sizes = {"d_model": 8, "n_head": 2, "d_head": 4, "d_inner": 8, "num_decoder_layers": 1, "vocab_size": 20}
    model = made("FunnelBaseModel", block_sizes=[1, 1], **sizes)
    with caplog.at_level(logging.INFO, logger="autodistill"):
        first, second = masks_of(model, batch, "encoder.blocks.0.0", "encoder.blocks.1.0")
    assert torch.equal(first[0], batch["attention_mask"].bool())
    assert second is None
    assert [message for message in caplog.messages if "all positions count in 'encoder.blocks.1.0'[auto]:" in message]


def test_frames_of_an_audio_model_follow_its_own_reduction() -> None:
    model = made(
        "Wav2Vec2Model",
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(8, 8),
        conv_stride=(4, 2),
        conv_kernel=(8, 3),
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
        mask_time_prob=0.0,
    )
    mask = torch.ones(2, 80).long()
    mask[1, 40:] = 0
    batch = {"input_values": torch.randn(2, 80), "attention_mask": mask}
    (layer,) = masks_of(model, batch, "encoder.layers.0")
    frames = ((80 - 8) // 4 + 1 - 3) // 2 + 1, ((40 - 8) // 4 + 1 - 3) // 2 + 1
    assert layer[0].sum(dim=1).tolist() == list(frames)
    assert layer[1] == (2, frames[0], 8)


def test_only_the_text_tower_of_two_follows_the_attention_mask() -> None:
    tower = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8, "hidden_size": 8}
    model = made(
        "CLIPModel",
        projection_dim=8,
        text_config=tower | {"vocab_size": 20, "max_position_embeddings": 16, "eos_token_id": 2},
        vision_config=tower | {"image_size": 8, "patch_size": 4},
    )
    batch = text(3, 5) | {"pixel_values": torch.randn(3, 3, 8, 8)}  # four patches and the class: as many as tokens
    written, picture = masks_of(model, batch, "text_model.encoder.layers.0", "vision_model.encoder.layers.0")
    assert torch.equal(written[0], batch["attention_mask"].bool())
    assert picture is None


@pytest.mark.parametrize("samples", [2, 5, 8], ids=str)
def test_heads_channels_and_samples_of_the_size_of_the_length_are_not_positions(samples) -> None:
    length = 8
    batch = text(samples, length)
    model = made(
        "BertModel",
        vocab_size=20,
        hidden_size=length,
        num_hidden_layers=1,
        num_attention_heads=length,
        intermediate_size=length,
        attn_implementation="eager",
    )
    (layer, pooled) = masks_of(model, batch, "encoder.layer.0", "pooler")
    assert torch.equal(layer[0], batch["attention_mask"].bool())
    assert pooled is None
    features = features_of(model, [tap := Tap("encoder.layer.0.attention.self", "1")], "model", batch)
    assert find_masks(model, features, Batch(batch)).positions[tap].axis == 2


def test_model_that_requires_one_length_is_matched_by_size_if_that_is_certain() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.mix = nn.Embedding(20, 4), nn.Linear(7, 7)

        def forward(self, input_ids, attention_mask):
            return self.mix(self.embedding(input_ids).mT).mT

    for samples in (3, 7):
        batch = text(samples, 7)
        ((mask, _),) = masks_of(Fixed(), batch, "", process="")
        assert torch.equal(mask, batch["attention_mask"].bool())
