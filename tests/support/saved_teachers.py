"""Tiny random teachers on disk, as `save_pretrained` writes them, and data for them."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path

import torch
import transformers
from PIL import Image

WORDS = [f"w{number}" for number in range(20)]
LABELS = ["bad", "good"]
BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 12,
    "initializer_range": 0.2,
    "pad_token_id": 0,
}
GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 12, "bos_token_id": 3, "eos_token_id": 3}
VIT = BERT | {"image_size": 8, "patch_size": 4, "pad_token_id": None}
NAMED = {"id2label": dict(enumerate(LABELS)), "label2id": {label: number for number, label in enumerate(LABELS)}}


def save_teacher(folder: Path, model: str, **settings) -> Path:
    """Save a random model of a class of transformers, with its tokenizer or image processor."""
    model_class = getattr(transformers, model)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if model_class.main_input_name == "pixel_values":
            preprocessor = transformers.ViTImageProcessorPil(size={"height": 8, "width": 8})
        else:
            preprocessor = make_tokenizer()
            settings["vocab_size"] = len(preprocessor)
        model_class(model_class.config_class(**settings)).save_pretrained(folder)
    preprocessor.save_pretrained(folder)
    return folder


def make_tokenizer() -> transformers.BertTokenizer:
    """Words are tokens; `w1s` is two, `w1` and `##s`."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "##s"]
    return transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=12)


def sentences(count: int = 24) -> list[list[str]]:
    """Fixed sentences of three to eight words."""
    chosen = random.Random(0)
    return [chosen.choices(WORDS, k=3 + index % 6) for index in range(count)]


def write_csv(path: Path, columns: tuple[str, str] = ("text", "label")) -> Path:
    """Write a text and its label to each row."""
    rows = [(" ".join(words), LABELS[index % 2]) for index, words in enumerate(sentences())]
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def write_lines(path: Path) -> Path:
    """Write a text to each line."""
    path.write_text("\n".join(" ".join(words) for words in sentences()), encoding="utf-8")
    return path


def write_tagged(path: Path) -> Path:
    """Write lines of JSON, each with the words of a sentence and their tags."""
    rows = [{"tokens": words, "tags": [LABELS[len(word) % 2] for word in words]} for words in sentences()]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def write_images(folder: Path) -> Path:
    """Write a folder of images for each label."""
    for index in range(24):
        file = folder / LABELS[index % 2] / f"{index}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), color=10 * index).save(file)
    return folder
