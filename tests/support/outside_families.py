"""Further model families, each with what is expected of it: which blocks are distilled, which of their positions count,
how its predictions are compared, and whether its students can start inside the teacher.

Every entry is written from the family's own definition, so that it can be compared with what the code decides. The
teachers have three blocks in a row and the students two, unless noted; the students are narrower. In some batches the
number of samples equals the length, in others the length equals the student's width.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from families import CLASSES, VOCABULARY, seeded, twice
from independent_losses import Predictions, Row
from torch import nn

SIZES = (5, 3)
"""The number of samples of each batch."""


@dataclass(frozen=True)
class OutsideFamily:
    """One row of the table.

    Attributes:
        make: `(width, depth) -> model`.
        batches: makes the training data.
        rows: the rows of blocks that flash distillation trains, in order.
        predictions: how regular distillation compares the models.
        search: the fields of the student's configuration that a search varies; none for models without one.
        start: None if students start inside the teacher; else a part of the error.
        reasons: for a block's path the reason why it is not replayed.
        depths: of the student and the teacher.
    """

    make: Callable[[int, int], nn.Module]
    batches: Callable[[], list[Any]]
    rows: Sequence[Row]
    predictions: Predictions
    search: Mapping[str, list[Any]] = field(default_factory=dict)
    start: str | None = None
    reasons: Mapping[str, str] = field(default_factory=dict)
    depths: tuple[int, int] = (2, 3)

    def student(self) -> nn.Module:
        return seeded(lambda: self.make(8, self.depths[0]), 1)

    def teacher(self) -> nn.Module:
        return seeded(lambda: self.make(16, self.depths[1]))


# --- data -------------------------------------------------------------------------------------------------------------


def tokens(length: int = 8, *, left: bool = False, sizes: Sequence[int] = SIZES) -> list[dict]:
    """Padded texts of unequal lengths: sample i of a batch lacks i tokens, at most half of them."""
    generator = torch.Generator().manual_seed(2)
    batches = []
    for size in sizes:
        ids = torch.randint(3, VOCABULARY, (size, length), generator=generator)
        missing = torch.arange(size).clamp(max=length // 2)[:, None]
        positions = torch.arange(length)
        mask = (positions >= missing) if left else (positions < length - missing)
        batches.append({"input_ids": ids * mask, "attention_mask": mask.long()})
    return batches


def masked_words(**settings: Any) -> list[dict]:
    """With labels at every second position, and none at padding."""
    batches = tokens(**settings)
    for batch in batches:
        odd = torch.arange(batch["input_ids"].shape[1]) % 2 == 1
        batch["labels"] = batch["input_ids"].masked_fill(~odd | (batch["attention_mask"] == 0), -100)
    return batches


def next_words(**settings: Any) -> list[dict]:
    """With the tokens as labels, and none at padding."""
    batches = tokens(**settings)
    for batch in batches:
        batch["labels"] = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    return batches


def translations(length: int = 8, target_length: int = 6) -> list[dict]:
    """With labels of another length, which are padded otherwise than the inputs."""
    batches = tokens(length)
    for batch, labels in zip(batches, next_words(length=target_length), strict=True):
        batch["labels"] = labels["labels"].flip(0)
    return batches


def images(size: int = 16) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "pixel_values": torch.randn(n, 3, size, size, generator=generator),
            "labels": torch.randint(0, CLASSES, (n,), generator=generator),
        }
        for n in SIZES
    ]


def captions() -> list[dict]:
    return [
        text | {"pixel_values": image["pixel_values"], "return_loss": True}
        for text, image in zip(tokens(), images(), strict=True)
    ]


def spectrograms() -> list[dict]:
    generator = torch.Generator().manual_seed(4)
    return [
        {"input_features": torch.randn(n, 8, 16, generator=generator), "labels": batch["labels"]}
        for n, batch in zip(SIZES, next_words(length=6), strict=True)
    ]


SAMPLES, FRAMES = 38, 8
"""The length of a waveform, and that of the features which kernels 4 and 3 with strides of 2 compute from it."""


def frames(samples: torch.Tensor) -> torch.Tensor:
    for kernel in (4, 3):
        samples = (samples - kernel) // 2 + 1
    return samples


def waveforms() -> list[dict]:
    generator = torch.Generator().manual_seed(5)
    batches = []
    for n in SIZES:
        lengths = SAMPLES - 4 * torch.arange(n)
        mask = torch.arange(SAMPLES) < lengths[:, None]
        batches.append(
            {
                "input_values": torch.randn(n, SAMPLES, generator=generator) * mask,
                "attention_mask": mask.long(),
                "labels": torch.randint(3, VOCABULARY, (n, 2), generator=generator),
            }
        )
    return batches


def pixel_classes() -> list[tuple]:
    """Images with a class for each pixel; those of the border have none."""
    generator = torch.Generator().manual_seed(6)
    pairs = []
    for n in SIZES:
        labels = torch.randint(0, CLASSES, (n, 8, 8), generator=generator)
        labels[:, 0] = -100
        pairs.append((torch.randn(n, 3, 8, 8, generator=generator), labels))
    return pairs


def segments() -> list[dict]:
    """Images with a class for each pixel; 255 is none."""
    generator = torch.Generator().manual_seed(7)
    batches = images(32)
    for batch in batches:
        batch["labels"] = torch.randint(0, CLASSES, (len(batch["labels"]), 32, 32), generator=generator)
        batch["labels"][:, :4] = 255
    return batches


def series() -> list[dict]:
    generator = torch.Generator().manual_seed(8)
    return [
        {
            "past_values": torch.randn(n, 16, 2, generator=generator),
            "future_values": torch.randn(n, 4, 2, generator=generator),
        }
        for n in SIZES
    ]


# --- which positions count --------------------------------------------------------------------------------------------


def all_count(batch: Any) -> None:
    return None


def source(batch: dict) -> torch.Tensor:
    """(N, L) of the encoder's positions."""
    return batch["attention_mask"] == 1


def target(batch: dict) -> torch.Tensor:
    """(N, L) of the decoder's positions."""
    return batch["labels"] != -100


def labelled(batch: dict) -> torch.Tensor:
    return batch["labels"] != -100


def next_labelled(batch: dict) -> torch.Tensor:
    """(N, L): position t predicts label t + 1; padding predicts nothing."""
    counted = torch.zeros_like(batch["labels"], dtype=torch.bool)
    counted[:, :-1] = (batch["labels"][:, 1:] != -100) & (batch["attention_mask"][:, :-1] == 1)
    return counted


def audible(batch: dict) -> torch.Tensor:
    """(N, frames): those computed from samples that are not padding."""
    return torch.arange(FRAMES) < frames(batch["attention_mask"].sum(-1))[:, None]


# --- the models' own losses, by the names of their outputs ------------------------------------------------------------

Output = Mapping[str, torch.Tensor]


def cross_entropy(output: Output, batch: dict) -> torch.Tensor:
    return F.cross_entropy(output["logits"].flatten(0, -2), batch["labels"].flatten())


def shifted_cross_entropy(output: Output, batch: dict) -> torch.Tensor:
    return F.cross_entropy(output["logits"][:, :-1].flatten(0, 1), batch["labels"][:, 1:].flatten())


def connectionist_loss(output: Output, batch: dict) -> torch.Tensor:
    """The sum of the samples' losses."""
    logits, labels = output["logits"], batch["labels"]
    lengths = frames(batch["attention_mask"].sum(-1))
    targets = torch.full((len(logits),), labels.shape[1])
    return F.ctc_loss(logits.log_softmax(-1).transpose(0, 1), labels, lengths, targets, reduction="sum")


def mean_connectionist_loss(output: Output, batch: dict) -> torch.Tensor:
    """The mean of the samples' losses, each divided by the number of its labels, which is the same for all."""
    return connectionist_loss(output, batch) / batch["labels"].numel()


def pixel_cross_entropy(output: Output, batch: tuple) -> torch.Tensor:
    return F.cross_entropy(output["logits"], batch[1])


def words_of_both_streams(output: Output, batch: dict) -> torch.Tensor:
    """ProphetNet's: each of its two streams predicts the labels."""
    words = torch.cat([output[key].flatten(0, -2) for key in ("logits", "logits_ngram")])
    return F.cross_entropy(words, torch.cat([batch["labels"]] * 2).flatten())


def resized_cross_entropy(output: Output, batch: dict) -> torch.Tensor:
    """SegFormer's: at the resolution of the labels."""
    logits = F.interpolate(output["logits"], size=batch["labels"].shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, batch["labels"], ignore_index=255)


MASKED_WORDS = Predictions(labelled, cross_entropy)
NEXT_WORDS = Predictions(next_labelled, shifted_cross_entropy)
TRANSLATION = Predictions(target, cross_entropy)
IMAGE_CLASSES = Predictions(all_count, cross_entropy)


# --- models -----------------------------------------------------------------------------------------------------------


def quarter(width: int) -> int:
    return width // 4


def eighth(width: int) -> int:
    return width // 8


def built(model: str, **settings: Any) -> Callable[[int, int], nn.Module]:
    """`(width, depth) -> model` of transformers; settings that are functions take the width, or width and depth."""
    model_class = getattr(transformers, model)

    def make(width: int, depth: int) -> nn.Module:
        chosen = {}
        for name, value in settings.items():
            arguments = () if not callable(value) else (width, depth)[: value.__code__.co_argcount]
            chosen[name] = value(*arguments) if callable(value) else value
        return model_class(model_class.config_class(**chosen))

    return make


def width(width: int, depth: int) -> int:
    return width


def depth(width: int, depth: int) -> int:
    return depth


TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": width,
    "num_hidden_layers": depth,
    "num_attention_heads": quarter,
    "intermediate_size": twice,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
BERT = {name: value for name, value in TEXT.items() if not name.startswith(("bos", "eos"))}
GROUPED = {"num_key_value_heads": eighth, "head_dim": 4, "attention_dropout": 0.1}
VISION = {
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": width,
    "num_hidden_layers": depth,
    "num_attention_heads": quarter,
    "num_labels": CLASSES,
    "initializer_range": 0.2,
}
SEQUENCES = {
    "vocab_size": VOCABULARY,
    "d_model": width,
    "encoder_layers": depth,
    "decoder_layers": depth,
    "encoder_attention_heads": quarter,
    "decoder_attention_heads": quarter,
    "encoder_ffn_dim": twice,
    "decoder_ffn_dim": twice,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "init_std": 0.2,
}


def clip(width: int, depth: int) -> nn.Module:
    text = {name: value for name, value in TEXT.items() if not callable(value)}
    sizes = {
        "hidden_size": width,
        "num_hidden_layers": depth,
        "num_attention_heads": width // 4,
        "intermediate_size": 2 * width,
        "attention_dropout": 0.1,
    }
    config = transformers.CLIPConfig(
        text_config=text | sizes,
        vision_config=sizes | {"image_size": 16, "patch_size": 8},
        projection_dim=8,
    )
    return transformers.CLIPModel(config)


class RecurrentTagger(nn.Module):
    """Tokens to classes (N, L, classes) through layers of LSTM."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.layers = nn.ModuleList(nn.LSTM(width, width, batch_first=True) for _ in range(depth))
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(width, VOCABULARY)

    def forward(self, input_ids, attention_mask=None, labels=None):
        hidden = self.embedding(input_ids)
        for layer in self.layers:
            hidden = self.dropout(layer(hidden)[0])
        output = {"logits": self.head(hidden)}
        if labels is not None:
            output["loss"] = F.cross_entropy(output["logits"].flatten(0, 1), labels.flatten())
        return output


class Convolutions(nn.Module):
    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, out, 3, padding=1)
        self.norm = nn.GroupNorm(2, out)
        self.activation = nn.ReLU(inplace=True)
        self.dropout = nn.Dropout2d(0.1)
        self.second = nn.Conv2d(out, out, 3, padding=1)

    def forward(self, features):
        return self.activation(self.second(self.dropout(self.activation(self.norm(self.first(features))))))


class UNet(nn.Module):
    """Images (N, 3, 8, 8) to classes of pixels (N, classes, 8, 8), with a shortcut at every resolution."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        sizes = [width * 2**level for level in range(2)]
        self.stem = nn.Conv2d(3, width, 3, padding=1)
        self.down = nn.ModuleList(Convolutions(size, 2 * size) for size in sizes)
        self.up = nn.ModuleList(Convolutions(3 * size, size) for size in reversed(sizes))
        self.head = nn.Conv2d(width, CLASSES, 1)

    def forward(self, pixels):
        features, shortcuts = self.stem(pixels), []
        for block in self.down:
            shortcuts.append(features)
            features = F.max_pool2d(block(features), 2)
        for block in self.up:
            features = F.interpolate(features, scale_factor=2)
            features = block(torch.cat([features, shortcuts.pop()], dim=1))
        return self.head(features)


NO_TABLE = "init='teacher' needs to know which weights"
TWO_ROWS = "init='teacher' writes one row of blocks, 'encoder.block', but the student also has repeated blocks"

FAMILIES = {
    "ELECTRA": OutsideFamily(
        built("ElectraForMaskedLM", **BERT, embedding_size=width),
        masked_words,
        [Row("electra.encoder.layer.{}", source)],
        MASKED_WORDS,
        {"num_hidden_layers": [1, 2]},
    ),
    "ModernBERT": OutsideFamily(
        built(
            "ModernBertForMaskedLM",
            **TEXT,
            global_attn_every_n_layers=2,
            local_attention=4,
            cls_token_id=1,
            sep_token_id=2,
            attention_dropout=0.1,
            mlp_dropout=0.1,
            embedding_dropout=0.1,
        ),
        masked_words,
        [Row("model.layers.{}", source)],
        MASKED_WORDS,
        {"num_hidden_layers": [2, 3]},
    ),
    "DeBERTa-v2": OutsideFamily(
        built(
            "DebertaV2ForMaskedLM",
            **BERT,
            relative_attention=True,
            pos_att_type=["p2c", "c2p"],
            position_buckets=4,
            share_att_key=True,
            norm_rel_ebd="layer_norm",
        ),
        masked_words,
        [Row("deberta.encoder.layer.{}", source)],
        MASKED_WORDS,
        {"num_hidden_layers": [1, 2]},
    ),
    "MPNet": OutsideFamily(
        built("MPNetForMaskedLM", **BERT, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1),
        lambda: masked_words(length=5),
        [Row("mpnet.encoder.layer.{}", source)],
        MASKED_WORDS,
        {"num_hidden_layers": [1, 2]},
    ),
    "XLNet": OutsideFamily(
        built(
            "XLNetLMHeadModel",
            vocab_size=VOCABULARY,
            d_model=width,
            n_layer=depth,
            n_head=quarter,
            d_inner=twice,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        lambda: masked_words(length=5),
        [Row("transformer.layer.{}", source, layout="LNC")],
        MASKED_WORDS,
        {"n_layer": [1, 2]},
        start=NO_TABLE,
    ),
    "Funnel": OutsideFamily(
        built(
            "FunnelForMaskedLM",
            vocab_size=VOCABULARY,
            block_sizes=lambda width, depth: [depth, depth],
            num_decoder_layers=depth,
            d_model=width,
            n_head=quarter,
            d_head=4,
            d_inner=twice,
            pad_token_id=0,
            initializer_std=0.5,
        ),
        masked_words,
        [
            Row("funnel.encoder.blocks.0.{}", source),
            Row("funnel.encoder.blocks.1.{}", all_count),
            Row("funnel.decoder.layers.{}", source),
        ],
        MASKED_WORDS,
        {"block_sizes": [[1, 2], [2, 2]]},
        start=NO_TABLE,
    ),
    "Gemma": OutsideFamily(
        built("GemmaForCausalLM", **TEXT, **GROUPED),
        next_words,
        [Row("model.layers.{}", source)],
        NEXT_WORDS,
        {"num_hidden_layers": [1, 2]},
    ),
    "Mixtral": OutsideFamily(
        built("MixtralForCausalLM", **TEXT, **GROUPED, num_local_experts=4, num_experts_per_tok=2),
        lambda: next_words(left=True),
        [Row("model.layers.{}", source)],
        NEXT_WORDS,
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "OPT": OutsideFamily(
        built(
            "OPTForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=quarter,
            ffn_dim=twice,
            max_position_embeddings=16,
            word_embed_proj_dim=width,
            pad_token_id=0,
            init_std=0.2,
        ),
        lambda: next_words(left=True),
        [Row("model.decoder.layers.{}", source)],
        NEXT_WORDS,
        {"num_hidden_layers": [1, 2]},
    ),
    "GPT-NeoX": OutsideFamily(
        built("GPTNeoXForCausalLM", **TEXT, hidden_dropout=0.1, attention_dropout=0.1),
        lambda: next_words(length=5),
        [Row("gpt_neox.layers.{}", source)],
        NEXT_WORDS,
        {"num_hidden_layers": [1, 2]},
    ),
    "Mamba": OutsideFamily(
        built(
            "MambaForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=depth,
            state_size=4,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        next_words,
        [Row("backbone.layers.{}", source)],
        NEXT_WORDS,
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "BART": OutsideFamily(
        built("BartForConditionalGeneration", **SEQUENCES, max_position_embeddings=16),
        translations,
        [Row("model.encoder.layers.{}", source), Row("model.decoder.layers.{}", target)],
        TRANSLATION,
        {"decoder_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "T5": OutsideFamily(
        built(
            "T5ForConditionalGeneration",
            vocab_size=VOCABULARY,
            d_model=width,
            d_kv=4,
            d_ff=twice,
            num_heads=quarter,
            num_layers=depth,
            decoder_start_token_id=0,
        ),
        lambda: translations(8, 5),
        [Row("encoder.block.{}", source), Row("decoder.block.{}", target)],
        TRANSLATION,
        {"num_decoder_layers": [1, 2]},
        start=TWO_ROWS,
    ),
    "Whisper": OutsideFamily(
        built(
            "WhisperForConditionalGeneration",
            **SEQUENCES,
            num_mel_bins=8,
            max_source_positions=8,
            max_target_positions=16,
            dropout=0.1,
        ),
        spectrograms,
        [Row("model.encoder.layers.{}", all_count), Row("model.decoder.layers.{}", target)],
        TRANSLATION,
        {"encoder_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "wav2vec2": OutsideFamily(
        built(
            "Wav2Vec2ForCTC",
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=quarter,
            intermediate_size=twice,
            conv_dim=[8, 8],
            conv_kernel=[4, 3],
            conv_stride=[2, 2],
            num_feat_extract_layers=2,
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",
            mask_time_prob=0.0,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        waveforms,
        [Row("wav2vec2.encoder.layers.{}", audible)],
        Predictions(audible, connectionist_loss),
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "CLIP": OutsideFamily(
        clip,
        captions,
        [Row("vision_model.encoder.layers.{}", all_count), Row("text_model.encoder.layers.{}", source)],
        Predictions(all_count, None, key="logits_per_image", kind="NMSE"),
        {"vision_config.num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "Swin": OutsideFamily(
        built(
            "SwinForImageClassification",
            image_size=32,
            patch_size=4,
            embed_dim=width,
            depths=lambda width, depth: [depth, depth],
            num_heads=[2, 4],
            window_size=4,
            num_labels=CLASSES,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            initializer_range=0.2,
            problem_type="single_label_classification",
        ),
        lambda: images(32),
        [Row("swin.encoder.layers.{}", all_count, partners=(0, 1))],
        IMAGE_CLASSES,
        {"depths": [[1, 2], [2, 2]]},
        start=NO_TABLE,
    ),
    "ConvNeXt V2": OutsideFamily(
        built(
            "ConvNextV2ForImageClassification",
            image_size=16,
            patch_size=2,
            hidden_sizes=lambda width: [width, 2 * width],
            depths=lambda width, depth: [depth, depth],
            num_stages=2,
            num_labels=CLASSES,
            drop_path_rate=0.1,
            initializer_range=0.2,
            problem_type="single_label_classification",
        ),
        images,
        [Row("convnextv2.encoder.stages.{}", all_count, partners=(0, 1), layout="NCHW")],
        IMAGE_CLASSES,
        {"depths": [[1, 2], [2, 2]]},
        start=NO_TABLE,
    ),
    "DINOv2": OutsideFamily(
        built(
            "Dinov2ForImageClassification",
            **VISION,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            drop_path_rate=0.1,
            layerscale_value=0.5,
            problem_type="single_label_classification",
        ),
        images,
        [Row("dinov2.encoder.layer.{}", all_count)],
        IMAGE_CLASSES,
        {"num_hidden_layers": [1, 2]},
    ),
    "LSTM": OutsideFamily(
        RecurrentTagger,
        masked_words,
        [Row("layers.{}", source)],
        MASKED_WORDS,
        start=NO_TABLE,
    ),
    "U-Net": OutsideFamily(
        UNet,
        pixel_classes,
        [
            Row("down.{}", all_count, partners=(0, 1), layout="NCHW"),
            Row("up.{}", all_count, partners=(0, 1), layout="NCHW"),
        ],
        Predictions(lambda batch: batch[1] != -100, pixel_cross_entropy, layout="NCHW"),
        start=NO_TABLE,
    ),
    "Longformer": OutsideFamily(
        built("LongformerForMaskedLM", **BERT, attention_window=4),
        masked_words,  # of a multiple of its window: it pads others, and masks by lengths do not fit then
        [Row("longformer.encoder.layer.{}", source)],
        MASKED_WORDS,
        {"hidden_act": ["gelu", "relu"]},
        start=NO_TABLE,
    ),
    "BLOOM": OutsideFamily(
        built(
            "BloomForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=width,
            n_layer=depth,
            n_head=quarter,
            pad_token_id=0,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            initializer_range=0.2,
        ),
        lambda: next_words(left=True),
        [Row("transformer.h.{}", source)],
        NEXT_WORDS,
        {"n_layer": [1, 2]},
        start=NO_TABLE,
    ),
    "ProphetNet": OutsideFamily(
        built(
            "ProphetNetForConditionalGeneration",
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_encoder_layers=depth,
            num_decoder_layers=depth,
            num_encoder_attention_heads=quarter,
            num_decoder_attention_heads=quarter,
            encoder_ffn_dim=twice,
            decoder_ffn_dim=twice,
            max_position_embeddings=16,
            num_buckets=8,
            use_cache=False,
            init_std=0.2,
        ),
        translations,
        [Row("prophetnet.encoder.layers.{}", source), Row("prophetnet.decoder.layers.{}", all_count)],
        Predictions(target, words_of_both_streams),
        {"num_decoder_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "SegFormer": OutsideFamily(
        built(
            "SegformerForSemanticSegmentation",
            num_encoder_blocks=2,
            depths=lambda width, depth: [depth, depth],
            sr_ratios=[2, 1],
            hidden_sizes=lambda width: [width, 2 * width],
            patch_sizes=[7, 3],
            strides=[4, 2],
            num_attention_heads=[1, 2],
            mlp_ratios=[2, 2],
            decoder_hidden_size=width,
            hidden_dropout_prob=0.1,
            attention_probs_dropout_prob=0.1,
            num_labels=CLASSES,
            initializer_range=0.2,
        ),
        segments,
        [Row("segformer.stages.{}", all_count, partners=(0, 1), layout="NCHW")],
        Predictions(all_count, resized_cross_entropy, layout="NCHW"),
        {"decoder_hidden_size": [8, 16]},
        start=NO_TABLE,
    ),
    "PatchTST": OutsideFamily(
        built(
            "PatchTSTForPrediction",
            num_input_channels=2,
            context_length=16,
            patch_length=4,
            patch_stride=4,
            d_model=width,
            num_hidden_layers=depth,
            num_attention_heads=quarter,
            ffn_dim=twice,
            prediction_length=4,
            attention_dropout=0.1,
            ff_dropout=0.1,
            init_std=0.2,
        ),
        series,
        [Row("model.encoder.layers.{}", all_count)],
        Predictions(all_count, None, key="prediction_outputs", kind="NMSE"),
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "CANINE": OutsideFamily(
        built(
            "CanineForTokenClassification",
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=quarter,
            intermediate_size=twice,
            max_position_embeddings=16,
            downsampling_rate=4,
            num_hash_buckets=20,
            local_transformer_stride=8,
            num_labels=VOCABULARY,
            initializer_range=0.2,
        ),
        masked_words,
        [
            Row("canine.initial_char_encoder.layer.{}", source, partners=(0,)),
            Row("canine.encoder.layer.{}", all_count),
            Row("canine.final_char_encoder.layer.{}", source, partners=(0,)),
        ],
        MASKED_WORDS,
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "MPT": OutsideFamily(
        built(
            "MptForCausalLM",
            vocab_size=VOCABULARY,
            d_model=width,
            n_layers=depth,
            n_heads=quarter,
            expansion_ratio=2,
            max_seq_len=16,
            resid_pdrop=0.1,
            emb_pdrop=0.1,
            initializer_range=0.2,
        ),
        lambda: next_words(left=True),
        [Row("transformer.blocks.{}", source)],
        NEXT_WORDS,
        {"n_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "Falcon": OutsideFamily(
        built(
            "FalconForCausalLM",
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=quarter,
            alibi=True,
            hidden_dropout=0.1,
            attention_dropout=0.1,
            bos_token_id=1,
            eos_token_id=2,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        lambda: next_words(left=True),
        [Row("transformer.h.{}", source)],
        NEXT_WORDS,
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "M2M-100": OutsideFamily(
        built("M2M100ForConditionalGeneration", **SEQUENCES, max_position_embeddings=16),
        translations,
        [Row("model.encoder.layers.{}", source), Row("model.decoder.layers.{}", target)],
        TRANSLATION,
        {"encoder_layers": [1, 2]},
        start=NO_TABLE,
    ),
    "PoolFormer": OutsideFamily(
        built(
            "PoolFormerForImageClassification",
            num_encoder_blocks=2,
            depths=lambda width, depth: [depth, depth],
            hidden_sizes=lambda width: [width, 2 * width],
            patch_sizes=[7, 3],
            strides=[4, 2],
            padding=[2, 1],
            drop_path_rate=0.1,
            layer_scale_init_value=0.5,
            num_labels=CLASSES,
            initializer_range=0.2,
            problem_type="single_label_classification",
        ),
        lambda: images(32),
        [
            Row("poolformer.encoder.block.0.{}", all_count, layout="NCHW"),
            Row("poolformer.encoder.block.1.{}", all_count, layout="NCHW"),
        ],
        IMAGE_CLASSES,
        {"depths": [[1, 2], [2, 2]]},
        start=NO_TABLE,
    ),
    "SEW": OutsideFamily(
        built(
            "SEWForCTC",
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=quarter,
            intermediate_size=twice,
            squeeze_factor=2,
            conv_dim=[8, 8],
            conv_kernel=[4, 3],
            conv_stride=[2, 2],
            num_conv_pos_embeddings=4,
            num_conv_pos_embedding_groups=2,
            feat_extract_norm="layer",
            mask_time_prob=0.0,
            pad_token_id=0,
            initializer_range=0.2,
        ),
        waveforms,
        [Row("sew.encoder.layers.{}", all_count)],
        Predictions(audible, mean_connectionist_loss),
        {"num_hidden_layers": [1, 2]},
        start=NO_TABLE,
    ),
}
