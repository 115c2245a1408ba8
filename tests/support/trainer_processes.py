"""A search in a trainer, as a program of several processes: trainer_processes.py DIRECTORY, by `accelerate launch`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments

from autodistill.integrations.huggingface.trainer import AutoDistillationTrainer
from autodistill.processes import current_processes
from autodistill.tensors import content_hash

CONFIG = {
    "search": {
        "search_space": {"hidden_size": [8, 12], "num_hidden_layers": [1, 2]},
        "metrics": ["accuracy", "parameters"],
        "search_algorithm": "Grid",
        "max_trials": 3,
    },
    "flash_distillation": {"train_steps": 2},
    "regular_distillation": "auto",
}


class Sentences(Dataset):
    """Twelve sentences of random tokens; the label is whether the first is even."""

    def __len__(self):
        return 12

    def __getitem__(self, index):
        tokens = torch.randint(0, 20, (5,), generator=torch.Generator().manual_seed(index))
        return {"input_ids": tokens, "labels": tokens[0] % 2}


def model(width, depth):
    sizes = {"num_attention_heads": 2, "intermediate_size": 8, "vocab_size": 20}
    return BertForSequenceClassification(BertConfig(hidden_size=width, num_hidden_layers=depth, **sizes))


class Hashing(AutoDistillationTrainer):
    """Records the weights of every student in the process that evaluated it."""

    def evaluate(self, *arguments, **options):
        hashes.append(content_hash(self.model.state_dict()))
        return super().evaluate(*arguments, **options)


if __name__ == "__main__":
    directory, hashes = Path(sys.argv[1]), []
    torch.manual_seed(0)
    teacher, student = model(16, 2), model(8, 1)
    trainer = Hashing(
        student,
        TrainingArguments(
            str(directory / "out"),
            num_train_epochs=2,
            per_device_train_batch_size=2,
            learning_rate=1e-3,
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        ),
        train_dataset=Sentences(),
        eval_dataset=Sentences(),
        compute_metrics=lambda p: {"accuracy": float((p.predictions.argmax(-1) == p.label_ids).mean())},
    )
    trainer.autodistillation_config = CONFIG
    best = trainer.autodistillation(teacher)
    rank = current_processes().rank
    (directory / f"{rank}.json").write_text(json.dumps({"best": best, "hashes": hashes}))
