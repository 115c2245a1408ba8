"""Optimizer and schedule as configured."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autodistill import PhaseConfig
from autodistill.distillation.optimization import make_optimizer, make_schedule


def rates(settings, steps):
    """The learning rate of every step."""
    optimizer = make_optimizer(settings, nn.Linear(2, 1).parameters())
    schedule = make_schedule(settings, optimizer, steps)
    found = []
    for _ in range(steps):
        found.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    return found


def test_the_rate_rises_over_the_warm_up_and_falls_linearly_to_zero():
    settings = PhaseConfig(optimizer="SGD", learning_rate=2.0, scheduler="linear", warmup_ratio=0.2)
    warm_up = [2.0 * step / 2 for step in range(2)]
    decay = [2.0 * (10 - step) / 8 for step in range(2, 10)]
    assert rates(settings, 10) == pytest.approx(warm_up + decay)


def test_the_constant_schedule_keeps_the_rate():
    settings = PhaseConfig(optimizer="SGD", learning_rate=0.5, scheduler="constant")
    assert rates(settings, 3) == [0.5] * 3


def test_the_optimizer_has_its_class_decay_and_further_arguments():
    settings = PhaseConfig(optimizer="SGD", weight_decay=0.25, optimizer_arguments={"momentum": 0.5})
    optimizer = make_optimizer(settings, nn.Linear(2, 1).parameters())
    assert type(optimizer) is torch.optim.SGD
    assert (optimizer.defaults["weight_decay"], optimizer.defaults["momentum"]) == (0.25, 0.5)


@pytest.mark.parametrize("name", ["Adam", "AdamW"])
def test_adam_updates_all_parameters_in_one_pass_unless_its_arguments_exclude_that(name):
    def fused(**arguments):
        settings = PhaseConfig(optimizer=name, optimizer_arguments=arguments)
        return make_optimizer(settings, nn.Linear(2, 1).parameters()).defaults["fused"]

    assert fused() is True
    assert fused(fused=False) is False
    assert fused(foreach=True) is None
    assert fused(differentiable=True) is None


def test_optimizers_of_other_parameters_and_kinds_are_not_fused():
    complex_one = nn.Parameter(torch.zeros(2, dtype=torch.complex64))
    assert make_optimizer(PhaseConfig(), [complex_one]).defaults["fused"] is None
    assert make_optimizer(PhaseConfig(optimizer="SGD"), nn.Linear(2, 1).parameters()).defaults["fused"] is None


def test_cosine_ends_at_its_minimal_rate():
    settings = PhaseConfig(
        optimizer="SGD",
        learning_rate=2.0,
        warmup_ratio=0,
        scheduler="cosine_with_min_lr",
        scheduler_arguments={"min_lr": 0.5},
    )
    expected = [0.5 + 1.5 * (1 + math.cos(math.pi * step / 8)) / 2 for step in range(8)]
    assert rates(settings, 8) == pytest.approx(expected)


def model():
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


def test_by_default_every_parameter_decays_in_one_group():
    parameters = list(model().parameters())
    (group,) = make_optimizer(PhaseConfig(weight_decay=0.1), parameters).param_groups
    assert (group["params"], group["weight_decay"]) == (parameters, 0.1)


def test_biases_and_norms_do_not_decay_if_so_configured():
    settings = PhaseConfig(optimizer="SGD", learning_rate=0.5, weight_decay=0.1, decay_biases_and_norms=False)
    network = model()
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer = make_optimizer(settings, network.parameters())
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    for name, parameter in network.named_parameters():
        decay = 0.1 * before[name] if name in ("0.weight", "2.weight") else 0
        torch.testing.assert_close(parameter.detach(), before[name] - 0.5 * (1 + decay))
    (only,) = make_optimizer(settings, [network[1].weight]).param_groups  # without an empty group
    assert only["weight_decay"] == 0
