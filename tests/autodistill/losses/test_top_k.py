"""The k largest logits and the mass of the rest: the formula, and its relation to the whole divergence."""

from __future__ import annotations

import math

import pytest
import torch

from autodistill.errors import ConfigurationError
from autodistill.losses.functions import kl_divergence
from autodistill.losses.top_k import TopK, TopKLogits, keep_top_k, top_k_kl_divergence, top_k_logits
from autodistill.models.taps import Tap


def logits(*shape: int, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def joined(row: torch.Tensor, kept: list[int], temperature: float) -> list[float]:
    """The probabilities of the kept classes and of all others together."""
    exponentials = [math.exp(value / temperature) for value in row.tolist()]
    total = sum(exponentials)
    probabilities = [exponentials[index] / total for index in kept]
    return [*probabilities, 1 - sum(probabilities)]


@pytest.mark.parametrize("shape", [(6, 9), (2, 3, 9)], ids=str)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_divergence_is_that_of_the_kept_classes_and_all_others_as_one(shape, temperature: float, k: int) -> None:
    student, teacher = logits(*shape, seed=1), logits(*shape, seed=2)
    terms = []
    for s, t in zip(student.reshape(-1, 9), teacher.reshape(-1, 9), strict=True):
        kept = sorted(range(9), key=lambda index: -t[index].item())[:k]
        p, q = joined(t, kept, temperature), joined(s, kept, temperature)
        terms.append(temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)))
    value = top_k_kl_divergence(student, top_k_logits(teacher, k, temperature), None, temperature)
    assert value.item() == pytest.approx(sum(terms) / len(terms), rel=1e-6)  # the subtraction 1 - Σ loses digits
    assert value.item() <= kl_divergence(student, teacher, temperature=temperature).item() + 1e-12


@pytest.mark.parametrize("k", [1, 4, 8])
def test_what_is_missing_is_the_divergence_within_the_rest_times_its_mass(k: int) -> None:
    student, teacher = logits(5, 9, seed=1), logits(5, 9, seed=2)
    missing = []
    for s, t in zip(student, teacher, strict=True):
        others = t.argsort(descending=True)[k:]
        p, q = (row[others].div(2).softmax(-1) for row in (t, s))
        mass = t.div(2).softmax(-1)[others].sum()
        missing.append(2.0**2 * mass * (p * (p / q).log()).sum())
    whole = kl_divergence(student, teacher, temperature=2.0)
    loss = top_k_kl_divergence(student, top_k_logits(teacher, k, 2.0), None, 2.0)
    torch.testing.assert_close(whole - loss, torch.stack(missing).mean(), rtol=1e-6, atol=1e-9)


def test_with_all_classes_but_one_it_is_the_whole_divergence() -> None:
    student, teacher = logits(5, 9, seed=1), logits(5, 9, seed=2)
    torch.testing.assert_close(top_k_kl_divergence(student, top_k_logits(teacher, 8)), kl_divergence(student, teacher))


def test_masked_positions_do_not_count() -> None:
    student, teacher = logits(2, 3, 9, seed=1), logits(2, 3, 9, seed=2)
    mask = torch.tensor([[True, False, False], [True, True, False]])
    expected = top_k_kl_divergence(student[mask], top_k_logits(teacher[mask], 3))
    torch.testing.assert_close(top_k_kl_divergence(student, top_k_logits(teacher, 3), mask), expected)


def test_gradient_agrees_with_finite_differences() -> None:
    top = top_k_logits(logits(3, 6, seed=2), 2, temperature=2.0)
    student = logits(3, 6, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: top_k_kl_divergence(s, top, None, 2.0), student)


def test_another_temperature_than_stored_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="hold the mass of the rest at temperature 2, but are compared at 4"):
        top_k_kl_divergence(logits(2, 6), top_k_logits(logits(2, 6), 2, temperature=2.0), None, 4.0)


def test_other_positions_and_missing_classes_are_refused() -> None:
    top = top_k_logits(logits(2, 3, 6), 2)
    with pytest.raises(ConfigurationError, match=r"same positions, but got \(2, 4\) and \(2, 3\)"):
        top_k_kl_divergence(logits(2, 4, 6), top)
    last = TopKLogits(top.values, torch.full_like(top.indices, 5), top.rest, top.temperature)
    with pytest.raises(ConfigurationError, match="but has 5 and the teacher stored class 5"):
        top_k_kl_divergence(logits(2, 3, 5), last)


@pytest.mark.parametrize("k", [0, 6, 7])
def test_keeping_none_or_all_is_refused(k: int) -> None:
    with pytest.raises(ConfigurationError, match=f"but is {k} for 6 classes; to keep all logits, leave it out"):
        top_k_logits(logits(2, 6), k)


def test_kept_class_that_the_teacher_excludes_adds_nothing() -> None:
    teacher = torch.tensor([[1.0, 0.0, -math.inf, -math.inf]], dtype=torch.float64)
    student = logits(1, 4)
    expected = kl_divergence(student[:, :2], teacher[:, :2]) - student.softmax(-1)[:, :2].sum().log()
    torch.testing.assert_close(top_k_kl_divergence(student, top_k_logits(teacher, 3)), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_mass_of_many_classes_in_half_precision_is_computed_in_single(dtype: torch.dtype) -> None:
    teacher = logits(2, 5000, seed=3).to(dtype)
    top = top_k_logits(teacher, 4, temperature=2.0)
    expected = top_k_logits(teacher.double(), 4, temperature=2.0)
    assert (top.values.dtype, top.indices.dtype, top.rest.dtype) == (dtype, torch.int32, torch.float32)
    assert torch.equal(top.values.double(), expected.values)
    torch.testing.assert_close(top.rest, expected.rest.float(), rtol=1e-6, atol=1e-6)


HEAD, BODY = Tap("head"), Tap("body")


def test_logits_of_the_chosen_taps_are_reduced_and_other_features_are_not() -> None:
    features = {HEAD: logits(2, 3, 9), BODY: logits(2, 3, 4)}
    kept = keep_top_k(features, TopK((HEAD,), 5, 2.0))
    assert list(kept) == [HEAD, BODY]
    assert kept[BODY] is features[BODY]
    for field, expected in zip(kept[HEAD], top_k_logits(features[HEAD], 5, 2.0), strict=True):
        assert torch.equal(field, expected)


def test_no_tap_leaves_all_features_as_they_are() -> None:
    features = {HEAD: logits(2, 9)}
    assert keep_top_k(features, None) is features
    assert keep_top_k(features, TopK((), 5, 2.0)) == features


def test_reduced_logits_with_positions_first_are_arranged_as_whole_ones_are() -> None:
    whole = logits(7, 2, 9)  # (L, N, C)
    arranged = top_k_logits(whole, 3).arranged(lambda field: field.movedim(1, 0))
    expected = top_k_logits(whole.movedim(1, 0), 3)
    for name in ("values", "indices", "rest"):
        assert torch.equal(getattr(arranged, name), getattr(expected, name)), name


@pytest.mark.parametrize("classes", [4, 5])
def test_logits_of_at_most_k_classes_are_kept_whole(classes: int) -> None:
    features = {HEAD: logits(2, classes)}
    assert keep_top_k(features, TopK((HEAD,), 5, 2.0))[HEAD] is features[HEAD]
