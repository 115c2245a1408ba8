"""Relational distillation against sums over pairs and triplets written out."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from autodistill.errors import ConfigurationError
from autodistill.losses.relational import (
    RelationalLoss,
    correlation_congruence_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)


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


# --- relations of samples, as float64 loops --------------------------------------------------------------------------


def embeddings(*shapes: tuple[int, ...]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]


def rows_of(feature: torch.Tensor) -> np.ndarray:
    return feature.reshape(len(feature), -1).numpy()


def unit(row: np.ndarray) -> np.ndarray:
    return row / math.sqrt(float(row @ row))


def similarity_preserving(student: np.ndarray, teacher: np.ndarray) -> float:
    matrices = [np.stack([unit(np.array([a @ b for b in rows])) for a in rows]) for rows in (student, teacher)]
    return float(((matrices[0] - matrices[1]) ** 2).sum()) / len(student) ** 2


def probabilistic_transfer(student: np.ndarray, teacher: np.ndarray) -> float:
    total = 0.0
    for j in range(len(student)):
        others = [i for i in range(len(student)) if i != j]
        q, p = ([(unit(rows[i]) @ unit(rows[j]) + 1) / 2 for i in others] for rows in (student, teacher))
        total += sum(a / sum(p) * math.log((a / sum(p)) / (b / sum(q))) for a, b in zip(p, q, strict=True))
    return total / len(student)


def correlation_congruence(student: np.ndarray, teacher: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        product = float(unit(x) @ unit(y))
        return math.exp(-0.8) * (1 + 0.8 * product + 0.8**2 / 2 * product**2)

    pairs = list(itertools.product(range(len(student)), repeat=2))
    return sum((kernel(student[i], student[j]) - kernel(teacher[i], teacher[j])) ** 2 for i, j in pairs) / len(pairs)


RELATIONS = [
    (similarity_preserving_loss, similarity_preserving),
    (probabilistic_transfer_loss, probabilistic_transfer),
    (correlation_congruence_loss, correlation_congruence),
]


@pytest.mark.parametrize(("loss", "formula"), RELATIONS)
@pytest.mark.parametrize("shapes", [((6, 4), (6, 7)), ((5, 3, 4), (5, 2, 6)), ((4, 3, 2, 2), (4, 5))], ids=str)
def test_relations_are_the_papers_formula_for_any_widths(loss, formula, shapes) -> None:
    student, teacher = embeddings(*shapes)
    assert loss(student, teacher).item() == pytest.approx(formula(rows_of(student), rows_of(teacher)), rel=1e-9)


@pytest.mark.parametrize(("loss", "formula"), RELATIONS)
def test_relations_leave_out_padding_and_masked_samples(loss, formula) -> None:
    student, teacher = embeddings((4, 3, 2), (4, 3, 5))
    mask = torch.tensor([[True, True, False], [True, False, False], [True, True, True], [True, True, False]])
    kept = [rows_of(each * mask[:, :, None]) for each in (student, teacher)]
    assert loss(student, teacher, mask).item() == pytest.approx(formula(*kept), rel=1e-9)
    changed = student + 100 * ~mask[:, :, None]
    torch.testing.assert_close(loss(changed, teacher, mask), loss(student, teacher, mask))
    which = torch.tensor([True, True, False, True])
    expected = formula(rows_of(student[which]), rows_of(teacher[which]))
    assert loss(student, teacher, which).item() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("loss", "formula"), RELATIONS)
def test_relations_have_the_right_gradient_and_refuse_other_samples(loss, formula) -> None:
    student, teacher = embeddings((5, 3), (5, 4))
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), student.requires_grad_())
    with pytest.raises(ConfigurationError, match="there are 4 of the student and 5 of the teacher"):
        loss(student[:4], teacher)
