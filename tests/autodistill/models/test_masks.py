"""The positions that count: masks, labels, and models whose positions predict the next one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from autodistill.models.masks import both_masks, counted_labels, predicts_next_token


def test_causal_language_models_predict_the_next_token() -> None:
    sizes = {"vocab_size": 10, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    assert predicts_next_token(GPT2LMHeadModel(GPT2Config(**sizes)))
    assert not predicts_next_token(nn.Linear(1, 1))


LEFT, RIGHT = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])


def test_positions_count_for_both_masks_and_none_leaves_the_other() -> None:
    assert both_masks(LEFT, RIGHT).tolist() == [True, False, False, False]
    assert both_masks(LEFT, None) is LEFT
    assert both_masks(None, RIGHT) is RIGHT
    assert both_masks(None, None) is None


@pytest.mark.parametrize(
    ("labels", "shape", "counted"),
    [
        (torch.tensor([[2, -100], [-100, 0]]), (2, 2, 5), [[True, False], [False, True]]),
        (torch.tensor([1, -100]), (2, 5), [True, False]),
    ],
    ids=["sequences", "samples"],
)
def test_label_counts_unless_it_is_ignored(labels: torch.Tensor, shape: tuple[int, ...], counted: list) -> None:
    assert counted_labels(labels, torch.zeros(shape)).tolist() == counted


def test_index_that_is_ignored_is_an_argument() -> None:
    assert counted_labels(torch.tensor([0, -100]), torch.zeros(2, 5), ignore_index=0).tolist() == [False, True]


@pytest.mark.parametrize(
    "labels", [None, [0, 1], torch.tensor([0.0, 1.0]), torch.tensor([[0, 1]]), torch.tensor(0)], ids=str
)
def test_labels_that_are_no_class_numbers_of_the_logits_have_no_mask(labels: object) -> None:
    assert counted_labels(labels, torch.zeros(2, 5)) is None
