"""Searches in a `Trainer`: the specification's program, resuming, metrics, and what must be told before it runs."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import Dataset
from transformers import (
    AutoModelForPreTraining,
    BertConfig,
    BertForPreTraining,
    MobileBertConfig,
    MobileBertForPreTraining,
    PrinterCallback,
    TrainingArguments,
)

from autodistill import SearchResult
from autodistill.integrations.huggingface import AutoDistillationTrainer

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

REGULAR_DISTILLATION = {
    "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
    "loss_types": [["KL"]],
    "add_origin_loss": [True],
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


# --- the specification's program --------------------------------------------------------------------------------------


@pytest.mark.parametrize("algorithm", ["BO", "Grid", "Random", "TPE"])
def test_the_program_of_the_specification_runs_out_of_the_box(tmp_path, algorithm):
    trainer = make_trainer(tmp_path, student())
    trainer.autodistillation_config = {
        "search": {"search_space": SPACE, "search_algorithm": algorithm, "max_trials": 1},
        "flash_distillation": {
            "knowledge_transfer": KNOWLEDGE_TRANSFER | {"train_steps": [1] * LAYERS},
            "regular_distillation": REGULAR_DISTILLATION,
        },
    }
    best = trainer.autodistillation(teacher(), model_cls=AutoModelForPreTraining)
    result = SearchResult.load(tmp_path / "autodistillation")
    assert best == result.best.architecture
    (trial,) = result
    assert trial.metrics.keys() == {"eval_loss", "parameters"}
    assert [record["stage"] for record in trial.details["distillation"]] == [
        *KNOWLEDGE_TRANSFER["block_names"],
        "regular distillation",
    ]
    assert trial.details["distillation"][-1]["steps"] == 2
