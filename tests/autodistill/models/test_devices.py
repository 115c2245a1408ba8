"""The device of models with parameters, with buffers only, and without tensors."""

from __future__ import annotations

import torch
from torch import nn

from autodistill.models.devices import device_of


def test_device_is_that_of_the_first_parameter_else_buffer_else_the_cpu() -> None:
    mixed = nn.Sequential(nn.Linear(1, 1, device="meta"), nn.Linear(1, 1))
    assert device_of(mixed) == torch.device("meta")
    buffers_only = nn.BatchNorm1d(2, affine=False, device="meta")
    assert device_of(buffers_only) == torch.device("meta")
    assert device_of(nn.ReLU()) == torch.device("cpu")
