"""The step loop against a plainly written one, to the bit."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import get_scheduler

from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.distillation.step_loop import CHECK_EVERY, StepLoop
from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.seeds import derive_seed
from autodistill.training import NoReport

CPU = torch.device("cpu")
GENERATOR = torch.Generator().manual_seed(0)
INPUTS = torch.randn(60, 8, 5, generator=GENERATOR)
TARGETS = torch.randn(60, 8, 3, generator=GENERATOR)


def student(dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 3))


def loop(steps: int = 7, seed: int = 3, report: Callable[[int, float], None] | None = None, **settings) -> StepLoop:
    config = RegularDistillationConfig(**settings)
    return StepLoop("stage 1", config, steps, seed, CPU, report or NoReport().step)


def loss_of(model: nn.Module, matcher: nn.Module | None = None) -> Callable[[int, int], torch.Tensor]:
    def loss_at(step: int, number: int) -> torch.Tensor:
        output = model(INPUTS[number])
        return nn.functional.mse_loss(output if matcher is None else matcher(output), TARGETS[number])

    return loss_at


def trained(model: nn.Module, stage: StepLoop, matcher: nn.Module | None = None) -> list[float]:
    matchers = [] if matcher is None else list(matcher.parameters())
    return stage.run(list(model.parameters()), matchers, loss_of(model, matcher))


def weights(*modules: nn.Module) -> list[torch.Tensor]:
    return [parameter.detach().clone() for module in modules for parameter in module.parameters()]


def same(left: list[torch.Tensor], right: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


OPTIMIZERS = {
    "AdamW": (
        {"optimizer": "AdamW", "weight_decay": 0.1},
        lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1, fused=True),
    ),
    "SGD": (
        {"optimizer": "SGD", "optimizer_arguments": {"momentum": 0.9, "nesterov": True}},
        lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9, nesterov=True),
    ),
    "RMSprop": ({"optimizer": "RMSprop"}, lambda p: torch.optim.RMSprop(p, lr=0.01)),
}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("scheduler", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize("clipping", [None, 0.05])
def test_weights_are_those_of_a_plain_loop_to_the_bit(optimizer: str, scheduler: str, clipping: float | None) -> None:
    settings, make = OPTIMIZERS[optimizer]
    steps = 25
    model, matcher = student(), nn.Linear(3, 3)
    twin, twin_matcher = copy.deepcopy((model, matcher))
    stage = loop(steps, learning_rate=0.01, scheduler=scheduler, warmup_ratio=0.2, max_grad_norm=clipping, **settings)
    losses = trained(model, stage, matcher)

    parameters = [*twin.parameters(), *twin_matcher.parameters()]
    plain = make(parameters)
    schedule = get_scheduler(scheduler, plain, num_warmup_steps=5, num_training_steps=steps)
    expected = []
    for step in range(steps):
        plain.zero_grad()
        loss = nn.functional.mse_loss(twin_matcher(twin(INPUTS[step])), TARGETS[step])
        loss.backward()
        if clipping is not None:
            torch.nn.utils.clip_grad_norm_(parameters, clipping)
        plain.step()
        schedule.step()
        expected.append(loss.item())
    assert losses == expected
    assert same(weights(model, matcher), weights(twin, twin_matcher))
    assert not same(weights(model), weights(student()))


def test_gradients_from_before_the_loop_are_ignored() -> None:
    clean, stained = student(), student()
    for parameter in stained.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert trained(clean, loop()) == trained(stained, loop())
    assert same(weights(clean), weights(stained))


def test_accumulated_gradients_are_those_of_the_big_batch() -> None:
    model, twin = student(), student()
    losses = trained(model, loop(5, gradient_accumulation_steps=4, optimizer="SGD", learning_rate=0.1))

    def big(step: int, number: int) -> torch.Tensor:
        rows = slice(4 * step, 4 * step + 4)
        return nn.functional.mse_loss(twin(INPUTS[rows]), TARGETS[rows])

    expected = loop(5, optimizer="SGD", learning_rate=0.1).run(list(twin.parameters()), [], big)
    assert losses == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(weights(model), weights(twin))


def test_each_update_takes_its_own_batches() -> None:
    model, asked = student(), []

    def loss_at(step: int, number: int) -> torch.Tensor:
        asked.append((step, number))
        return loss_of(model)(step, number)

    loop(3, gradient_accumulation_steps=2).run(list(model.parameters()), [], loss_at)
    assert asked == [(0, 0), (0, 1), (1, 2), (1, 3), (2, 4), (2, 5)]


# --- randomness ------------------------------------------------------------------------------------------------------


def test_dropout_depends_on_seed_and_batch_number_alone() -> None:
    def masks(stage: StepLoop, draws: int) -> list[torch.Tensor]:
        parameter, seen = nn.Parameter(torch.ones(50)), []

        def loss_at(step: int, number: int) -> torch.Tensor:
            dropped = nn.functional.dropout(parameter)
            seen.append((dropped != 0).clone())
            torch.rand(draws * (number + 1))  # whatever other numbers a batch draws
            return dropped.sum()

        stage.run([parameter], [], loss_at)
        return seen

    reference = masks(loop(6), 0)
    assert same(masks(loop(6), 7), reference)
    assert same(masks(loop(3, gradient_accumulation_steps=2), 1), reference)
    assert not same(masks(loop(6, seed=4), 0), reference)
    assert not torch.equal(reference[0], reference[1])
    torch.manual_seed(derive_seed(3, 5))
    assert torch.equal(nn.functional.dropout(torch.ones(50)) != 0, reference[5])


def test_global_random_state_is_neither_read_nor_disturbed() -> None:
    results = []
    for seed in (0, 99):
        model = student(dropout=0.5)
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        results.append(trained(model, loop()))
        assert torch.equal(torch.get_rng_state(), before)
    assert results[0] == results[1]


# --- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [0, 4, CHECK_EVERY - 1, CHECK_EVERY, CHECK_EVERY + 3])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_loss_that_is_not_finite_names_its_step_and_the_stage(bad: int, value: str) -> None:
    model = student()

    def loss_at(step: int, number: int) -> torch.Tensor:
        return loss_of(model)(step, number) + (float(value) if step == bad else 0)

    sentence = rf"became {value} at step {bad} of stage 1; lower learning_rate, or set max_grad_norm\."
    with pytest.raises(NonFiniteError, match=sentence):
        loop(CHECK_EVERY + 5).run(list(model.parameters()), [], loss_at)


@pytest.mark.parametrize(
    ("inputs", "features", "cause"),
    [
        ("nan", "nan", "the inputs already hold NaN for batch 2: find its cause there"),
        ("1", "nan", "the teacher's features already hold NaN for batch 2: find its cause there"),
        ("inf", "-inf", "lower learning_rate, or set max_grad_norm"),
    ],
)
def test_nan_in_the_inputs_of_the_loss_is_distinguished_from_divergence(inputs: str, features: str, cause: str) -> None:
    model = student()

    def loss_inputs_at(number: int) -> dict[str, torch.Tensor]:
        bad = number == 2
        return {
            "the inputs": torch.tensor([0.0, float(inputs) if bad else 0.0]),
            "the teacher's features": torch.tensor([0.0, float(features) if bad else 0.0]),
        }

    def loss_at(step: int, number: int) -> torch.Tensor:
        return loss_of(model)(step, number) + (float("nan") if number == 2 else 0)

    with pytest.raises(NonFiniteError, match=rf"became nan at step 2 of stage 1; {cause}\.$"):
        loop(4).run(list(model.parameters()), [], loss_at, loss_inputs_at=loss_inputs_at)


def test_loss_that_does_not_depend_on_the_block_is_refused() -> None:
    model, matcher = student(), nn.Linear(5, 3)

    def of_the_matcher_alone(step: int, number: int) -> torch.Tensor:
        return nn.functional.mse_loss(matcher(INPUTS[number]), TARGETS[number])

    before = weights(model, matcher)
    for loss_at in (of_the_matcher_alone, lambda step, number: torch.tensor(1.0)):
        with pytest.raises(ConfigurationError, match="the loss of stage 1 must depend on what the stage trains"):
            loop().run(list(model.parameters()), list(matcher.parameters()), loss_at)
    assert same(weights(model, matcher), before)


def test_parameter_that_the_loss_leaves_out_is_left_as_it_was() -> None:
    model, idle = student(), nn.Linear(2, 2)
    before = weights(idle)
    loop(weight_decay=0.5).run([*model.parameters(), *idle.parameters()], [], loss_of(model))
    assert same(weights(idle), before)


# --- the rest --------------------------------------------------------------------------------------------------------


def test_losses_are_reported_at_intervals_and_at_the_end() -> None:
    reported: list[tuple[int, float]] = []
    losses = trained(student(), loop(2 * CHECK_EVERY + 3, report=lambda step, loss: reported.append((step, loss))))
    assert len(losses) == 2 * CHECK_EVERY + 3
    assert reported == [(step, losses[step - 1]) for step in (CHECK_EVERY, 2 * CHECK_EVERY, 2 * CHECK_EVERY + 3)]


def test_training_makes_the_loss_smaller() -> None:
    model = student()

    def first_batch(step: int, number: int) -> torch.Tensor:
        return loss_of(model)(step, 0)

    losses = loop(100, learning_rate=0.02).run(list(model.parameters()), [], first_batch)
    assert losses[-1] < losses[0] / 4


def test_mixed_precision_computes_in_bfloat16_and_keeps_weights_in_single() -> None:
    model, dtypes = student(), set()
    model[0].register_forward_hook(lambda module, args, output: dtypes.add(output.dtype))
    trained(model, loop(2, mixed_precision="bf16"))
    assert dtypes == {torch.bfloat16}
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
