"""The settings of a phase: accepted values, and the errors for all others."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import get_scheduler

from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.phase import SCHEDULERS
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.errors import ConfigurationError


@pytest.mark.parametrize("value", [0, -1, "hot", {"start": 5}, {"start": 0, "end": 1}, {"start": 5, "end": 1, "to": 2}])
def test_temperature_of_another_kind_is_refused(value) -> None:
    with pytest.raises(ConfigurationError):
        RegularDistillationConfig(temperature=value)


def sentences(make) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize("name", ["LBFGS", "Rprop", "SparseAdam", "Optimizer", "lr_scheduler", "adamw"])
def test_optimizer_that_the_step_loop_cannot_use_is_refused(name: str) -> None:
    message = sentences(lambda: FlashDistillationConfig(optimizer=name))
    assert f"the name of a class in torch.optim that takes a weight decay, but got '{name}'" in message


def test_near_miss_of_an_optimizer_or_scheduler_names_the_nearest() -> None:
    message = sentences(lambda: FlashDistillationConfig(optimizer="AdmW", scheduler="cosin"))
    assert "got 'AdmW'; did you mean 'AdamW'?" in message
    assert "got 'cosin'; did you mean 'cosine'?" in message


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_that_is_accepted_runs(name: str) -> None:
    assert RegularDistillationConfig(scheduler=name).scheduler == name
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=3)
    optimizer.step()
    schedule.step()


@pytest.mark.parametrize("argument", ["moment", "lr", "params", "weight_decay"])
def test_argument_that_the_optimizer_does_not_take_is_refused(argument: str) -> None:
    message = sentences(lambda: FlashDistillationConfig(optimizer="SGD", optimizer_arguments={argument: 1}))
    assert f"optimizer_arguments are further arguments of SGD, but got '{argument}'" in message
    FlashDistillationConfig(optimizer="SGD", optimizer_arguments={"momentum": 0.9})


@pytest.mark.parametrize(
    "setting",
    [
        {"learning_rate": 0},
        {"weight_decay": -1},
        {"warmup_ratio": 1.5},
        {"max_grad_norm": 0},
        {"gradient_accumulation_steps": 0},
        {"mixed_precision": "fp8"},
        {"train_steps": 0},
        {"train_steps": [5, 0]},
        {"loss_types": "MAE"},
        {"loss_weights": -1},
        {"loss_weights": math.inf},
        {"block_names": "layer.0"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_value_outside_its_range_is_refused(setting) -> None:
    assert next(iter(setting)) in sentences(lambda: FlashDistillationConfig(**setting))
