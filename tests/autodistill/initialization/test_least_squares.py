"""Least squares: against scikit-learn and NumPy, and on students that equal the teacher from the start."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from torch import nn
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from autodistill.batch import Batch
from autodistill.initialization.from_teacher import TeacherStart, initialize_from_teacher
from autodistill.initialization.least_squares import LeastSquares, StudentRun, fit_channels, ridge
from autodistill.initialization.pairing import Both
from autodistill.initialization.subspace import TeacherSubspace, decompose
from autodistill.models.families import FAMILIES, Family, FeedForward
from autodistill.models.taps import INPUT, Tap
from autodistill.models.weights import Affine

GENERATOR = torch.Generator()


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=GENERATOR.manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_ridge_from_zero_is_scikit_learns(strength: float, bias: bool) -> None:
    inputs, targets = random(60, 5) + 1, random(60, 3, seed=1) + 2
    found = ridge(inputs, targets, Affine(torch.zeros(3, 5, dtype=torch.float64), None), strength, bias=bias)
    power = inputs.sub(inputs.mean(0) * bias).square().mean().item()
    reference = Ridge(alpha=strength * power * len(inputs), fit_intercept=bias).fit(inputs.numpy(), targets.numpy())
    np.testing.assert_allclose(found.weight, reference.coef_, atol=1e-10)
    assert (found.bias is not None) == bias
    np.testing.assert_allclose(found.bias if bias else 0.0, reference.intercept_, atol=1e-10)


@pytest.mark.parametrize("value", [0.0, 0.1])
def test_ridge_of_inputs_that_do_not_vary_keeps_the_first_weight(value: float) -> None:
    first, targets = random(3, 5, seed=2), random(60, 3, seed=1)
    found = ridge(torch.full((60, 5), value), targets, Affine(first, None), 0.01)
    np.testing.assert_allclose(found.weight, first, atol=1e-6)
    np.testing.assert_allclose(found.weight.sum(1) * value + found.bias, targets.mean(0), atol=1e-6)


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


def test_channels_without_bias_are_fitted_as_lines_through_zero() -> None:
    inputs, targets = random(40, 3) + 1, random(40, 3, seed=1)
    gain, bias = fit_channels(inputs, targets, bias=False)
    for channel in range(3):
        (slope,), *_ = np.linalg.lstsq(inputs[:, channel : channel + 1].numpy(), targets[:, channel].numpy())
        assert gain[channel].item() == pytest.approx(slope)
    assert not bias.any()


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
    LeastSquares(start, FAMILIES[kind].weights, student, features, batches(20), Both("", "")).run(writers=writers)
    return student


def full_subspace(kind: str) -> TeacherSubspace:
    directions = torch.eye(8, dtype=torch.float64)[:, torch.randperm(8, generator=GENERATOR.manual_seed(4))]
    if kind == "llama":
        directions = torch.linalg.qr(random(8, 8)).Q
    return TeacherSubspace(torch.zeros(1, 8).double(), directions, torch.ones(8).double(), 1.0)


@pytest.mark.parametrize("writers", [False, True])
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_a_student_that_equals_the_teacher_stays_equal(kind: str, writers: bool) -> None:
    student, subspace = models(kind, 8), full_subspace(kind)
    before = initialize_from_teacher(student, models(kind, 8), subspace)
    (batch,) = batches(1)
    with torch.no_grad():
        expected = batch.call(models(kind, 8)).last_hidden_state
        found = batch.call(fitted(kind, student, subspace, writers=writers)).last_hidden_state
    back = found.double() @ before.matcher.weight.T + before.matcher.bias
    torch.testing.assert_close(back.float(), expected, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("writers", [False, True])
def test_a_narrow_student_comes_nearer_to_the_teacher(writers: bool) -> None:
    subspace = TeacherSubspace(
        torch.zeros(1, 8).double(), torch.linalg.qr(random(8, 8)).Q[:, :4], torch.ones(4).double(), 0.5
    )
    (batch,) = batches(1)

    def distance(student: torch.nn.Module) -> float:
        with torch.no_grad():
            expected = subspace.project(batch.call(models("bert", 8)).last_hidden_state)
            return float((batch.call(student).last_hidden_state - expected).square().mean())

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


class Block(nn.Module):
    """Adds its result to its input, with a norm before or after the sum; in place if requested."""

    def __init__(self, width: int, *, norm: nn.Module, after: bool, bias: bool, in_place: bool) -> None:
        super().__init__()
        self.norm, self.after, self.in_place = norm, after, in_place
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        written = self.down(torch.relu(self.up(x if self.after else self.norm(x))))
        total = x.add_(written) if self.in_place else x + written
        return self.norm(total) if self.after else total


class Plain(nn.Module):
    """Vectors (N, L, 8) through blocks, each of them so many times."""

    def __init__(
        self,
        width: int,
        *,
        norm: type[nn.Module] = nn.LayerNorm,
        after: bool = False,
        bias: bool = True,
        in_place: bool = False,
        times: int = 1,
    ) -> None:
        super().__init__()
        self.rows, self.times, self.norm = nn.Linear(8, width), times, nn.LayerNorm(width)
        self.blocks = nn.ModuleList(
            Block(width, norm=norm(width), after=after, bias=bias, in_place=in_place) for _ in range(3)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.rows(x)
        for block in self.blocks:
            for _ in range(self.times):
                x = block(x)
        return x if self.blocks[0].after else self.norm(x)


def plain(width: int, seed: int, **options: Any) -> Plain:
    torch.manual_seed(seed)
    model = Plain(width, **options)
    for parameter in model.blocks.parameters():
        torch.nn.init.normal_(parameter, mean=1.0 if parameter.dim() == 1 else 0.0, std=0.3)
    return model.eval()


def vectors() -> list[Batch]:
    return [Batch((random(16, 6, 8, seed=seed).float(),)) for seed in range(3)]


def written_and_fitted(*, writers: bool = True, **options: Any) -> tuple[Plain, Plain, TeacherStart, Plain]:
    """A narrow student as it was written, the same fitted, and their teacher."""
    after = options.get("after", False)
    family = Family(
        blocks="blocks",
        parts=(FeedForward(("up",), "down", "norm"),),
        embeddings=("rows",),
        norm_position="after" if after else "before",
        centred=options.get("norm") is not nn.RMSNorm,
        final_norm=None if after else "norm",
    )
    teacher, written, student = plain(16, 1, **options), plain(8, 2, **options), plain(8, 2, **options)
    run = StudentRun(teacher)
    taps = [Tap("blocks.0", INPUT), *(Tap(f"blocks.{index}") for index in range(3))]
    streams = [(list(run.features(batch, taps).values()), None) for batch in vectors()]
    subspace = decompose(streams, centring="none", keeps_constant=not after).subspace(8)
    initialize_from_teacher(written, teacher, subspace, family=family)
    start = initialize_from_teacher(student, teacher, subspace, family=family)
    LeastSquares(start, family, student, run.features, vectors(), Both("", "")).run(writers=writers)
    return written, student, start, teacher


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_student_that_works_in_place_changes_no_stored_feature() -> None:
    _, fitted_in_place, *_ = written_and_fitted(in_place=True)
    _, fitted_otherwise, *_ = written_and_fitted()
    assert same_weights(fitted_in_place, fitted_otherwise)


def test_blocks_that_run_several_times_are_left_as_written() -> None:
    written, student, *_ = written_and_fitted(times=2)
    assert same_weights(written, student)


@torch.no_grad()
@pytest.mark.parametrize("after", [False, True])
def test_modules_without_bias_are_fitted_without_one(after: bool) -> None:
    options: dict[str, Any] = {"after": True, "norm": nn.RMSNorm} if after else {"bias": False}
    written, student, start, teacher = written_and_fitted(writers=not after, **options)
    distances = []
    for model in (written, student):
        found = torch.cat([batch.call(model) for batch in vectors()]).double() @ start.matcher.weight.T
        expected = torch.cat([batch.call(teacher) for batch in vectors()])
        distances.append(float((found + start.matcher.bias - expected).square().mean()))
    assert distances[1] < 0.7 * distances[0]
