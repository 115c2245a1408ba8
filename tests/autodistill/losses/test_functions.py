"""Every loss against plain loops over float64 numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from autodistill.errors import ConfigurationError
from autodistill.losses import functions as losses

SHAPES = [(6, 5), (4, 3, 5), (2, 3, 4, 5)]


def mean_over_positions(
    per_row: Callable[[np.ndarray, np.ndarray], float], student: np.ndarray, teacher: np.ndarray, counts
) -> float:
    """The mean of a loss of two rows over the positions (all axes but the last) that count."""
    values = [
        per_row(student[position], teacher[position])
        for position in np.ndindex(student.shape[:-1])
        if counts is None or counts(position)
    ]
    return sum(values) / len(values)


def softmax(row: np.ndarray) -> np.ndarray:
    exponentials = np.exp(row - row.max())
    return exponentials / exponentials.sum()


def kl_row(temperature: float) -> Callable[[np.ndarray, np.ndarray], float]:
    def divergence(student: np.ndarray, teacher: np.ndarray) -> float:
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        return temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))

    return divergence


def squared(student: np.ndarray, teacher: np.ndarray) -> float:
    return sum((a - b) ** 2 for a, b in zip(student, teacher, strict=True)) / len(student)


def absolute(student: np.ndarray, teacher: np.ndarray) -> float:
    return sum(abs(a - b) for a, b in zip(student, teacher, strict=True)) / len(student)


def cosine(student: np.ndarray, teacher: np.ndarray) -> float:
    return 1 - float(student @ teacher) / math.sqrt(float(student @ student) * float(teacher @ teacher))


def cross_entropy_row(temperature: float) -> Callable[[np.ndarray, np.ndarray], float]:
    def cross_entropy(student: np.ndarray, teacher: np.ndarray) -> float:
        p, q = softmax(teacher / temperature), softmax(student / temperature)
        return -(temperature**2) * sum(a * math.log(b) for a, b in zip(p, q, strict=True))

    return cross_entropy


REFERENCES = {
    "mse": (losses.mse_loss, squared),
    "l1": (losses.l1_loss, absolute),
    "cosine": (losses.cosine_loss, cosine),
    "kl": (losses.kl_divergence, kl_row(1.0)),
    "kl, T = 4": (lambda s, t, m=None: losses.kl_divergence(s, t, m, temperature=4.0), kl_row(4.0)),
    "soft cross-entropy": (losses.soft_cross_entropy, cross_entropy_row(1.0)),
    "soft cross-entropy, T = 3": (
        lambda s, t, m=None: losses.soft_cross_entropy(s, t, m, temperature=3.0),
        cross_entropy_row(3.0),
    ),
    "kl, T = 0.5": (lambda s, t, m=None: losses.kl_divergence(s, t, m, temperature=0.5), kl_row(0.5)),
}


def features(shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    student, teacher = (3 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)).unbind()
    return student, teacher


def mask_for(shape: tuple[int, ...]) -> torch.Tensor:
    mask = torch.rand(shape[:2], generator=torch.Generator().manual_seed(1)) < 0.6
    mask[0, 0], mask[0, 1] = True, False
    return mask


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_loss_is_the_mean_over_all_positions(name: str, shape: tuple[int, ...]) -> None:
    loss, reference = REFERENCES[name]
    student, teacher = features(shape)
    expected = mean_over_positions(reference, student.numpy(), teacher.numpy(), None)
    assert loss(student, teacher).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_masked_positions_do_not_count(name: str, shape: tuple[int, ...]) -> None:
    loss, reference = REFERENCES[name]
    student, teacher = features(shape)
    mask = mask_for(shape)
    expected = mean_over_positions(reference, student.numpy(), teacher.numpy(), lambda p: bool(mask[p[0], p[1]]))
    assert loss(student, teacher, mask).item() == pytest.approx(expected, rel=1e-10)
    spoilt = torch.where(mask.reshape(*mask.shape, *[1] * (student.dim() - 2)), student, float("inf"))
    assert loss(spoilt, teacher, mask).item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
def test_normalised_error_is_the_error_over_the_teachers_power(shape: tuple[int, ...], masked: bool) -> None:
    student, teacher = features(shape)
    mask = mask_for(shape) if masked else None
    counts = (lambda p: bool(mask[p[0], p[1]])) if mask is not None else None
    error = mean_over_positions(squared, student.numpy(), teacher.numpy(), counts)
    power = mean_over_positions(squared, 0 * student.numpy(), teacher.numpy(), counts)
    assert losses.normalized_mse_loss(student, teacher, mask).item() == pytest.approx(error / power, rel=1e-10)
    assert losses.normalized_mse_loss(1e3 * student, 1e3 * teacher, mask).item() == pytest.approx(error / power)


def test_normalised_error_of_a_silent_teacher_is_finite() -> None:
    assert math.isfinite(losses.normalized_mse_loss(torch.zeros(2, 3), torch.zeros(2, 3)).item())


@pytest.mark.parametrize("heads", [3, 5], ids=["3 heads", "as many heads as positions"])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_divergence_leaves_out_padded_queries(heads: int, masked: bool) -> None:
    student, teacher = (tensor.softmax(-1) for tensor in features((2, heads, 5, 5)))
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]]) if masked else None
    expected = mean_over_positions(
        lambda q, p: sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)),
        student.numpy(),
        teacher.numpy(),
        (lambda position: bool(mask[position[0], position[2]])) if mask is not None else None,
    )
    assert losses.probability_kl_divergence(student, teacher, mask).item() == pytest.approx(expected, rel=1e-10)


def test_probabilities_need_no_softmax_and_rows_of_the_student_are_normalised() -> None:
    student, teacher = (tensor.softmax(-1) for tensor in features((4, 5)))
    expected = losses.probability_kl_divergence(student, teacher)
    assert losses.probability_kl_divergence(7 * student, teacher).item() == pytest.approx(expected.item())
    assert expected.item() == pytest.approx(losses.kl_divergence(student.log(), teacher.log()).item())


def test_keys_that_neither_attends_to_cost_nothing() -> None:
    student, teacher = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.75, 0.0]])
    expected = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    student.requires_grad_()
    loss = losses.probability_kl_divergence(student, teacher)
    loss.backward()
    assert loss.item() == pytest.approx(expected)
    assert bool(student.grad.isfinite().all())


def test_loss_of_a_mask_without_a_position_is_zero() -> None:
    student, teacher = features((2, 3, 5))
    assert losses.mse_loss(student, teacher, torch.zeros(2, 3, dtype=torch.bool)).item() == 0


def test_mask_of_another_shape_is_not_applied() -> None:
    student, teacher = features((4, 3, 5))
    assert losses.mse_loss(student, teacher, torch.zeros(4, 9, dtype=torch.bool)) == losses.mse_loss(student, teacher)
    student, teacher = features((6, 5))
    assert losses.mse_loss(student, teacher, torch.zeros(6, 9, dtype=torch.bool)) == losses.mse_loss(student, teacher)


ALL = [*(loss for loss, _ in REFERENCES.values()), losses.normalized_mse_loss]


@pytest.mark.parametrize("loss", ALL)
@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)], ids=str)
def test_gradient_agrees_with_finite_differences(loss, shape: tuple[int, ...]) -> None:
    student, teacher = features(shape)
    mask = torch.tensor([[True, False, True], [True, True, True]]) if len(shape) == 3 else None
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, mask), student.requires_grad_())


def test_gradient_of_the_attention_divergence_agrees_with_finite_differences() -> None:
    student, teacher = ((tensor / 3).softmax(-1) for tensor in features((2, 2, 3, 3)))
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.autograd.gradcheck(
        lambda s: losses.probability_kl_divergence(s, teacher, mask), student.detach().requires_grad_()
    )


def test_size_of_the_divergences_gradient_hardly_depends_on_a_high_temperature() -> None:
    student, teacher = features((6, 5))
    sizes = []
    for temperature in (50.0, 100.0):
        leaf = student.clone().requires_grad_()
        losses.kl_divergence(leaf, teacher, temperature=temperature).backward()
        sizes.append(leaf.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@pytest.mark.parametrize("name", [name for name in REFERENCES if "entropy" not in name])
def test_equal_features_have_no_loss(name: str) -> None:
    loss, _ = REFERENCES[name]
    _, teacher = features((4, 3, 5))
    assert loss(teacher, teacher).item() == pytest.approx(0, abs=1e-12)
    assert losses.normalized_mse_loss(teacher, teacher).item() == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_rows_that_sum_to_one_are_probabilities_in_every_precision(dtype: torch.dtype) -> None:
    maps = features((2, 3, 6, 64))[0].float().softmax(-1).to(dtype)
    assert losses.are_probabilities(maps)
    assert not losses.are_probabilities(1.1 * maps)


@pytest.mark.parametrize(
    "feature",
    [torch.tensor([[0.5, 0.6]]), torch.tensor([[1.5, -0.5]]), torch.tensor([0.5, 0.5]), torch.tensor([[1, 0]])],
    ids=["sum", "negative", "no rows", "integers"],
)
def test_other_features_are_no_probabilities(feature: torch.Tensor) -> None:
    assert not losses.are_probabilities(feature)


def test_soft_cross_entropy_is_the_divergence_plus_the_teachers_entropy() -> None:
    student, teacher = features((4, 3, 5))
    p = teacher.softmax(-1)
    entropy = -(p * p.log()).sum(-1).mean()
    expected = losses.kl_divergence(student, teacher) + entropy
    torch.testing.assert_close(losses.soft_cross_entropy(student, teacher), expected)
    probabilities = losses.probability_kl_divergence(student.softmax(-1), p) + entropy
    torch.testing.assert_close(losses.probability_cross_entropy(7 * student.softmax(-1), p), probabilities)


def test_a_mask_may_cover_samples_or_every_axis() -> None:
    student, teacher = features((4, 5))
    mask = torch.tensor([True, False, True, False])
    torch.testing.assert_close(losses.mse_loss(student, teacher, mask), losses.mse_loss(student[mask], teacher[mask]))
    student, teacher = features((2, 3, 4, 5))
    mask = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0)) < 0.5
    torch.testing.assert_close(losses.mse_loss(student, teacher, mask), losses.mse_loss(student[mask], teacher[mask]))


@pytest.mark.parametrize("shape", [(6,), (2, 3), (2, 3, 2)], ids=str)
def test_label_loss_is_the_mean_negative_log_probability_of_labels_that_count(shape: tuple[int, ...]) -> None:
    logits = features((*shape, 5))[0]
    labels = torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(0))
    labels.view(-1)[::3] = -100
    terms = [
        -math.log(softmax(row.numpy())[label])
        for row, label in zip(logits.reshape(-1, 5), labels.flatten().tolist(), strict=True)
        if label != -100
    ]
    assert losses.label_cross_entropy(logits, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)
    assert torch.autograd.gradcheck(lambda s: losses.label_cross_entropy(s, labels), logits.requires_grad_())


def test_label_loss_without_a_label_that_counts_is_zero() -> None:
    assert losses.label_cross_entropy(torch.randn(2, 3), torch.tensor([7, 7]), ignore_index=7).item() == 0


def test_combined_loss_is_the_guides_formula() -> None:
    student, teacher = features((6, 5))
    labels = torch.tensor([0, 1, 2, 3, 4, 0])
    hard = torch.nn.functional.cross_entropy(student, labels)
    soft = torch.nn.functional.kl_div(
        torch.log_softmax(student / 2, dim=1), torch.softmax(teacher / 2, dim=1), reduction="batchmean"
    )
    expected = 0.7 * hard + 0.3 * 4 * soft
    value = losses.distillation_loss(student, teacher, labels, temperature=2.0, alpha=0.3)
    torch.testing.assert_close(value, expected)


def test_combined_loss_leaves_ignored_labels_out_of_both_terms() -> None:
    student, teacher = features((2, 3, 5))
    labels = torch.tensor([[0, -100, 2], [-100, -100, 4]])
    kept = labels != -100
    value = losses.distillation_loss(student, teacher, labels, temperature=2.0, alpha=0.3)
    torch.testing.assert_close(
        value, losses.distillation_loss(student[kept], teacher[kept], labels[kept], temperature=2.0, alpha=0.3)
    )


@pytest.mark.parametrize("alpha", [-0.1, 1.1, math.nan])
def test_share_of_the_teacher_outside_its_range_is_refused(alpha: float) -> None:
    with pytest.raises(ConfigurationError, match=r"alpha, the teacher's share of the loss, must lie in \[0, 1\], but"):
        losses.distillation_loss(torch.zeros(1, 2), torch.zeros(1, 2), torch.tensor([0]), alpha=alpha)


@pytest.mark.parametrize("shape", [(8, 1), (1, 3)], ids=str)
def test_logits_that_would_be_broadcast_are_refused(shape) -> None:
    with pytest.raises(ConfigurationError, match="logits of student and teacher must have one shape, but got"):
        losses.distillation_loss(torch.zeros(8, 3), torch.zeros(shape), torch.zeros(8, dtype=torch.long))


@pytest.mark.parametrize("student_excludes_it", [False, True])
def test_class_that_the_teacher_excludes_adds_nothing(student_excludes_it: bool) -> None:
    student = torch.tensor([[0.5, -1.0, 2.0]], dtype=torch.float64)
    teacher = torch.tensor([[1.0, 0.0, -math.inf]], dtype=torch.float64)
    if student_excludes_it:
        student[0, 2] = -math.inf
    kept = student.softmax(-1)[:, :2]  # the student's probabilities of the two classes that the teacher allows
    expected = F.kl_div(kept.log(), teacher[:, :2].softmax(-1), reduction="batchmean")
    torch.testing.assert_close(losses.kl_divergence(student, teacher), expected)
    cross_entropy = -(teacher[:, :2].softmax(-1) * kept.log()).sum()
    torch.testing.assert_close(losses.soft_cross_entropy(student, teacher), cross_entropy)


def class_probabilities(shape: tuple[int, ...], classes: int) -> torch.Tensor:
    """Rows as label smoothing and mixup make them, in float64."""
    generator = torch.Generator().manual_seed(3)
    first, second = torch.randint(0, classes, (2, *shape), generator=generator).unbind()
    mixed = 0.7 * F.one_hot(first, classes).double() + 0.3 * F.one_hot(second, classes).double()
    return 0.9 * mixed + 0.1 / classes


@pytest.mark.parametrize("shape", [(6,), (4, 3)], ids=str)
def test_label_loss_of_class_probabilities_is_their_mean_cross_entropy(shape: tuple[int, ...]) -> None:
    logits, labels = features((*shape, 5))[0].double(), class_probabilities(shape, 5)
    rows = zip(logits.reshape(-1, 5).tolist(), labels.reshape(-1, 5).tolist(), strict=True)
    terms = [-sum(p * math.log(q) for p, q in zip(label, softmax(np.array(row)), strict=True)) for row, label in rows]
    assert losses.label_cross_entropy(logits, labels).item() == pytest.approx(sum(terms) / len(terms), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_one_hot_labels_of_every_type_equal_class_numbers(dtype: torch.dtype) -> None:
    student, teacher = features((6, 5))
    labels = torch.tensor([0, 4, 2, 2, 1, 3])
    rows = F.one_hot(labels, 5).to(dtype)
    torch.testing.assert_close(losses.label_cross_entropy(student, rows), losses.label_cross_entropy(student, labels))
    combined = losses.distillation_loss(student, teacher, rows, temperature=2.0, alpha=0.3)
    torch.testing.assert_close(combined, losses.distillation_loss(student, teacher, labels, 2.0, 0.3))


def test_integer_labels_with_several_classes_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"one-hot, a single 1 in each row, but some rows are not; pass class"):
        losses.label_cross_entropy(torch.zeros(2, 3), torch.tensor([[1, 1, 0], [1, 0, 0]]))


@pytest.mark.parametrize("labels", [torch.zeros(3), torch.zeros(2, 4), torch.zeros(4, dtype=torch.int64)], ids=str)
def test_labels_of_another_shape_or_type_are_refused(labels: torch.Tensor) -> None:
    with pytest.raises(ConfigurationError, match=r"class numbers \(3,\) or class probabilities \(3, 4\)"):
        losses.label_cross_entropy(torch.zeros(3, 4), labels)


@pytest.mark.parametrize("masked", [False, True])
def test_variational_loss_is_the_normal_densitys_negative_logarithm(masked: bool) -> None:
    mean, teacher = (each.double() for each in features((4, 3, 5)))
    variance = torch.tensor([0.2, 1.0, 5.0, 2.0, 0.7], dtype=torch.float64)
    mask = torch.tensor([[True, False, True]] * 4) if masked else None
    rows = slice(None) if mask is None else mask
    density = torch.distributions.Normal(mean, variance.sqrt()).log_prob(teacher)[rows]
    expected = -density.mean() - math.log(2 * math.pi) / 2
    torch.testing.assert_close(losses.variational_loss(mean, teacher, mask, variance), expected)
