"""The tasks of the command line: for each the class of its models, its columns, its batches, and what is measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from scipy.stats import spearmanr
from torch import nn

from autodistill.data import IGNORED_LABEL, Batch
from autodistill.models.devices import device_of
from autodistill.models.masks import predicts_next_token

_COMPARED_TEXTS = 1000  # at most; their similarities are half a million

Rows = Mapping[str, list[Any]]
Features = Mapping[str, Any]
Scores = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Encoder:
    """Makes features of rows.

    Args:
        preprocessor: a tokenizer, or an image processor.
        inputs: the names of the features that both models take.
        max_length: tokens of a text.
        labels: the number of each label.
    """

    preprocessor: Any
    inputs: Sequence[str]
    max_length: int
    labels: Mapping[Any, int] = field(default_factory=dict)

    def tokens(self, *texts: list[Any], **options: Any) -> Any:
        """The tokens of texts, or of pairs of texts."""
        return self.preprocessor(*texts, truncation=True, max_length=self.max_length, **options)

    def chosen(self, features: Any) -> dict[str, Any]:
        """Those features that the models take."""
        return {name: features[name] for name in self.inputs if name in features}


def encode_texts(encoder: Encoder, rows: Rows) -> Features:
    """Texts or pairs of them, with a label each where there is a column of labels."""
    texts = [rows[column] for column in ("text", "text_pair") if column in rows]
    features = encoder.chosen(encoder.tokens(*texts))
    return features | ({"labels": [encoder.labels[label] for label in rows["label"]]} if "label" in rows else {})


def encode_words(encoder: Encoder, rows: Rows) -> Features:
    """Sentences as lists of words, with a tag each; it counts at the first token of its word."""
    tokens = encoder.tokens(rows["tokens"], is_split_into_words=True)
    labels = []
    for row, tags in enumerate(rows["tags"]):
        words = tokens.word_ids(row)
        firsts = [
            word if word is not None and word != before else None
            for before, word in zip([None, *words], words, strict=False)
        ]
        labels.append([IGNORED_LABEL if word is None else encoder.labels[tags[word]] for word in firsts])
    return encoder.chosen(tokens) | {"labels": labels}


def encode_images(encoder: Encoder, rows: Rows) -> Features:
    """Images, with a label each."""
    images = [image.convert("RGB") for image in rows["image"]]
    pixels = encoder.preprocessor(images, return_tensors="pt")["pixel_values"]
    return {"pixel_values": list(pixels), "labels": [encoder.labels[label] for label in rows["label"]]}


def accuracy(teacher: nn.Module, batches: Iterable[Batch]) -> Scores:
    """The share of labels that are predicted; those that do not count are left out."""

    def score(student: nn.Module) -> dict[str, float]:
        right = counted = 0
        for batch, output in _outputs(student, batches):
            counts = batch.targets != IGNORED_LABEL
            right += int((output.logits.argmax(dim=-1) == batch.targets)[counts].sum())
            counted += int(counts.sum())
        return {"accuracy": right / counted}

    return score


def language_modelling(teacher: nn.Module, batches: Iterable[Batch]) -> Scores:
    """The cross-entropy of a token, in nats; its exponential is the perplexity."""

    def score(student: nn.Module) -> dict[str, float]:
        total = counted = 0.0
        for batch, output in _outputs(student, batches):
            labels = batch.targets[:, 1:] if predicts_next_token(student) else batch.targets
            tokens = int((labels != IGNORED_LABEL).sum())
            if tokens:  # the mean over no token is no number
                total += float(output.loss) * tokens
                counted += tokens
        return {"eval_loss": total / counted}

    return score


def similarity(teacher: nn.Module, batches: Iterable[Batch]) -> Scores:
    """The rank correlation (Spearman's) of the cosine similarities of all pairs of texts with the teacher's."""
    wanted = cache(lambda: _similarities(teacher, batches))
    return lambda student: {"spearman": float(spearmanr(wanted(), _similarities(student, batches)).statistic)}


def _outputs(model: nn.Module, batches: Iterable[Batch]) -> Iterator[tuple[Batch, Any]]:
    device = device_of(model)
    with torch.no_grad():
        for batch in batches:
            moved = batch.to(device)
            yield moved, moved.call(model)


def _similarities(encoder: nn.Module, batches: Iterable[Batch]) -> torch.Tensor:
    embeddings = torch.cat([output.float().cpu() for _, output in _outputs(encoder, batches)])[:_COMPARED_TEXTS]
    directions = nn.functional.normalize(embeddings, dim=1)
    first, second = torch.triu_indices(len(directions), len(directions), offset=1)
    return (directions @ directions.T)[first, second]


def _collate_images(features: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
    return {
        "pixel_values": torch.stack([feature["pixel_values"] for feature in features]),
        "labels": torch.tensor([feature["labels"] for feature in features]),
    }


@dataclass(frozen=True)
class Task:
    """One task.

    Args:
        auto_class: the class of its models in transformers.
        columns: what its data must have.
        optional: what they may have.
        label_column: whose values are labels of the teacher.
        encode: rows to features.
        collator: from the preprocessor, what makes a batch of features.
        scores: from the teacher and held-out batches, `student -> metrics`.
        metric: the one that it gives.
        family: the usual one of its models.
    """

    auto_class: str
    columns: tuple[str, ...]
    encode: Callable[[Encoder, Rows], Features]
    collator: Callable[[Any], Callable[[Any], Mapping[str, Any]]]
    scores: Callable[[nn.Module, Iterable[Batch]], Scores]
    metric: str
    optional: tuple[str, ...] = ()
    label_column: str | None = None
    family: str = "bert"


TASKS: Mapping[str, Task] = {
    "text-classification": Task(
        "AutoModelForSequenceClassification",
        ("text", "label"),
        encode_texts,
        transformers.DataCollatorWithPadding,
        accuracy,
        "accuracy",
        optional=("text_pair",),
        label_column="label",
    ),
    "token-classification": Task(
        "AutoModelForTokenClassification",
        ("tokens", "tags"),
        encode_words,
        transformers.DataCollatorForTokenClassification,
        accuracy,
        "accuracy",
        label_column="tags",
    ),
    "masked-lm": Task(
        "AutoModelForMaskedLM",
        ("text",),
        encode_texts,
        transformers.DataCollatorForLanguageModeling,
        language_modelling,
        "eval_loss",
    ),
    "causal-lm": Task(
        "AutoModelForCausalLM",
        ("text",),
        encode_texts,
        lambda tokenizer: transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False),
        language_modelling,
        "eval_loss",
        family="gpt2",
    ),
    "sentence-embedding": Task(
        "AutoModel",
        ("text",),
        encode_texts,
        transformers.DataCollatorWithPadding,
        similarity,
        "spearman",
    ),
    "image-classification": Task(
        "AutoModelForImageClassification",
        ("image", "label"),
        encode_images,
        lambda processor: _collate_images,
        accuracy,
        "accuracy",
        label_column="label",
        family="vit",
    ),
}
"""By the name that the configuration gives."""
