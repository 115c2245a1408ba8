"""A batch holds the features that both models accept; held-out batches are the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from saved_teachers import BERT, GPT2, save_teacher, write_csv, write_lines

from autodistill.cli.batches import TaskBatches
from autodistill.cli.models import TaskModels
from autodistill.config.command_line import CommandConfig


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
