"""A batch holds the features that both models accept; held-out batches are the same every time."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from saved_teachers import BERT, GPT2, LABELS, NAMED, VIT, save_teacher, write_csv, write_images, write_lines
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace

from autodistill.cli.batches import TaskBatches
from autodistill.cli.models import TaskModels
from autodistill.config.command_line import CommandConfig
from autodistill.data_stream import DataStream
from autodistill.padding import padding_share


def batches_of(task="text-classification", space=None, **changes):
    data = changes.pop("data", {"train": "train.csv", "validation": 0.5, "batch_size": 4})
    search = {"search_space": space or {"num_hidden_layers": [1, 2]}, "metrics": ["parameters"]}
    config = {"task": task, "teacher": "teacher", "data": data, "auto_distillation": {"search": search}}
    return TaskBatches(TaskModels(CommandConfig.load(config | changes)))


def first_batch(batches):
    return next(iter(batches.training))


def test_batch_holds_the_features_that_both_models_accept(classifier):
    write_csv(Path("train.csv"))
    assert set(first_batch(batches_of())) == {"input_ids", "token_type_ids", "attention_mask", "labels"}
    other = batches_of(student="distilbert", space={"n_layers": [1]})
    assert set(first_batch(other)) == {"input_ids", "attention_mask", "labels"}


@pytest.mark.parametrize(("requested", "expected"), [(5, 5), (500, 8)])
def test_texts_are_no_longer_than_requested_and_than_the_models_read(requested, expected):
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "BertForMaskedLM", **BERT | {"max_position_embeddings": 8})
    data = {"train": "lines.txt", "max_length": requested, "batch_size": 24, "validation": "lines.txt"}
    assert first_batch(batches_of("masked-lm", data=data))["input_ids"].shape == (24, expected)


def test_held_out_batches_have_the_same_masks_every_time():
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "BertForMaskedLM", **BERT)
    held_out = batches_of("masked-lm", data={"train": "lines.txt", "batch_size": 4}).held_out
    first, again = (torch.cat([batch.targets.flatten() for batch in held_out]) for _ in range(2))
    assert torch.equal(first, again)
    assert (first != -100).any()


def test_tokenizer_without_padding_pads_with_its_end_of_text():
    write_lines(Path("lines.txt"))
    save_teacher(Path("teacher"), "GPT2LMHeadModel", **GPT2)
    tokenizer = transformers.AutoTokenizer.from_pretrained("teacher")
    tokenizer.pad_token, tokenizer.eos_token = None, "[SEP]"
    tokenizer.save_pretrained("teacher")
    batches = batches_of("causal-lm", space={"n_layer": [1]}, data={"train": "lines.txt", "batch_size": 24})
    assert batches.models.preprocessor.pad_token == "[SEP]"
    batch = first_batch(batches)
    assert (batch["labels"] == -100).any()  # padding does not count


def write_lengths(path, lengths):
    """Write texts of these numbers of tokens, with the two that the tokenizer adds; no two are alike."""
    words = [[f"w{number % 20}", *[f"w{number // 20}"] * (length - 3)] for number, length in enumerate(lengths)]
    rows = [f"{' '.join(text)},{LABELS[number % 2]}" for number, text in enumerate(words)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")


LENGTHS = [4 + (7 * number) % 9 for number in range(106)]  # 4 to 12 tokens


def of_lengths(**changes):
    write_lengths(Path("texts.csv"), LENGTHS)
    data = {"train": "texts.csv", "validation": "texts.csv", "batch_size": 4} | changes
    return batches_of(data=data)


def rows_in(batches):
    return [tuple(row[row != 0].tolist()) for batch in batches for row in batch.content["input_ids"]]


def test_epoch_holds_every_text_once_in_another_order_and_passes_are_equal(classifier):
    stream = DataStream(of_lengths().training, seed=0)
    first, second, again = (rows_in(stream.epoch(number)) for number in (0, 1, 0))
    assert first == again != second
    assert len({*first}) == len(LENGTHS)
    assert sorted(first) == sorted(second) == sorted(rows_in(of_lengths().held_out))
    assert [batch.size for batch in stream.epoch(0)] == [4] * 26 + [2]


def test_batches_of_similar_length_have_less_padding(classifier):
    shares = [
        padding_share(DataStream(of_lengths(group_by_length=grouped).training, seed=0).epoch(0))
        for grouped in (True, False)
    ]
    assert shares[0] < 0.1 < 0.2 < shares[1]


def test_first_batches_are_as_long_as_the_others(classifier):
    loader, means = of_lengths().training, []
    for seed in range(20):
        first = DataStream(loader, seed).flash_set(5)
        means.append(sum(len(row) for row in rows_in(first)) / 20)
    assert sum(means) / len(means) == pytest.approx(sum(LENGTHS) / len(LENGTHS), abs=0.5)


def test_held_out_texts_keep_their_order(classifier):
    assert [len(row) for row in rows_in(of_lengths().held_out)] == LENGTHS


def test_texts_are_tokenised_once_and_images_are_read_in_every_epoch(classifier, monkeypatch):
    def rows_encoded(batches, epochs):
        """The rows that are encoded before training, and in a number of epochs of it."""
        read, task = [], batches.models.task
        encode = task.encode
        counting = replace(task, encode=lambda encoder, rows: read.append(len(rows["label"])) or encode(encoder, rows))
        monkeypatch.setattr(batches.models, "task", counting)
        loader = batches.training
        before = sum(read)
        for _ in range(epochs):
            list(loader)
        return before, sum(read) - before

    texts = 2 * len(LENGTHS)  # for training, and held out
    before, in_epochs = rows_encoded(of_lengths(), epochs=2)
    assert texts <= before <= texts + 2  # the first of each also shows the types of the features
    assert in_epochs == 0

    save_teacher(Path("teacher"), "ViTForImageClassification", **VIT, **NAMED)
    data = {"train": str(write_images(Path("images"))), "validation": 0.5, "batch_size": 4}
    assert rows_encoded(batches_of("image-classification", data=data), epochs=2) == (0, 2 * 12)


def test_texts_without_tokens_are_padded_like_others():
    save_teacher(Path("teacher"), "GPT2LMHeadModel", **GPT2)
    words = Tokenizer(WordLevel({"[PAD]": 0, "[UNK]": 1, "w1": 2, "w2": 3}, "[UNK]"))
    words.pre_tokenizer = Whitespace()  # like GPT-2's, it adds no special tokens
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]").save_pretrained("teacher")
    rows = [""] * 1000 + ["w1 w2"] * 1000
    Path("texts.jsonl").write_text("\n".join(json.dumps({"text": row}) for row in rows), encoding="utf-8")
    data = {"train": "texts.jsonl", "validation": "texts.jsonl", "batch_size": 800}
    held_out = batches_of("causal-lm", space={"n_layer": [1]}, data=data).held_out
    assert [int(batch.content["attention_mask"].sum()) for batch in held_out] == [0, 2 * 600, 2 * 400]
