"""The settings of a phase: accepted values, and the errors for all others."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from transformers import get_scheduler
from transformers.optimization import TYPE_TO_SCHEDULER_FUNCTION

from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.phase import REQUIRED_ARGUMENTS, SCHEDULERS
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
    arguments = dict.fromkeys(REQUIRED_ARGUMENTS.get(name, ())[:1], 0.1)
    settings = RegularDistillationConfig(scheduler=name, scheduler_arguments=arguments)
    assert settings.scheduler == name
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, 1, 3, settings.scheduler_arguments)
    optimizer.step()
    schedule.step()


@pytest.mark.parametrize("name", SCHEDULERS)
def test_arguments_of_a_scheduler_are_those_of_transformers(name: str) -> None:
    parameters = set(inspect.signature(TYPE_TO_SCHEDULER_FUNCTION[name]).parameters)
    assert set(SCHEDULERS[name]) == parameters - {"optimizer", "num_warmup_steps", "num_training_steps", "last_epoch"}
    assert set(REQUIRED_ARGUMENTS.get(name, ())) <= set(SCHEDULERS[name])


@pytest.mark.parametrize(
    ("scheduler", "arguments", "sentence"),
    [
        ("cosine", {"num_cycle": 2}, "further arguments of cosine, but got 'num_cycle'; did you mean 'num_cycles'?"),
        ("linear", {"min_lr": 0.1}, "scheduler_arguments are further arguments of linear, but got 'min_lr'."),
        ("cosine_with_min_lr", {}, "needs min_lr or min_lr_rate in scheduler_arguments, but got neither."),
        ("cosine_with_min_lr", {"min_lr": 0.1, "min_lr_rate": 0.1}, "but got min_lr and min_lr_rate."),
        ("warmup_stable_decay", {}, "needs num_decay_steps in scheduler_arguments, but got none."),
    ],
    ids=str,
)
def test_arguments_that_the_scheduler_cannot_use_are_refused(scheduler, arguments, sentence) -> None:
    settings = {"scheduler": scheduler, "scheduler_arguments": arguments}
    assert sentence in sentences(lambda: FlashDistillationConfig(**settings))


def test_new_settings_are_recorded_only_if_configured() -> None:
    new = {"decay_biases_and_norms", "scheduler_arguments"}
    assert not new & set(RegularDistillationConfig().model_dump(mode="json"))  # as in directories of earlier versions
    arguments = {"min_lr": 0.5}
    settings = RegularDistillationConfig(
        decay_biases_and_norms=False, scheduler="cosine_with_min_lr", scheduler_arguments=arguments
    )
    dumped = settings.model_dump(mode="json")
    assert (dumped["decay_biases_and_norms"], dumped["scheduler_arguments"]) == (False, arguments)
    assert RegularDistillationConfig(**dumped) == settings


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
