"""A small search over untimed metrics, as a program that can be killed: python toy_search.py SEARCH_DIR [DIE_AFTER]."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import torch
from small_models import Transformer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autodistill import AutoDistillation

SPACE = {"width": [8, 12, 16], "depth": [1, 2, 3]}


def make_teacher():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Transformer(16, 4)


def make_loader(size=48, batch_size=8):
    generator = torch.Generator().manual_seed(1)
    data = TensorDataset(
        torch.randn(size, 5, 8, generator=generator), torch.randint(0, 10, (size,), generator=generator)
    )
    return DataLoader(data, batch_size, shuffle=True)


def make_config(**search):
    return {
        "search": {
            "search_space": SPACE,
            "search_algorithm": "Random",
            "metrics": ["accuracy", "parameters"],
            "max_trials": 8,
            "seed": 3,
        }
        | search,
        "flash_distillation": {"train_steps": 4},
        "regular_distillation": {"train_steps": 9},
    }


def evaluate(student):
    generator = torch.Generator().manual_seed(2)
    tokens = torch.randn(16, 5, 8, generator=generator)
    return {"accuracy": -nn.functional.mse_loss(student(tokens), make_teacher().eval()(tokens)).item()}


def make_search(search_dir, config=None, **arguments):
    return AutoDistillation(
        lambda architecture: Transformer(**architecture),
        config or make_config(),
        **{
            "teacher_model": make_teacher(),
            "train_dataloader": make_loader(),
            "eval_func": evaluate,
            "search_dir": search_dir,
            "keep": "all",
            "device": "cpu",
            "show_progress_bar": False,
        }
        | arguments,
    )


def die(search, trial):
    """A callback that ends the process like `kill -9`, after DIE_AFTER trials."""
    if trial.number + 1 == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    make_search(Path(sys.argv[1]), callbacks=[die] if len(sys.argv) > 2 else []).search_loop()
