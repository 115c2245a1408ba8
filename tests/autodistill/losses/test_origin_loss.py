"""The student's own loss: the model's, or that of the loss function between logits and targets."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from transformers.modeling_outputs import SequenceClassifierOutput

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.origin_loss import origin_loss

LOGITS, LABELS = torch.tensor([[2.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1])
OWN = torch.tensor(7.0)


@pytest.mark.parametrize(
    "output",
    [{"loss": OWN, "logits": LOGITS}, SequenceClassifierOutput(loss=OWN, logits=LOGITS), SimpleNamespace(loss=OWN)],
    ids=["dict", "model output", "object"],
)
def test_loss_that_the_model_returns_is_the_loss(output) -> None:
    assert origin_loss(output, Batch({"labels": LABELS}), nn.functional.cross_entropy) is OWN


@pytest.mark.parametrize(
    "output", [LOGITS, {"logits": LOGITS}, SequenceClassifierOutput(logits=LOGITS), {"loss": None, "logits": LOGITS}]
)
def test_without_a_loss_of_the_model_the_function_compares_logits_with_targets(output) -> None:
    expected = sum(torch.logsumexp(row, 0) - row[label] for row, label in zip(LOGITS, LABELS, strict=True)) / 2
    value = origin_loss(output, Batch((torch.zeros(2), LABELS)), nn.functional.cross_entropy)
    torch.testing.assert_close(value, expected)


def test_neither_loss_nor_targets_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match=r"there is neither; set add_origin_loss to False, or provide labels"):
        origin_loss(LOGITS, Batch(torch.zeros(2)), nn.functional.cross_entropy)


def test_default_loss_of_sequences_leaves_ignored_labels_out() -> None:
    logits, labels = torch.randn(2, 4, 4, dtype=torch.float64), torch.tensor([[0, 1, 2, -100], [3, -100, 0, 1]])
    counted = [(n, position) for n in range(2) for position in range(4) if labels[n, position] != -100]
    formula = [torch.logsumexp(logits[at], 0) - logits[at][labels[at]] for at in counted]
    found = origin_loss(logits, Batch((torch.zeros(2, 4), labels)), nn.functional.cross_entropy)
    torch.testing.assert_close(found, torch.stack(formula).mean())


@pytest.mark.parametrize("shape", [(6, 5), (2, 4, 5), (2, 4, 4)], ids=str)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float64])
def test_default_loss_of_one_hot_targets_is_that_of_class_numbers(shape, dtype) -> None:
    logits = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    classes = torch.arange(math.prod(shape[:-1])).reshape(shape[:-1]) % 3
    targets = nn.functional.one_hot(classes, shape[-1]).to(dtype)
    formula = [torch.logsumexp(logits[at], 0) - logits[at][classes[at]] for at in np.ndindex(shape[:-1])]
    found = origin_loss(logits, Batch((torch.zeros(2), targets)), nn.functional.cross_entropy)
    torch.testing.assert_close(found, torch.stack(formula).mean())


def test_default_loss_of_images_keeps_pytorchs_layout() -> None:
    logits, targets = torch.randn(2, 3, 4, 5), torch.rand(2, 3, 4, 5).softmax(1)
    found = origin_loss(logits, Batch((torch.zeros(2), targets)), nn.functional.cross_entropy)
    torch.testing.assert_close(found, -(targets * logits.log_softmax(1)).sum(1).mean())
