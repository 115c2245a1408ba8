"""Each callback is the loss it is named for, of the keys it reads."""

from __future__ import annotations

import inspect
import math

import pytest
import torch

from autodistill.config.temperature import AnnealedTemperature
from autodistill.errors import ConfigurationError
from autodistill.losses.functions import label_cross_entropy
from autodistill.losses.loss_modules import AttentionLoss, KLDivLoss, MSEHiddenStatesLoss
from autodistill.standalone.callbacks import (
    AttentionHiddenStatesCallback,
    KLDivCallback,
    LabelLossCallback,
    MSEHiddenStatesCallback,
)


def batch() -> dict:
    torch.manual_seed(0)
    return {
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
        "labels": torch.tensor([[1, -100, 2, 3], [-100, 1, 2, 3]]),
        "s_logits": torch.randn(2, 4, 5),
        "t_logits": torch.randn(2, 4, 5),
        "s_hidden_states": tuple(torch.randn(2, 4, 6) for _ in range(4)),
        "t_hidden_states": tuple(torch.randn(2, 4, 6) for _ in range(4)),
    }


@pytest.mark.parametrize(
    ("callback", "leading"),
    [
        (
            KLDivCallback,
            {
                "output_key": "kl_div_loss",
                "temperature": 1.0,
                "student_logits_key": "s_logits",
                "teacher_logits_key": "t_logits",
            },
        ),
        (
            MSEHiddenStatesCallback,
            {
                "output_key": "mse_loss",
                "normalize": False,
                "need_mapping": False,
                "teacher_hidden_state_dim": None,
                "student_hidden_state_dim": None,
                "num_layers": None,
            },
        ),
        (AttentionHiddenStatesCallback, {"output_key": "attention_loss", "exclude_first_and_last": True, "p": 2}),
    ],
)
def test_arguments_and_their_defaults_are_those_of_the_specification(callback, leading) -> None:
    parameters = inspect.signature(callback).parameters.values()
    positional = {p.name: p.default for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY}
    assert positional == leading
    assert list(positional) == list(leading)


def test_divergence_leaves_padding_and_ignored_labels_out() -> None:
    given = batch()
    mask = given["attention_mask"].bool() & (given["labels"] != -100)
    expected = KLDivLoss(3.0)(given["s_logits"], given["t_logits"], mask)
    torch.testing.assert_close(KLDivCallback(temperature=3.0)(given), expected)


def test_divergence_reads_the_configured_keys() -> None:
    given = {"a": torch.randn(3, 4), "b": torch.randn(3, 4)}
    callback = KLDivCallback("kl", 2.0, student_logits_key="a", teacher_logits_key="b")
    torch.testing.assert_close(callback(given), KLDivLoss(2.0)(given["a"], given["b"]))


def test_temperature_may_follow_a_schedule() -> None:
    given = {"s_logits": torch.randn(3, 4), "t_logits": torch.randn(3, 4)}
    for temperature in (AnnealedTemperature(start=5, end=1), lambda progress: 1 + 4 * (1 - progress)):
        callback = KLDivCallback(temperature=temperature)
        for progress, expected in ((0.0, 5.0), (0.25, 4.0), (0.75, 2.0)):
            torch.testing.assert_close(callback(given, progress), KLDivLoss(expected)(*given.values()))


def test_error_and_attention_of_hidden_states_leave_padding_out() -> None:
    given = batch()
    mask = given["attention_mask"].bool()
    s, t = given["s_hidden_states"], given["t_hidden_states"]
    torch.testing.assert_close(
        MSEHiddenStatesCallback(normalize=True)(given), MSEHiddenStatesLoss(normalize=True)(s, t, mask)
    )
    torch.testing.assert_close(
        AttentionHiddenStatesCallback(exclude_first_and_last=False, p=3)(given), AttentionLoss(3)(s, t, mask)
    )


def test_attention_leaves_out_the_first_and_the_last_layer() -> None:
    given = batch()
    mask = given["attention_mask"].bool()
    expected = AttentionLoss()(given["s_hidden_states"][1:3], given["t_hidden_states"][1:3], mask)
    torch.testing.assert_close(AttentionHiddenStatesCallback()(given), expected)
    with pytest.raises(ConfigurationError, match="without the first and the last of 2 layers none is left"):
        AttentionHiddenStatesCallback()(given | {"s_hidden_states": given["s_hidden_states"][:2]})


def test_layers_that_are_not_equally_many_are_paired_by_a_mapping() -> None:
    given = batch()
    given["s_hidden_states"] = given["s_hidden_states"][:2]
    pairs = [(0, 1), (1, 3)]
    s, t = given["s_hidden_states"], given["t_hidden_states"]
    expected = MSEHiddenStatesLoss()(s, [t[1], t[3]], given["attention_mask"].bool())
    torch.testing.assert_close(MSEHiddenStatesCallback(layer_mapping=pairs)(given), expected)


def test_labels_are_compared_with_the_students_logits() -> None:
    given = batch()
    torch.testing.assert_close(LabelLossCallback()(given), label_cross_entropy(given["s_logits"], given["labels"]))
    value = LabelLossCallback(ignore_index=3)(given | {"labels": torch.tensor([[0, 1, 2, 3], [3, 3, 3, 3]])})
    expected = label_cross_entropy(given["s_logits"][0, :3], torch.tensor([0, 1, 2]))
    torch.testing.assert_close(value, expected)


def test_missing_key_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigurationError, match="reads 't_hidden_states', but the batch and the models' outputs hold"):
        MSEHiddenStatesCallback()({"s_hidden_states": ()})


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_weight_that_is_negative_or_no_number_is_refused(weight: float) -> None:
    with pytest.raises(ConfigurationError, match="a loss weight must be finite and not negative, but got"):
        KLDivCallback(weight=weight)


@pytest.mark.parametrize("temperature", [0.0, math.nan, lambda progress: -1.0])
def test_impossible_temperature_is_refused_by_the_constructor(temperature) -> None:
    with pytest.raises(ConfigurationError, match="a temperature must be positive and finite, but"):
        KLDivCallback(temperature=temperature)


def test_attention_of_one_tensor_takes_it_as_one_layer() -> None:
    student, teacher = torch.rand(5, 3, 4), torch.rand(5, 3, 4)
    batch = {"s_hidden_states": student, "t_hidden_states": teacher}
    with pytest.raises(ConfigurationError, match="without the first and the last of 1 layers none is left"):
        AttentionHiddenStatesCallback()(batch)
    value = AttentionHiddenStatesCallback(exclude_first_and_last=False)(batch)
    torch.testing.assert_close(value, AttentionLoss()(student, teacher))


def test_padding_of_inputs_leaves_one_prediction_a_sample_alone() -> None:
    student, teacher = torch.randn(2, 5), torch.randn(2, 5)
    batch = {"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]]), "labels": torch.tensor([1, 2])}
    value = KLDivCallback()({**batch, "s_logits": student, "t_logits": teacher})
    torch.testing.assert_close(value, KLDivLoss()(student, teacher))
