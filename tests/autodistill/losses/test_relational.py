"""Relational distillation against sums over pairs and triplets written out."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from autodistill.errors import ConfigurationError
from autodistill.losses.relational import RelationalLoss


def huber(a: float, b: float) -> float:
    return 0.5 * (a - b) ** 2 if abs(a - b) <= 1 else abs(a - b) - 0.5


def distances(samples: list[list[float]]) -> dict[tuple[int, int], float]:
    pairs = itertools.permutations(range(len(samples)), 2)
    found = {(i, j): math.dist(samples[i], samples[j]) for i, j in pairs}
    mean = sum(found.values()) / len(found)
    return {key: value / mean for key, value in found.items()}


def cosine(a: list[float], vertex: list[float], b: list[float]) -> float:
    u, v = ([x - y for x, y in zip(point, vertex, strict=True)] for point in (a, b))
    product = sum(x * y for x, y in zip(u, v, strict=True))
    return product / (math.hypot(*u) * math.hypot(*v))


def samples(*shape: int, seed: int) -> torch.Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(5, 4), (4, 2, 3), (4, 2, 2, 2)], ids=str)
def test_loss_is_the_mean_over_pairs_and_over_triplets(shape) -> None:
    student, teacher = samples(*shape, seed=1), samples(shape[0], 7, seed=2)
    s, t = student.flatten(1).tolist(), teacher.tolist()
    of_student, of_teacher = distances(s), distances(t)
    expected_distance = sum(huber(of_student[key], of_teacher[key]) for key in of_student) / len(of_student)
    triplets = list(itertools.permutations(range(len(s)), 3))
    expected_angle = sum(huber(cosine(s[i], s[j], s[k]), cosine(t[i], t[j], t[k])) for i, j, k in triplets) / len(
        triplets
    )
    assert RelationalLoss(1, 0)(student, teacher).item() == pytest.approx(expected_distance, rel=1e-9)
    assert RelationalLoss(0, 1)(student, teacher).item() == pytest.approx(expected_angle, rel=1e-9)
    expected = 25 * expected_distance + 50 * expected_angle
    assert RelationalLoss()(student, teacher).item() == pytest.approx(expected, rel=1e-9)


def test_rotated_shifted_and_scaled_samples_have_the_same_relations() -> None:
    teacher = samples(5, 4, seed=3)
    rotation = torch.linalg.qr(samples(4, 4, seed=4)).Q
    assert RelationalLoss()(2 * teacher @ rotation + 1, teacher).item() == pytest.approx(0, abs=1e-9)


def test_gradient_agrees_with_finite_differences() -> None:
    teacher = samples(4, 5, seed=5)
    assert torch.autograd.gradcheck(lambda s: RelationalLoss()(s, teacher), samples(4, 3, seed=6).requires_grad_())


def test_samples_that_are_equal_leave_the_gradient_finite() -> None:
    student = torch.ones(4, 3, requires_grad=True)
    RelationalLoss()(student, torch.randn(4, 3)).backward()
    assert bool(student.grad.isfinite().all())


@pytest.mark.parametrize(("student", "teacher"), [(2, 2), (4, 5)])
def test_too_few_samples_or_unequal_numbers_are_refused(student: int, teacher: int) -> None:
    sentence = f"at least 3 samples, equally many of student and teacher, but there are {student} and {teacher}"
    with pytest.raises(ConfigurationError, match=sentence):
        RelationalLoss()(torch.zeros(student, 2), torch.zeros(teacher, 2))


@pytest.mark.parametrize("weight", [-1.0, math.nan])
def test_weight_that_is_negative_or_no_number_is_refused(weight: float) -> None:
    with pytest.raises(ConfigurationError, match="a loss weight must be finite and not negative, but got"):
        RelationalLoss(angle_weight=weight)
