"""How models are called with a batch: with which of its elements, and on which device."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.models.calls import call_by_names, inference_call

X, Y = torch.ones(2, 3), torch.tensor([0, 1])


class Arguments(nn.Module):
    """Returns what it is called with."""

    def __init__(self, **config: Any) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


@pytest.mark.parametrize(
    ("content", "args", "kwargs"),
    [
        ({"x": X, "labels": Y}, (), {"x": X}),
        ({"x": X, "label": Y}, (), {"x": X}),
        ((X, Y), (X,), {}),
        (({"x": X}, Y), (), {"x": X}),
        (X, (X,), {}),
    ],
    ids=["mapping", "mapping of one label", "pair", "pair of a mapping", "tensor"],
)
def test_call_for_inference_leaves_the_labels_out(content: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    assert inference_call(Arguments(), Batch(content))() == (args, kwargs)


def test_encoder_decoder_is_called_with_the_labels_for_its_decoder() -> None:
    model = Arguments(is_encoder_decoder=True)
    assert inference_call(model, Batch({"x": X, "labels": Y}))() == ((), {"x": X, "labels": Y})
    assert inference_call(model, Batch((X, Y)))() == ((X,), {})


def test_call_for_inference_is_on_the_device_of_the_model() -> None:
    output = inference_call(nn.Linear(3, 1, device="meta"), Batch((X, Y)))()
    assert output.device == torch.device("meta")


def test_call_by_names_passes_accepted_arguments_and_refuses_a_batch_without_any() -> None:
    class Named(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    assert call_by_names(Named(), Batch({"x": X, "mask": Y})) is X
    assert call_by_names(Named(), Batch((X, Y))) is X
    with pytest.raises(ConfigurationError, match="Named takes x and the batch holds mask"):
        call_by_names(Named(), Batch({"mask": Y}))
