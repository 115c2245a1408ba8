"""Write real data and a teacher for the command line: images of digits as texts, and a BERT that classifies them.

    python examples/digits_as_text.py runs/digits_as_text [--epochs 12]

An image of 8 x 8 pixels becomes a text of its 64 intensities, from 0 to 16. The folder then contains `train.csv` and
`validation.csv`, with the columns `text` and `label`, and `teacher/`, a model with its tokenizer as `save_pretrained`
writes them. docs/command_line.md continues from there.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertTokenizer

BATCH_SIZE = 32
PIXELS, LEVELS, CLASSES = 64, 17, 10


def load_texts() -> dict[str, tuple[list[str], list[int]]]:
    """The texts and labels for training and for validation."""
    digits = load_digits()
    texts = [" ".join(str(int(level)) for level in image) for image in digits.data]
    train, validation, labels, others = train_test_split(
        texts, digits.target.tolist(), test_size=0.25, stratify=digits.target, random_state=0
    )
    return {"train": (train, labels), "validation": (validation, others)}


def make_tokenizer() -> BertTokenizer:
    """A tokenizer whose words are intensities."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *map(str, range(LEVELS))]
    return BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=PIXELS + 2)


def train_teacher(tokenizer: BertTokenizer, texts: list[str], labels: list[int], epochs: int) -> nn.Module:
    """A BERT of 4 layers, trained with one decaying cycle of learning rates."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=PIXELS + 2,
        hidden_size=64,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=256,
        initializer_range=0.1,  # with the usual 0.02 a model this narrow starts to learn slowly
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        num_labels=CLASSES,
    )
    model = BertForSequenceClassification(config)
    tokens, targets = tokenizer(texts, return_tensors="pt")["input_ids"], torch.tensor(labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    steps = epochs * -(-len(texts) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(texts)).split(BATCH_SIZE):
            optimizer.zero_grad()
            model(input_ids=tokens[batch], labels=targets[batch]).loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


@torch.no_grad()
def accuracy(model: nn.Module, tokenizer: BertTokenizer, texts: list[str], labels: list[int]) -> float:
    """The share of digits that are recognised."""
    predictions = model(input_ids=tokenizer(texts, return_tensors="pt")["input_ids"]).logits.argmax(dim=1)
    return (predictions == torch.tensor(labels)).float().mean().item()


def main() -> None:
    """Write the data and the teacher."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=int, default=12)
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)

    data = load_texts()
    for name, (texts, labels) in data.items():
        with open(arguments.folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("text", "label"), *zip(texts, labels, strict=True)])
    tokenizer = make_tokenizer()
    teacher = train_teacher(tokenizer, *data["train"], arguments.epochs)
    teacher.save_pretrained(arguments.folder / "teacher")
    tokenizer.save_pretrained(arguments.folder / "teacher")
    print(f"{arguments.folder}: the teacher recognises {accuracy(teacher, tokenizer, *data['validation']):.3f}.")


if __name__ == "__main__":
    main()
