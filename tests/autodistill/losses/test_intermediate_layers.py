"""The criterion: which losses are added up, over which positions, and what its matchers learn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from independent_losses import joined_divergence
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses import functions as losses
from autodistill.losses.feature_matchers import ChannelMatcher, HeadMixer
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.losses.logits import correlation_distance, decoupled_kl_divergence, standardized_kl_divergence
from autodistill.losses.loss_types import LOSS_TYPES
from autodistill.losses.relational import (
    correlation_congruence_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)
from autodistill.losses.top_k import top_k_logits
from autodistill.models.masks import Masks, Positions
from autodistill.models.taps import Tap

S, T = Tap("s"), Tap("t")


def ready(loss_type: str, student: torch.Tensor, teacher: torch.Tensor, weight: float = 1.0):
    criterion = IntermediateLayersKnowledgeDistillationLoss([("s", "t")], [loss_type], [weight])
    criterion.init_feature_matcher({S: student}, {T: teacher})
    return criterion


@pytest.mark.parametrize("form", [("s", "t"), [("s", ""), ("t", "")], ("s", "", "t", "")])
def test_mappings_may_have_every_form(form) -> None:
    criterion = IntermediateLayersKnowledgeDistillationLoss([form], ["MSE"])
    assert (criterion.student_taps, criterion.teacher_taps) == ([S], [T])


def test_every_mistake_of_the_lists_is_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        IntermediateLayersKnowledgeDistillationLoss([("s", "t")], ["MSE", "MAE"], [])
    assert caught.value.problems == [
        "loss_types must have one entry for each mapping, but has 2 for 1 mappings.",
        "loss_weights must have one entry for each mapping, but has 0 for 1 mappings.",
        "a loss type is one of MSE, NMSE, L1, KL, CE, cosine, SP, PKT, CCKD, VID, DIST, LSKD, DKD, but got 'MAE'.",
    ]


FUNCTIONS = {
    "MSE": losses.mse_loss,
    "NMSE": losses.normalized_mse_loss,
    "L1": losses.l1_loss,
    "KL": losses.kl_divergence,
    "CE": losses.soft_cross_entropy,
    "cosine": losses.cosine_loss,
    "DIST": correlation_distance,
    "LSKD": standardized_kl_divergence,
}
RELATIONS = {
    "SP": similarity_preserving_loss,
    "PKT": probabilistic_transfer_loss,
    "CCKD": correlation_congruence_loss,
}


@pytest.mark.parametrize("loss_type", FUNCTIONS)
@pytest.mark.parametrize("shape", [(6, 5), (4, 3, 5)], ids=str)
def test_loss_of_a_mapping_is_its_function_times_its_weight(loss_type: str, shape: tuple[int, ...]) -> None:
    student, teacher = torch.randn(2, *shape).unbind()
    criterion = ready(loss_type, student, teacher, weight=2.5)
    expected = 2.5 * FUNCTIONS[loss_type](student, teacher)
    torch.testing.assert_close(criterion.loss_cal({S: student}, {T: teacher}), expected)


@pytest.mark.parametrize("loss_type", FUNCTIONS)
def test_channels_of_images_are_their_second_axis(loss_type: str) -> None:
    student, teacher = torch.randn(2, 3, 7, 4, 5).unbind()
    rows = [feature.permute(0, 2, 3, 1).reshape(-1, 7) for feature in (student, teacher)]
    criterion = ready(loss_type, student, teacher)
    torch.testing.assert_close(criterion.loss_cal({S: student}, {T: teacher}), FUNCTIONS[loss_type](*rows))


@pytest.mark.parametrize("loss_type", FUNCTIONS)
def test_channels_of_a_matched_feature_are_where_its_matcher_ran(loss_type: str) -> None:
    student, teacher = torch.randn(3, 4, 5, 6), torch.randn(3, 4, 5, 7)
    criterion = ready(loss_type, student, teacher)
    matched = criterion.feature_matchers[0](student)
    expected = FUNCTIONS[loss_type](matched.reshape(-1, 7), teacher.reshape(-1, 7))
    torch.testing.assert_close(criterion.loss_cal({S: student}, {T: teacher}), expected)


def test_losses_of_all_mappings_are_added_with_their_weights() -> None:
    features = {Tap(name): torch.randn(4, 3) for name in "abcd"}
    criterion = IntermediateLayersKnowledgeDistillationLoss([("a", "b"), ("c", "d")], ["MSE", "KL"], [0.5, 2.0])
    criterion.init_feature_matcher(features, features)
    a, b, c, d = features.values()
    expected = 0.5 * losses.mse_loss(a, b) + 2 * losses.kl_divergence(c, d, temperature=3.0)
    torch.testing.assert_close(criterion.loss_cal(features, features, temperature=3.0), expected)


def test_padding_and_ignored_labels_are_left_out() -> None:
    student, teacher = torch.randn(2, 2, 4, 5).unbind()
    batch = Batch(
        {
            "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
            "labels": torch.tensor([[-100, 1, 2, -100], [3, 4, -100, 1]]),
        }
    )
    padding, labels = batch.padding_mask, batch.label_mask(shift=False)
    for loss_type, mask in (("MSE", padding), ("L1", padding), ("KL", padding & labels)):
        value = ready(loss_type, student, teacher).loss_cal({S: student}, {T: teacher}, batch)
        torch.testing.assert_close(value, FUNCTIONS[loss_type](student, teacher, mask))
    criterion = ready("KL", student, teacher)
    criterion.masks = Masks({S: Positions("inputs")}, label_shift=True)
    mask = padding & batch.label_mask(shift=True)
    value = criterion.loss_cal({S: student}, {T: teacher}, batch)
    torch.testing.assert_close(value, losses.kl_divergence(student, teacher, mask))


@pytest.mark.parametrize("heads", [2, 4], ids=["2 heads", "as many heads as positions"])
def test_attention_maps_are_compared_as_probabilities_without_temperature(heads: int) -> None:
    student, teacher = (3 * torch.randn(2, 2, heads, 4, 4)).softmax(-1).unbind()
    batch = Batch({"attention_mask": torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]])})
    criterion = ready("KL", student, teacher)
    value = criterion.loss_cal({S: student}, {T: teacher}, batch, temperature=5.0)
    rows = batch.padding_mask[:, None].expand(2, heads, 4)
    expected = (teacher * (teacher / student).log()).sum(-1)[rows].mean()
    torch.testing.assert_close(value, expected)


def test_unequal_heads_are_mixed_for_a_divergence_and_mapped_for_an_error() -> None:
    student, teacher = torch.randn(2, 3, 5, 5).softmax(-1), torch.randn(2, 4, 5, 5).softmax(-1)
    mixed = ready("KL", student, teacher)
    assert isinstance(mixed.feature_matchers[0], HeadMixer)
    assert mixed.loss_cal({S: student}, {T: teacher}).item() >= 0
    assert isinstance(ready("MSE", student, teacher).feature_matchers[0], ChannelMatcher)


def test_matchers_are_the_parameters_and_learn() -> None:
    student, teacher = torch.randn(64, 4), torch.randn(64, 6)
    teacher = student @ torch.randn(4, 6) + 1
    criterion = ready("NMSE", student, teacher)
    assert [tuple(parameter.shape) for parameter in criterion.parameters()] == [(6, 4), (6,)]
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = criterion.loss_cal({S: student}, {T: teacher})
        loss.backward()
        optimizer.step()
    assert loss.item() < 1e-3


def test_gradient_reaches_the_student_through_the_matcher_and_not_the_teacher() -> None:
    student = torch.randn(4, 3, requires_grad=True)
    teacher = torch.randn(4, 5)
    criterion = ready("MSE", student, teacher)
    criterion.loss_cal({S: student}, {T: teacher}).backward()
    assert bool((student.grad != 0).any())
    assert teacher.grad is None


def test_features_in_half_precision_give_a_loss_in_single_precision() -> None:
    student, teacher = torch.randn(2, 4, 5).bfloat16().unbind()
    loss = ready("MSE", student, teacher).loss_cal({S: student}, {T: teacher})
    torch.testing.assert_close(loss, losses.mse_loss(student.float(), teacher.float()))


def test_every_pair_that_cannot_be_matched_is_named() -> None:
    mappings = [("a", "b"), ("c", "d"), ("e", "f")]
    criterion = IntermediateLayersKnowledgeDistillationLoss(mappings, ["MSE"] * 3)
    shapes = {"a": (2, 3), "b": (3, 4), "c": (2, 3), "d": (2, 4), "e": (2, 3), "f": (2, 3, 4)}
    features = {Tap(name): torch.zeros(shape) for name, shape in shapes.items()}
    with pytest.raises(ConfigurationError) as caught:
        criterion.init_feature_matcher(features, features)
    assert len(caught.value.problems) == 2
    assert "'a' -> teacher 'b'" in caught.value.problems[0]
    assert "'e' -> teacher 'f'" in caught.value.problems[1]
    assert isinstance(criterion, nn.Module)
    assert list(criterion.parameters()) == []


def test_sample_without_a_label_is_left_out_of_the_divergence_of_logits() -> None:
    student, teacher = nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.Linear(4, 3))
    inputs, labels = torch.randn(5, 4), torch.tensor([0, -100, 2, 1, -100])
    criterion = IntermediateLayersKnowledgeDistillationLoss(
        [("0", "0")], ["KL"], student_model=student, teacher_model=teacher, example=inputs
    )
    with criterion:
        criterion.teacher_model_forward(inputs)
        value = criterion(student(inputs), labels)
    kept = inputs[labels != -100]
    expected = F.kl_div(student(kept).log_softmax(-1), teacher(kept).softmax(-1), reduction="batchmean")
    torch.testing.assert_close(value, expected)


def test_every_loss_type_is_covered() -> None:
    assert {*FUNCTIONS, *RELATIONS, "VID", "DKD"} == set(LOSS_TYPES)


@pytest.mark.parametrize("loss_type", RELATIONS)
def test_relations_of_samples_need_no_matcher_and_leave_padding_out(loss_type: str) -> None:
    student, teacher = torch.randn(3, 4, 5), torch.randn(3, 4, 7)
    batch = Batch({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 0, 0]])})
    criterion = ready(loss_type, student, teacher, weight=2.0)
    assert list(criterion.parameters()) == []
    expected = 2 * RELATIONS[loss_type](student, teacher, batch.padding_mask)
    torch.testing.assert_close(criterion.loss_cal({S: student}, {T: teacher}, batch), expected)
    images = torch.randn(3, 4, 5, 6), torch.randn(3, 2, 3, 2)
    value = ready(loss_type, *images).loss_cal({S: images[0]}, {T: images[1]})
    torch.testing.assert_close(value, RELATIONS[loss_type](*images))


@pytest.mark.parametrize("shapes", [((6, 5), (6, 5)), ((3, 4, 5), (3, 4, 7)), ((3, 5, 2, 2), (3, 6, 2, 2))], ids=str)
def test_variational_loss_trains_a_mean_and_a_variance_for_each_channel(shapes) -> None:
    student, teacher = (torch.randn(shape) for shape in shapes)
    criterion = ready("VID", student, teacher)
    loss = criterion.loss_cal({S: student}, {T: teacher})
    mean, variance = criterion.feature_matchers[0](student), criterion.feature_matchers[0].variance
    if student.dim() == 4:
        variance = variance[:, None, None]
    density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(teacher)
    torch.testing.assert_close(loss, -(density + math.log(2 * math.pi) / 2).mean())
    loss.backward()
    assert all(parameter.grad is not None for parameter in criterion.parameters())
    assert [name.rpartition(".")[2] for name, _ in criterion.named_parameters()] == ["alpha", "weight", "bias"]


def test_variational_loss_learns_how_well_each_channel_is_known() -> None:
    torch.manual_seed(0)
    student = torch.randn(512, 4)
    noise = torch.tensor([0.1, 1.0])
    teacher = student @ torch.randn(4, 2) + noise * torch.randn(512, 2)
    criterion = ready("VID", student, teacher)
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
    for _ in range(400):
        optimizer.zero_grad()
        criterion.loss_cal({S: student}, {T: teacher}).backward()
        optimizer.step()
    torch.testing.assert_close(criterion.feature_matchers[0].variance, noise.square(), rtol=0.15, atol=0.002)


@pytest.mark.parametrize("shift", [False, True])
def test_decoupled_divergence_of_a_mapping_reads_the_batchs_labels(shift: bool) -> None:
    student, teacher = torch.randn(2, 2, 4, 5).unbind()
    labels = torch.tensor([[0, 1, -100, 3], [4, 2, 1, 0]])
    batch = Batch({"attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]), "labels": labels})
    following = torch.tensor([[1, -100, 3, -100], [2, 1, 0, -100]])
    expected = decoupled_kl_divergence(student, teacher, batch.padding_mask, 2.0, following if shift else labels)
    criterion = ready("DKD", student, teacher)
    criterion.masks = Masks({S: Positions("inputs")}, label_shift=shift)
    torch.testing.assert_close(criterion.loss_cal({S: student}, {T: teacher}, batch, temperature=2.0), expected)


@pytest.mark.parametrize("samples", [0, 1])
def test_largest_logits_of_the_teacher_are_averaged_over_the_positions_of_whole_ones(samples: int) -> None:
    generator = torch.Generator().manual_seed(0)
    student, teacher = (3 * torch.randn(2, 2, 4, 9, dtype=torch.float64, generator=generator)).unbind()
    batch = Batch(
        {
            "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
            "labels": torch.tensor([[-100, 5, -100, 7], [1, 2, 3, -100]]),
        }
    )
    criterion = ready("KL", student, teacher)
    criterion.masks = Masks({S: Positions("inputs", samples=samples, axis=1 - samples)}, label_shift=True)
    stored = [feature.movedim(0, samples) for feature in (student, teacher)]  # (N, L, C), or (L, N, C)
    loss = criterion.loss_cal({S: stored[0]}, {T: top_k_logits(stored[1], 3, 2.0)}, batch, temperature=2.0)
    counted = torch.tensor([[True, False, True, False], [True, True, False, False]])  # by the next label
    torch.testing.assert_close(loss, joined_divergence(student, teacher, counted, 2.0, 3))
