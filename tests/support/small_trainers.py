"""Trainers of small models on a few samples, and searches in them."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    BertConfig,
    BertForPreTraining,
    MobileBertConfig,
    MobileBertForPreTraining,
    PrinterCallback,
    TrainingArguments,
)

from autodistill import ConfigurationError
from autodistill.integrations.huggingface.trainer import AutoDistillationTrainer

LAYERS, VOCABULARY = 24, 30


SPACE = {
    "hidden_size": [8, 12],
    "intra_bottleneck_size": [4, 8],
    "num_attention_heads": [1, 2],
    "intermediate_size": [8, 12],
    "num_feedforward_networks": [1, 2],
}


KNOWLEDGE_TRANSFER = {
    "block_names": [f"mobilebert.encoder.layer.{i}" for i in range(LAYERS)],
    "layer_mappings_for_knowledge_transfer": [
        [
            (f"mobilebert.encoder.layer.{i}.attention.self", "1", f"bert.encoder.layer.{i}.attention.self", "1"),
            (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
        ]
        for i in range(LAYERS)
    ],
    "loss_types": [["KL", "MSE"] for i in range(LAYERS)],
}


class OneSentencePair(Dataset):
    """One sample for masked language modelling, with one masked token, and for next sentence prediction."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        labels = [-100] * 6
        labels[3] = 7
        return {
            "input_ids": torch.tensor([1, 5, 6, 2, 8, 3]),
            "attention_mask": torch.ones(6, dtype=torch.long),
            "token_type_ids": torch.tensor([0, 0, 0, 1, 1, 1]),
            "labels": torch.tensor(labels),
            "next_sentence_label": torch.tensor(1),
        }


def teacher(attention="eager", **changes):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 16}
    config = BertConfig(**{**sizes, "vocab_size": VOCABULARY, **changes}, attn_implementation=attention)
    return BertForPreTraining(config)


def student(attention="eager", layers=LAYERS, **changes):
    torch.manual_seed(1)
    sizes = {"hidden_size": 8, "intra_bottleneck_size": 4, "num_attention_heads": 2, "intermediate_size": 8}
    config = MobileBertConfig(
        **{**sizes, "num_hidden_layers": layers, "embedding_size": 4, "vocab_size": VOCABULARY, **changes},
        attn_implementation=attention,
    )
    return MobileBertForPreTraining(config)


def make_trainer(directory, model, *, cls=AutoDistillationTrainer, data=None, evaluated=True, arguments=None, **others):
    data = data or OneSentencePair()
    settings = {"max_steps": 2, "report_to": [], "disable_tqdm": True, "use_cpu": True, "learning_rate": 1e-3}
    trainer = cls(
        model,
        TrainingArguments(str(directory), **settings | (arguments or {})),
        train_dataset=data,
        eval_dataset=data if evaluated else None,
        **others,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


SMALL = {
    "search": {"search_space": {"hidden_size": [8, 12]}, "search_algorithm": "Grid", "max_trials": 2},
    "flash_distillation": {"train_steps": 2},
    "regular_distillation": "auto",
}


class Pairs(Dataset):
    """Six samples: random tokens, one of each masked, and whether they are a pair."""

    def __len__(self):
        return 6

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        tokens = torch.randint(4, VOCABULARY, (6,), generator=generator)
        labels = torch.full((6,), -100)
        labels[index] = tokens[index]
        return {
            "input_ids": tokens.index_fill(0, torch.tensor([index]), 2),
            "labels": labels,
            "next_sentence_label": torch.tensor(index % 2),
        }


def bert(width=8, layers=1, **changes):
    torch.manual_seed(2)
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForPreTraining(BertConfig(**{**sizes, "vocab_size": VOCABULARY, **changes}))


EPOCHS = {"max_steps": -1, "num_train_epochs": 2, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}


def search(directory, *, config=SMALL, arguments=EPOCHS, teacher_model=None, model=None, n_trials=None, **others):
    trainer = make_trainer(directory, model or bert(), data=Pairs(), arguments=arguments, **others)
    trainer.autodistillation_config = config
    trainer.autodistillation(teacher_model or bert(16, 2), n_trials=n_trials, keep="all")
    return trainer


def weights(trainer):
    agent = trainer.autodistillation_search
    return {
        (trial.number, name): tensor
        for trial in agent.search_result.completed
        for name, tensor in agent.load_model(trial).state_dict().items()
    }


def assert_equal(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def problems(directory, *, teacher_model=None, call=None, **others):
    """The message of the error before the first trial."""
    trainer = make_trainer(directory, others.pop("model", None) or bert(), data=Pairs(), **others.pop("make", {}))
    trainer.autodistillation_config = others.pop("config", SMALL)
    with pytest.raises(ConfigurationError) as caught:
        trainer.autodistillation(teacher_model or bert(16, 2), **(call or {}))
    assert not list((directory / "autodistillation").glob("trials/*/trial.json"))
    return str(caught.value)
