"""What may precede a search: a prediction that changes nothing, and a cache that holds what students request."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.preparation import Preparation
from autodistill.tensors import identical
from autodistill.training import TrainingContext


class Counted(nn.Module):
    """A teacher that counts the samples on which it runs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(6, 6) for _ in range(2))
        self.head = nn.Linear(6, 3)
        self.samples = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.samples += len(x)
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return self.head(x)


class Student(Counted):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.layers = nn.ModuleList([nn.Linear(6, 6)])
        self.head = nn.Linear(6, 3)


def distiller(directory: Path | None = None) -> Distiller:
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [6]}, "metrics": ["loss"], "max_trials": 3, "seed": 5},
            "flash_distillation": {
                "block_names": ["layers.0"],
                "layer_mappings_for_knowledge_transfer": [[("layers.0", "layers.1")]],
                "train_steps": 2,
            },
            "regular_distillation": {"train_steps": 9},
        }
    )
    generator = torch.Generator().manual_seed(2)
    samples = torch.utils.data.TensorDataset(
        torch.randn(40, 6, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    )
    loader = torch.utils.data.DataLoader(samples, batch_size=8, shuffle=True)
    return Distiller(Counted(), config, loader, "cpu", Storage(directory))


def weights(used: Distiller) -> dict[str, torch.Tensor]:
    student = Student()
    used.train(student, TrainingContext(seed=4))
    return student.state_dict()


def test_forecast_counts_each_sample_once_and_changes_no_bit(tmp_path: Path) -> None:
    used, student = distiller(tmp_path), Student()
    before, state = copy.deepcopy(student.state_dict()), torch.get_rng_state()
    forecast = Preparation(used).forecast([student], trials=3)
    assert (forecast.training_samples, forecast.teacher.samples, forecast.teacher.flash_samples) == (40, 40, 16)
    assert forecast.trial_seconds > 0
    assert identical(dict(before), dict(student.state_dict()))
    assert torch.equal(state, torch.get_rng_state())
    assert identical(dict(weights(used)), dict(weights(distiller())))


@pytest.mark.parametrize("parts", [1, 3])
def test_filled_cache_holds_all_that_students_request_to_the_bit(tmp_path: Path, parts: int) -> None:
    for part in range(parts if parts > 1 else 0):
        Preparation(distiller(tmp_path)).fill_cache(Student(), part, parts)
    Preparation(distiller(tmp_path)).fill_cache(Student())
    used = distiller(tmp_path)
    used.resolve(Student())
    assert isinstance(used.teacher, Counted)
    checked = used.teacher.samples
    filled = weights(used)
    assert used.teacher.samples == checked
    assert identical(dict(filled), dict(weights(distiller())))
