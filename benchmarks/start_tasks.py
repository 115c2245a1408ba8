"""The tasks of `teacher_start.py`: teachers, data and scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from scipy.stats import spearmanr
from sklearn.datasets import load_digits
from text import minilm_directory, source_text, token_batches
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

Batch = dict[str, torch.Tensor]
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@dataclass(frozen=True)
class Task:
    """A teacher, and the data and score of its students.

    Attributes:
        name: the name of the task.
        metric: the name of the score.
        greater_is_better: the direction of the metric.
        teacher: the teacher, in eval mode.
        train: the training batches.
        student: `(depth, width, seed) -> student`.
        score: `student -> score` on held-out data.
        regular: settings of regular distillation.
        init: further settings of the start.
    """

    name: str
    metric: str
    greater_is_better: bool
    teacher: nn.Module
    train: Sequence[Batch]
    student: Callable[[int, int, int], nn.Module]
    score: Callable[[nn.Module], float]
    regular: Mapping[str, Any]
    init: Mapping[str, Any]


class Encoder(nn.Module):
    """A BERT whose last hidden states are projected to the teacher's width."""

    def __init__(self, bert: BertModel, projection: nn.Module) -> None:
        super().__init__()
        self.bert = bert
        self.projection = projection

    def forward(self, **batch: torch.Tensor) -> torch.Tensor:
        """Token embeddings (N, L, 384)."""
        return self.projection(self.bert(**batch).last_hidden_state)


def minilm() -> Task:
    """The pre-trained MiniLM; the rank correlation of held-out sentence similarities with the teacher's."""
    batches = token_batches(220)
    held_out, train = batches[:20], batches[20:]
    teacher = Encoder(BertModel.from_pretrained(minilm_directory(), add_pooling_layer=False), nn.Identity()).eval()

    def student(depth: int, width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        config = BertConfig(
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=width // 32,
            intermediate_size=4 * width,
            **NO_DROPOUT,
        )
        return Encoder(BertModel(config, add_pooling_layer=False), nn.Linear(width, 384))

    expected = similarities(teacher, held_out)
    return Task(
        "minilm",
        "spearman",
        True,
        teacher,
        train,
        student,
        lambda model: float(spearmanr(expected, similarities(model, held_out)).statistic),
        {"layer_mappings_for_knowledge_transfer": [("",)], "loss_types": "NMSE"},
        {"projection_head": "projection"},
    )


@torch.no_grad()
def similarities(encoder: nn.Module, batches: Sequence[Batch]) -> torch.Tensor:
    """The cosine similarity of each pair of texts; a text's embedding is the mean over its tokens."""
    embeddings = []
    for batch in batches:
        mask = batch["attention_mask"][..., None]
        embeddings.append((encoder(**batch) * mask).sum(1) / mask.sum(1))
    rows = nn.functional.normalize(torch.cat(embeddings), dim=1)
    first, second = torch.triu_indices(len(rows), len(rows), 1)
    return (rows @ rows.T)[first, second]


def digits(width: int) -> Task:
    """A vision transformer of four blocks on scikit-learn's digits; accuracy on a quarter of the images."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 16
    labels = torch.tensor(data.target)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    test, rest = order[:449], order[449:]
    generator = torch.Generator().manual_seed(1)
    train = []
    for _ in range(200):
        chosen = rest[torch.randint(len(rest), (64,), generator=generator)]
        noise = 0.1 * torch.randn(64, 1, 8, 8, generator=generator)
        train.append({"pixel_values": images[chosen] + noise, "labels": labels[chosen]})

    def vit(depth: int, wide: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        config = ViTConfig(
            hidden_size=wide,
            num_hidden_layers=depth,
            num_attention_heads=wide // 16,
            intermediate_size=4 * wide,
            image_size=8,
            patch_size=2,
            num_channels=1,
            num_labels=10,
            **NO_DROPOUT,
        )
        return ViTForImageClassification(config)

    @torch.no_grad()
    def accuracy(model: nn.Module) -> float:
        return float((model(pixel_values=images[test]).logits.argmax(1) == labels[test]).float().mean())

    teacher = fitted(vit(4, width, 0), train, 600, 1e-3)
    return Task(f"digits-{width}", "accuracy", True, teacher, train, vit, accuracy, {"temperature": 2.0}, {})


LENGTH = 128


def language(kind: str) -> Task:
    """A character-level language model of the standard library's source; perplexity per held-out character."""
    text = source_text(1_500_000)
    characters = sorted(set(text))
    codes = {character: code for code, character in enumerate(characters)}
    tokens = torch.tensor([codes[character] for character in text])
    windows = tokens[: len(tokens) // LENGTH * LENGTH].reshape(-1, LENGTH)
    windows = windows[torch.randperm(len(windows), generator=torch.Generator().manual_seed(0))]
    held_out = windows[:128]
    rest = windows[128:]
    train = [{"input_ids": part, "labels": part} for part in rest[: len(rest) // 16 * 16].split(16)]

    def model(depth: int, width: int, seed: int) -> nn.Module:
        torch.manual_seed(seed)
        shared = {"vocab_size": len(characters), "tie_word_embeddings": False, "bos_token_id": 0, "eos_token_id": 0}
        if kind == "gpt2":
            dropout = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
            return GPT2LMHeadModel(
                GPT2Config(n_embd=width, n_layer=depth, n_head=width // 32, n_positions=LENGTH, **shared, **dropout)
            )
        return LlamaForCausalLM(
            LlamaConfig(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=width // 32,
                intermediate_size=3 * width,
                max_position_embeddings=LENGTH,
                pad_token_id=0,
                **shared,
            )
        )

    @torch.no_grad()
    def perplexity(model: nn.Module) -> float:
        losses = [model(input_ids=part, labels=part, use_cache=False).loss.item() for part in held_out.split(32)]
        return math.exp(sum(losses) / len(losses))

    teacher = fitted(model(4, 192, 0), train, 900, 2e-3)
    return Task(kind, "perplexity", False, teacher, train, model, perplexity, {}, {})


def fitted(model: nn.Module, batches: Sequence[Batch], steps: int, learning_rate: float) -> nn.Module:
    """Train a teacher with its own loss."""
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    for step in range(steps):
        loss = model(**batches[step % len(batches)]).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


TASKS: Mapping[str, Callable[[], Task]] = {
    "minilm": minilm,
    "digits-128": lambda: digits(128),
    "digits-48": lambda: digits(48),
    "gpt2": lambda: language("gpt2"),
    "llama": lambda: language("llama"),
}
