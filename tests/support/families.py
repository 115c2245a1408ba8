"""Model families: for each a tiny random teacher, a smaller student of the same architecture, and batches for both.

Teachers are wider than their students and, where the family allows it, deeper. The first sample of every text batch is
padded, and the last batch is smaller than the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from torch import nn

VOCABULARY, LENGTH, CLASSES = 40, 7, 10
BATCH_SIZES = (4, 4, 3)


def seeded(make: Callable[[], Any], seed: int = 0) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        make: `(width, depth) -> model`, with dropout wherever the family has one.
        batches: makes the training data.
        flash: the blocks and mappings, if the automatic ones do not fit.
        depths: the depths of the student and the teacher.
        reasons: for each block the reason why it cannot be replayed; None if it is.
    """

    make: Callable[[int, int], nn.Module]
    batches: Callable[[], list[Any]]
    flash: Mapping[str, Any] = field(default_factory=dict)
    depths: tuple[int, int] = (2, 4)
    reasons: tuple[str | None, ...] = (None, None)

    def student(self) -> nn.Module:
        return seeded(lambda: self.make(8, self.depths[0]), 1)

    def teacher(self) -> nn.Module:
        return seeded(lambda: self.make(16, self.depths[1]))


def texts(*, labels: Callable[[torch.Tensor], torch.Tensor] | None = None, pad_left: bool = False) -> list[dict]:
    """Token batches with padding; `labels` computes the labels from the tokens."""
    generator = torch.Generator().manual_seed(2)
    batches = []
    for size in BATCH_SIZES:
        tokens = torch.randint(3, VOCABULARY, (size, LENGTH), generator=generator)
        mask = torch.ones_like(tokens)
        mask[0, slice(2) if pad_left else slice(-2, None)] = 0
        tokens = tokens * mask
        batch = {"input_ids": tokens, "attention_mask": mask}
        batches.append(batch if labels is None else batch | {"labels": labels(tokens)})
    return batches


def next_tokens(tokens: torch.Tensor) -> torch.Tensor:
    """Labels for a causal language model, which shifts them itself."""
    return tokens.masked_fill(tokens == 0, -100)


def every_second(tokens: torch.Tensor) -> torch.Tensor:
    """Labels for a masked language model."""
    positions = torch.arange(LENGTH).expand_as(tokens)
    return tokens.masked_fill((positions % 2 == 0) | (tokens == 0), -100)


def sentence_pairs() -> list[dict]:
    """Batches for an encoder-decoder, whose targets are shorter than its inputs; both are padded."""
    generator = torch.Generator().manual_seed(5)
    batches = texts()
    for batch in batches:
        labels = torch.randint(3, VOCABULARY, (len(batch["input_ids"]), LENGTH - 2), generator=generator)
        labels[-1, -2:] = -100
        batch["labels"] = labels
    return batches


def pictures(channels: int = 3, size: int = 16) -> list[dict]:
    generator = torch.Generator().manual_seed(3)
    return [
        {
            "pixel_values": torch.randn(n, channels, size, size, generator=generator),
            "labels": torch.randint(0, CLASSES, (n,), generator=generator),
        }
        for n in BATCH_SIZES
    ]


def picture_pairs() -> list[tuple]:
    return [(batch["pixel_values"], batch["labels"]) for batch in pictures()]


def vectors(*shape: int) -> list[tuple]:
    generator = torch.Generator().manual_seed(4)
    return [
        (torch.randn(n, *shape, generator=generator), torch.randint(0, CLASSES, (n,), generator=generator))
        for n in BATCH_SIZES
    ]


def padded_vectors() -> list[dict]:
    """Batches for `Encoder`."""
    batches = []
    for inputs, labels in vectors(LENGTH, 8):
        padding = torch.zeros(len(inputs), LENGTH, dtype=torch.bool)
        padding[0, -2:] = True
        batches.append({"inputs": inputs, "padding": padding, "labels": labels})
    return batches


class BasicBlock(nn.Module):
    """Two convolutions and a shortcut, which is projected where stride or channels change."""

    def __init__(self, channels: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.downsample = None
        if stride > 1 or channels != out:
            self.downsample = nn.Sequential(nn.Conv2d(channels, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, images):
        shortcut = images if self.downsample is None else self.downsample(images)
        change = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(images)))))
        change += shortcut
        return self.relu(change)


class ResidualNetwork(nn.Module):
    """Images (N, 3, 16, 16) to logits through three stages; each halves the resolution and doubles the channels."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU(True))
        self.layer1 = self._stage(width, width, depth, 1)
        self.layer2 = self._stage(width, 2 * width, depth, 2)
        self.layer3 = self._stage(2 * width, 4 * width, depth, 2)
        self.fc = nn.Linear(4 * width, CLASSES)

    def _stage(self, channels: int, out: int, depth: int, stride: int) -> nn.Sequential:
        first = BasicBlock(channels, out, stride)
        return nn.Sequential(first, *(BasicBlock(out, out, 1) for _ in range(depth - 1)))

    def forward(self, images):
        features = self.layer3(self.layer2(self.layer1(self.stem(images))))
        return self.fc(features.mean(dim=(2, 3)))


class Encoder(nn.Module):
    """Sequences (N, L, 8) to logits through `nn.TransformerEncoder`, as its documentation shows it."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(8, width)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth)
        for parameter in self.encoder.parameters():  # its layers are copies of one
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, inputs, padding=None, labels=None):
        hidden = self.encoder(self.embedding(inputs), src_key_padding_mask=padding)
        return self.head(hidden.mean(dim=1))


def sequential(width: int, depth: int) -> nn.Sequential:
    blocks = (nn.Sequential(nn.Linear(width, width), nn.GELU(), nn.Dropout(0.1)) for _ in range(depth))
    return nn.Sequential(nn.Linear(8, width), *blocks, nn.Linear(width, CLASSES))


def hugging_face(model: str, width_name: str = "hidden_size", depth_name: str = "num_hidden_layers", **settings: Any):
    """`(width, depth) -> model` for a class of transformers; settings that are functions take the width."""
    model_class = getattr(transformers, model)

    def make(width: int, depth: int) -> nn.Module:
        chosen = {name: value(width) if callable(value) else value for name, value in settings.items()}
        return model_class(model_class.config_class(**{width_name: width, depth_name: depth}, **chosen))

    return make


def half(width: int) -> int:
    return width // 2


def twice(width: int) -> int:
    return 2 * width


BERT_LIKE = {
    "vocab_size": VOCABULARY,
    "num_attention_heads": lambda width: width // 4,
    "intermediate_size": twice,
    "max_position_embeddings": 16,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
LLAMA_LIKE = BERT_LIKE | {"num_key_value_heads": lambda width: width // 8, "head_dim": 4, "attention_dropout": 0.1}
DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}  # where the default is no dropout
T5_LIKE = {
    "vocab_size": VOCABULARY,
    "d_kv": 4,
    "d_ff": twice,
    "num_heads": lambda width: width // 4,
    "decoder_start_token_id": 0,
}
T5_BLOCKS = [f"{part}.block.{i}" for part in ("encoder", "decoder") for i in range(3)]
T5_TARGETS = [f"{part}.block.{i}" for part in ("encoder", "decoder") for i in (1, 2, 3)]


def transformers_families(attention: str) -> dict[str, Family]:
    """The families by name; `attention` is the implementation that the models use."""

    def model(name: str, **settings: Any):
        return hugging_face(name, attn_implementation=attention, **settings)

    return {
        "BERT": Family(model("BertForMaskedLM", **BERT_LIKE), lambda: texts(labels=every_second)),
        "MobileBERT": Family(
            model(
                "MobileBertForMaskedLM",
                **BERT_LIKE,
                embedding_size=half,
                intra_bottleneck_size=half,
                num_feedforward_networks=2,
            ),
            lambda: texts(labels=every_second),
        ),
        "DistilBERT": Family(
            model(
                "DistilBertForMaskedLM",
                width_name="dim",
                depth_name="n_layers",
                vocab_size=VOCABULARY,
                n_heads=lambda width: width // 4,
                hidden_dim=twice,
                max_position_embeddings=16,
            ),
            lambda: texts(labels=every_second),
        ),
        "RoBERTa": Family(model("RobertaForMaskedLM", **BERT_LIKE), lambda: texts(labels=every_second)),
        "GPT-2": Family(
            model(
                "GPT2LMHeadModel",
                width_name="n_embd",
                depth_name="n_layer",
                vocab_size=VOCABULARY,
                n_head=lambda width: width // 4,
                n_positions=16,
                bos_token_id=1,
                eos_token_id=2,
                initializer_range=0.2,
            ),
            lambda: texts(labels=next_tokens),
        ),
        "Llama": Family(model("LlamaForCausalLM", **LLAMA_LIKE), lambda: texts(labels=next_tokens, pad_left=True)),
        "Qwen3": Family(model("Qwen3ForCausalLM", **LLAMA_LIKE), lambda: texts(labels=next_tokens, pad_left=True)),
        "ViT": Family(
            model(
                "ViTForImageClassification",
                image_size=16,
                patch_size=8,
                num_attention_heads=lambda width: width // 4,
                intermediate_size=twice,
                num_labels=CLASSES,
                problem_type="single_label_classification",  # otherwise its forward writes it to the configuration
                **DROPOUT,
            ),
            pictures,
        ),
        "T5 encoder": Family(
            model("T5EncoderModel", width_name="d_model", depth_name="num_layers", **T5_LIKE),
            texts,
        ),
        "T5": Family(
            model("T5ForConditionalGeneration", width_name="d_model", depth_name="num_layers", **T5_LIKE),
            sentence_pairs,
            flash={
                "block_names": T5_BLOCKS,
                "layer_mappings_for_knowledge_transfer": [
                    [(block, "0", teacher, "0")] for block, teacher in zip(T5_BLOCKS, T5_TARGETS, strict=True)
                ],
            },
            depths=(3, 4),
            reasons=(None,) * 6,
        ),
        "ALBERT": Family(
            model("AlbertForMaskedLM", **BERT_LIKE, **DROPOUT, embedding_size=8),
            lambda: texts(labels=every_second),
            reasons=("it runs 2 times in one forward",),
        ),
    }


OTHER_FAMILIES = {
    "residual CNN": Family(
        ResidualNetwork,
        picture_pairs,
        flash={
            "block_names": ["layer1", "layer2", "layer3"],
            "layer_mappings_for_knowledge_transfer": [
                [("layer1", "layer1")],
                [("layer2", "layer2")],
                [("layer3", "layer3")],
            ],
        },
        reasons=(None,) * 3,
    ),
    "nn.Sequential": Family(sequential, lambda: vectors(8)),
    "nn.TransformerEncoder": Family(Encoder, padded_vectors),
}

FAMILIES = {
    **{
        f"{name}, {attention}": family
        for attention in ("eager", "sdpa")
        for name, family in transformers_families(attention).items()
    },
    **OTHER_FAMILIES,
}
