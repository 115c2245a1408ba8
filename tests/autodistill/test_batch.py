"""One batch: how a model is called with it, and which of its positions count."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError


class Model(nn.Module):
    """Returns what it is called with."""

    def forward(self, *args, **kwargs):
        return args, kwargs


def test_mapping_is_passed_as_keyword_arguments_and_a_pair_by_its_inputs() -> None:
    x, y = torch.ones(2, 3), torch.zeros(2)
    assert Batch({"input_ids": x, "labels": y}).call(Model()) == ((), {"input_ids": x, "labels": y})
    for content in ((x, y), [x, y], (x,), x):
        assert Batch(content).call(Model()) == ((x,), {})


def test_targets_are_separated_from_inputs() -> None:
    x, y = torch.ones(2, 3), torch.zeros(2)
    assert Batch((x, y)).targets is y
    assert Batch([x, y]).inputs is x
    assert Batch((x,)).targets is None
    assert Batch(x).targets is None
    assert Batch({"x": x, "labels": y}).targets is y
    assert Batch({"x": x, "label": y}).targets is y
    assert list(Batch({"x": x, "labels": y, "label": y}).inputs) == ["x"]


@pytest.mark.parametrize(
    ("content", "words"),
    [((1, 2, 3), "tuple of 3"), ([], "list of 0"), (3, "int"), ("text", "str of 4"), (None, "None")],
)
def test_batch_of_another_form_is_refused(content, words: str) -> None:
    with pytest.raises(
        ConfigurationError, match=rf"a batch is a mapping .* or a pair .*the data loader yielded {words}"
    ):
        Batch(content)


def test_size_is_the_first_axis_or_1_without_one() -> None:
    assert Batch({"scale": torch.tensor(2.0), "x": torch.zeros(5, 3)}).size == 5
    assert Batch({"scale": torch.tensor(2.0)}).size == 1


def test_moved_batch_keeps_its_hash_and_an_unmoved_one_is_itself() -> None:
    batch = Batch((torch.ones(2, 3), torch.zeros(2)))
    known = batch.hash
    assert batch.to(torch.device("cpu")) is batch
    moved = batch.to(torch.device("meta"))  # whose tensors have no content to hash
    assert moved.hash == known
    assert moved.device.type == "meta"
    assert batch.device.type == "cpu"


def test_hash_depends_on_content_alone() -> None:
    assert Batch({"x": torch.ones(2)}).hash == Batch({"x": torch.ones(2)}).hash
    assert Batch({"x": torch.ones(2)}).hash != Batch({"y": torch.ones(2)}).hash
    assert Batch({"x": torch.ones(2)}).hash != Batch({"x": torch.zeros(2)}).hash


def test_padding_mask_is_true_where_a_position_counts() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert Batch({"attention_mask": mask}).padding_mask.tolist() == [[True, True, False], [True, True, True]]


@pytest.mark.parametrize(
    "content",
    [
        {"attention_mask": torch.ones(2, 3)},
        {"attention_mask": torch.zeros(2, 1, 3, 3)},
        {"x": torch.ones(1)},
        (torch.zeros(2, 3), torch.zeros(2)),
    ],
    ids=["nothing padded", "not (N, L)", "no mask", "a pair"],
)
def test_no_padding_mask_where_there_is_none(content) -> None:
    assert Batch(content).padding_mask is None


def test_padding_is_left_out_of_features_by_token_and_of_flattened_ones() -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    feature = torch.arange(12.0).reshape(2, 3, 2)
    expected = [[0, 1], [2, 3], [6, 7], [8, 9], [10, 11]]
    for form in (feature, feature.flatten(0, 1)):
        assert Batch({"attention_mask": mask}).without_padding(form).tolist() == expected


def test_label_mask_leaves_ignored_labels_out() -> None:
    labels = torch.tensor([[-100, 5, 6], [7, -100, -100]])
    mask = Batch({"labels": labels}).label_mask(shift=False)
    assert mask.tolist() == [[False, True, True], [True, False, False]]


def test_shifted_label_mask_belongs_to_the_position_that_predicts_the_label() -> None:
    labels = torch.tensor([[-100, 5, 6], [7, -100, 8]])
    mask = Batch({"labels": labels}).label_mask(shift=True)
    assert mask.tolist() == [[True, True, False], [False, True, False]]


def test_last_position_predicts_nothing_even_where_every_label_counts() -> None:
    batch = Batch({"labels": torch.ones(2, 3, dtype=torch.long)})
    assert batch.label_mask(shift=False) is None
    assert batch.label_mask(shift=True).tolist() == [[True, True, False]] * 2


@pytest.mark.parametrize("labels", [None, torch.tensor([1, -100]), torch.zeros(2, 3)], ids=["none", "1-D", "float"])
def test_labels_that_are_not_per_position_mask_nothing(labels) -> None:
    assert Batch({"x": torch.ones(2), "labels": labels}).label_mask(shift=False) is None
