"""Losses between logits against the formulas of their papers, written with plain loops over float64 numbers."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from autodistill.errors import ConfigurationError
from autodistill.losses.functions import kl_divergence
from autodistill.losses.logits import (
    correlation_distance,
    decoupled_kl_divergence,
    probability_correlation_distance,
    standardized_kl_divergence,
)


def logits(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    student, teacher = (3 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)).unbind()
    return student, teacher


def softmax(row, temperature: float = 1.0) -> np.ndarray:
    exponentials = np.exp(np.asarray(row) / temperature)
    return exponentials / exponentials.sum()


def divergence(p, q) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


MASK = torch.tensor([[True, True, False], [False, True, True], [True, False, True]])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("mask", [None, MASK], ids=["all positions", "masked"])
def test_standardised_divergence_is_that_of_z_scores(temperature: float, mask) -> None:
    student, teacher = logits(3, 3, 6)
    terms = []
    for at in np.ndindex(3, 3):
        if mask is None or mask[at]:
            rows = [row - row.mean() for row in (student[at].numpy(), teacher[at].numpy())]
            q, p = (softmax(row / math.sqrt((row @ row) / 6), temperature) for row in rows)
            terms.append(temperature**2 * divergence(p, q))
    value = standardized_kl_divergence(student, teacher, mask, temperature)
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-10)


def decoupled(student, teacher, label: int, temperature: float, alpha: float, beta: float) -> float:
    p, q = softmax(teacher, temperature), softmax(student, temperature)
    others = [index for index in range(len(p)) if index != label]
    target = divergence((p[label], 1 - p[label]), (q[label], 1 - q[label]))
    rest = divergence(p[others] / p[others].sum(), q[others] / q[others].sum())
    return temperature**2 * (alpha * target + beta * rest)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 8.0), (0.5, 2.0)])
def test_decoupled_divergence_is_the_sum_of_its_weighted_parts(temperature, alpha, beta) -> None:
    student, teacher = logits(5, 4)
    labels = [0, 3, 1, 1, 2]
    rows = [
        decoupled(s, t, label, temperature, alpha, beta) for s, t, label in zip(student, teacher, labels, strict=True)
    ]
    value = decoupled_kl_divergence(student, teacher, None, temperature, torch.tensor(labels), alpha=alpha, beta=beta)
    assert value.item() == pytest.approx(sum(rows) / 5, rel=1e-10)


def test_decoupled_divergence_leaves_out_ignored_labels_and_padding() -> None:
    student, teacher = logits(3, 3, 4)
    labels = torch.tensor([[0, -100, 2], [1, 3, 0], [-100, 1, 2]])
    counted = [at for at in np.ndindex(3, 3) if MASK[at] and labels[at] != -100]
    rows = [decoupled(student[at], teacher[at], int(labels[at]), 1.0, 1.0, 8.0) for at in counted]
    value = decoupled_kl_divergence(student, teacher, MASK, labels=labels)
    assert value.item() == pytest.approx(sum(rows) / len(rows), rel=1e-10)
    elsewhere = labels.masked_fill(~MASK, 255)  # a class that does not exist, where nothing counts
    torch.testing.assert_close(decoupled_kl_divergence(student, teacher, MASK, labels=elsewhere), value)


def test_divergence_is_the_decoupled_one_with_the_teachers_own_weights() -> None:
    student, teacher = logits(1, 5)
    beta = 1 - softmax(teacher[0])[2]
    value = decoupled_kl_divergence(student, teacher, labels=torch.tensor([2]), beta=beta)
    torch.testing.assert_close(value, kl_divergence(student, teacher))


def test_decoupled_divergence_has_finite_gradients_where_the_teacher_is_certain() -> None:
    student = torch.tensor([[40.0, -40.0, 0.0]], requires_grad=True)
    teacher = torch.tensor([[200.0, -200.0, float("-inf")]])
    decoupled_kl_divergence(student, teacher, labels=torch.tensor([0])).backward()
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize("labels", [None, torch.rand(5, 4), torch.zeros(4, dtype=torch.int64)], ids=str)
def test_decoupled_divergence_without_class_numbers_is_refused(labels) -> None:
    with pytest.raises(ConfigurationError, match=r"needs labels that are class numbers \(5,\), but .*; use KL without"):
        decoupled_kl_divergence(*logits(5, 4), labels=labels)


def pearson(left: np.ndarray, right: np.ndarray) -> float:
    return float(np.corrcoef(left, right)[0, 1])


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_correlation_distance_is_that_of_rows_and_columns(temperature: float) -> None:
    student, teacher = logits(3, 3, 5)
    kept = [at for at in np.ndindex(3, 3) if MASK[at]]
    q, p = (np.stack([softmax(each[at], temperature) for at in kept]) for each in (student, teacher))
    inter = np.mean([1 - pearson(a, b) for a, b in zip(q, p, strict=True)])
    intra = np.mean([1 - pearson(a, b) for a, b in zip(q.T, p.T, strict=True)])
    value = correlation_distance(student, teacher, MASK, temperature, beta=2.0, gamma=0.5)
    assert value.item() == pytest.approx(temperature**2 * (2 * inter + 0.5 * intra), rel=1e-10)


@pytest.mark.parametrize("heads", [2, 3], ids=["2 heads", "as many heads as positions"])
def test_correlation_distance_of_attention_maps_leaves_out_padded_queries(heads: int) -> None:
    student, teacher = (each.softmax(-1) for each in logits(3, heads, 3, 3))
    rows = MASK[:, None].expand(3, heads, 3)
    expected = probability_correlation_distance(student[rows], teacher[rows])
    q, p = student[rows].numpy(), teacher[rows].numpy()
    parts = [np.mean([1 - pearson(a, b) for a, b in zip(x, y, strict=True)]) for x, y in ((q, p), (q.T, p.T))]
    assert expected.item() == pytest.approx(sum(parts), rel=1e-10)
    torch.testing.assert_close(probability_correlation_distance(student, teacher, MASK), expected)


@pytest.mark.parametrize(
    "loss",
    [standardized_kl_divergence, correlation_distance, lambda s, t: decoupled_kl_divergence(s, t, labels=LABELS)],
)
def test_gradient_agrees_with_finite_differences(loss) -> None:
    student, teacher = logits(5, 4)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())


LABELS = torch.tensor([0, 3, 1, 1, 2])
