"""The tasks of the command line: the class of models, the columns, the batches, and the metric of each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import transformers
from scipy.stats import spearmanr
from torch import nn

from autodistill.batch import Batch
from autodistill.cli.data import read_image
from autodistill.models.devices import device_of
from autodistill.models.label_shift import find_label_shift
from autodistill.samples import IGNORED_LABEL

_COMPARED_TEXTS = 1000  # at most; they have half a million similarities

Rows = Mapping[str, list[Any]]
Features = Mapping[str, Any]
Scores = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Encoder:
    """Converts rows to features.

    Args:
        preprocessor: a tokenizer, or an image processor.
        inputs: the names of the features that both models take.
        max_length: the maximal number of tokens of a text.
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
        """The features that the models take."""
        return {name: features[name] for name in self.inputs if name in features}


def encode_texts(encoder: Encoder, rows: Rows) -> Features:
    """Encode texts or pairs of texts, each with a label if there is a column of labels."""
    texts = [rows[column] for column in ("text", "text_pair") if column in rows]
    features = encoder.chosen(encoder.tokens(*texts))
    return features | ({"labels": [encoder.labels[label] for label in rows["label"]]} if "label" in rows else {})


def encode_words(encoder: Encoder, rows: Rows) -> Features:
    """Encode lists of words, each word with a tag, which counts at the first token of the word."""
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
    """Encode images, each with a label."""
    images = [read_image(image) for image in rows["image"]]
    pixels = encoder.preprocessor(images, return_tensors="pt")["pixel_values"]
    return {"pixel_values": list(pixels), "labels": [encoder.labels[label] for label in rows["label"]]}


def accuracy(teacher: nn.Module, batches: Iterable[Batch]) -> Scores:
    """The share of labels that are predicted correctly; labels that do not count are ignored."""

    def score(student: nn.Module) -> dict[str, float]:
        right = counted = 0
        for batch, output in _outputs(student, batches):
            counts = batch.targets != IGNORED_LABEL
            right += int((output.logits.argmax(dim=-1) == batch.targets)[counts].sum())
            counted += int(counts.sum())
        return {"accuracy": right / counted}

    return score


def language_modelling(teacher: nn.Module, batches: Iterable[Batch]) -> Scores:
    """The cross-entropy in nats per token; its exponential is the perplexity."""

    def score(student: nn.Module) -> dict[str, float]:
        total = counted = 0.0
        shifts: bool | None = None
        for batch, output in _outputs(student, batches):
            shifts = find_label_shift(student, batch, output=output) is True if shifts is None else shifts
            labels = batch.targets[:, 1:] if shifts else batch.targets
            tokens = int((labels != IGNORED_LABEL).sum())
            if tokens:  # the mean over no tokens is nan
                total += float(output.loss) * tokens
                counted += tokens
        return {"eval_loss": total / counted}

    return score


def similarity(teacher: nn.Module, batches: Iterable[Batch]) -> Scores:
    """Spearman's rank correlation of the cosine similarities of all pairs of texts with the teacher's."""
    reference = cache(lambda: _similarities(teacher, batches))

    def score(student: nn.Module) -> dict[str, float]:
        own = reference() if student is teacher else _similarities(student, batches)
        return {"spearman": float(spearmanr(reference(), own).statistic)}

    return score


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
        auto_class: the name of the class of its models in transformers.
        columns: the columns that its data must have.
        optional: the columns that its data may have.
        label_column: the column whose values are labels of the teacher.
        encode: converts rows to features.
        collator: returns, for a preprocessor, the function that collates features to a batch.
        scores: returns, for the teacher and held-out batches, `student -> metrics`.
        metric: the name of the metric that `scores` measures.
        family: the usual family of its models.
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
"""The tasks by their name in the configuration."""
