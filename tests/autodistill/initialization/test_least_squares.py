"""Least squares: against scikit-learn and NumPy, and on students that are the teacher already."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from autodistill.data import Batch
from autodistill.initialization.families import FAMILIES
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.least_squares import LeastSquares, StudentRun, fit_channels, ridge
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.initialization.weights import Affine

GENERATOR = torch.Generator()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_ridge_from_zero_is_scikit_learns(strength: float) -> None:
    inputs, targets = random(60, 5), random(60, 3, seed=1) + 2
    found = ridge(inputs, targets, Affine(torch.zeros(3, 5, dtype=torch.float64), None), strength)
    power = inputs.sub(inputs.mean(0)).square().mean().item()
    reference = Ridge(alpha=strength * power * len(inputs)).fit(inputs.numpy(), targets.numpy())
    np.testing.assert_allclose(found.weight, reference.coef_, atol=1e-10)
    np.testing.assert_allclose(found.bias, reference.intercept_, atol=1e-10)


def test_ridge_of_great_strength_stays_at_the_first_weight() -> None:
    first = random(3, 5, seed=2)
    found = ridge(random(60, 5), random(60, 3, seed=1), Affine(first, None), 1e9)
    np.testing.assert_allclose(found.weight, first, atol=1e-6)


def test_channels_are_fitted_as_straight_lines() -> None:
    inputs, targets = random(40, 3), random(40, 3, seed=1)
    gain, bias = fit_channels(inputs, targets)
    for channel in range(3):
        slope, intercept = np.polyfit(inputs[:, channel].numpy(), targets[:, channel].numpy(), 1)
        assert gain[channel].item() == pytest.approx(slope)
        assert bias[channel].item() == pytest.approx(intercept)


def models(kind: str, width: int) -> torch.nn.Module:
    sizes = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24, "vocab_size": 30}
    torch.manual_seed(width)
    if kind == "bert":
        model = BertModel(BertConfig(hidden_size=width, **sizes), add_pooling_layer=False)
    else:
        model = LlamaModel(LlamaConfig(hidden_size=width, **sizes))
    for name, parameter in model.named_parameters():
        if "norm" in name.lower():  # fresh gains of one and biases of zero would hide mistakes
            torch.nn.init.normal_(parameter, mean=1.0 if name.endswith("weight") else 0.0, std=0.3)
    return model.eval()


def batches(count: int) -> list[Batch]:
    tokens = torch.randint(0, 30, (count, 4, 9), generator=GENERATOR.manual_seed(3))
    return [Batch({"input_ids": part, "attention_mask": torch.ones_like(part)}) for part in tokens]


def fitted(kind: str, student: torch.nn.Module, subspace: TeacherSubspace, *, writers: bool) -> torch.nn.Module:
    teacher = models(kind, 8)
    start = initialize_from_teacher(student, teacher, subspace)
    features = StudentRun(teacher).features
    LeastSquares(start, FAMILIES[kind], student, features, batches(20), ("", "")).run(writers=writers)
    return student


def full_subspace(kind: str) -> TeacherSubspace:
    directions = torch.eye(8, dtype=torch.float64)[:, torch.randperm(8, generator=GENERATOR.manual_seed(4))]
    if kind == "llama":
        directions = torch.linalg.qr(random(8, 8)).Q
    return TeacherSubspace(torch.zeros(1, 8).double(), directions, torch.ones(8).double(), 1.0)


@pytest.mark.parametrize("writers", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_student_that_is_the_teacher_already_stays_it(kind: str, writers: bool) -> None:
    student, subspace = models(kind, 8), full_subspace(kind)
    before = initialize_from_teacher(student, models(kind, 8), subspace)
    (batch,) = batches(1)
    with torch.no_grad():
        wanted = batch.call(models(kind, 8)).last_hidden_state
        found = batch.call(fitted(kind, student, subspace, writers=writers)).last_hidden_state
    back = found.double() @ before.matcher.weight.T + before.matcher.bias
    torch.testing.assert_close(back.float(), wanted, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("writers", [False, True])
def test_a_narrow_student_comes_nearer_to_the_teacher(writers: bool) -> None:
    subspace = TeacherSubspace(
        torch.zeros(1, 8).double(), torch.linalg.qr(random(8, 8)).Q[:, :4], torch.ones(4).double(), 0.5
    )
    (batch,) = batches(1)

    def distance(student: torch.nn.Module) -> float:
        with torch.no_grad():
            wanted = subspace.project(batch.call(models("bert", 8)).last_hidden_state)
            return float((batch.call(student).last_hidden_state - wanted).square().mean())

    written = models("bert", 4)
    initialize_from_teacher(written, models("bert", 8), subspace)
    assert distance(fitted("bert", models("bert", 4), subspace, writers=writers)) < 0.7 * distance(written)


@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_finished_blocks_are_not_run_again_and_nothing_changes(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def counted(student: torch.nn.Module) -> list[int]:
        runs = [0, 0]
        feed_forward = r"layer.(\d).intermediate" if kind == "bert" else r"layers.(\d).mlp"
        for name, module in student.named_modules():
            if (found := re.search(feed_forward + "$", name)) is not None:
                module.register_forward_hook(lambda *_, block=int(found[1]): runs.__setitem__(block, runs[block] + 1))
        return runs

    narrow = TeacherSubspace(torch.zeros(1, 8).double(), full_subspace(kind).directions[:, :4], torch.ones(4), 0.5)
    quick, slow = models(kind, 4), models(kind, 4)
    quick_runs, slow_runs = counted(quick), counted(slow)
    fitted(kind, quick, narrow, writers=True)
    monkeypatch.setattr(StudentRun, "finish", lambda *_: None)
    fitted(kind, slow, narrow, writers=True)
    for (name, parameter), other in zip(quick.named_parameters(), slow.parameters(), strict=True):
        assert torch.equal(parameter, other), name
    assert quick_runs[1] == slow_runs[1]
    assert quick_runs[0] < slow_runs[0]
