"""The guide's functions against its formulas."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.standalone.guide import (
    configure_training,
    get_temperature,
    online_distillation,
    softmax_with_temperature,
    train_with_distillation,
)


def models():
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    return student, nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def batches(count: int = 3):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(8, 4, generator=generator), torch.randint(0, 3, (8,), generator=generator)) for _ in range(count)
    ]


@pytest.mark.parametrize(("shape", "axis"), [((5, 3), 1), ((2, 4, 3), 2), ((2, 3, 4, 4), 1)], ids=str)
def test_softmax_is_taken_over_the_classes(shape, axis) -> None:
    logits = torch.randn(shape, dtype=torch.float64)
    exponentials = (logits / 3).exp()
    torch.testing.assert_close(softmax_with_temperature(logits, 3.0), exponentials / exponentials.sum(axis, True))
    with pytest.raises(ConfigurationError, match="a temperature must be positive"):
        softmax_with_temperature(logits, 0)


def test_temperature_falls_from_five_to_one() -> None:
    assert [get_temperature(epoch, 4) for epoch in range(5)] == [5, 4, 3, 2, 1]
    with pytest.raises(ConfigurationError, match="between 0 and max_epochs, but got 5 of 4"):
        get_temperature(5, 4)


@pytest.mark.parametrize("form", ["tensor", "tuple", "mapping"])
def test_online_distillation_returns_both_logits(form: str) -> None:
    student, teacher = nn.Linear(4, 3), nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 3))
    if form == "mapping":
        teacher = nn.Linear(4, 3)
    inputs = torch.randn(8, 4)
    data = {"tensor": inputs, "tuple": (inputs,), "mapping": {"input": inputs}}[form]
    student_logits, teacher_logits = online_distillation(student, teacher, data, 2.0)
    assert teacher.training
    torch.testing.assert_close(student_logits, student(inputs))
    torch.testing.assert_close(teacher_logits, copy.deepcopy(teacher).eval()(inputs).detach())
    assert (student_logits.requires_grad, teacher_logits.requires_grad) == (True, False)


@pytest.mark.parametrize("stored", [False, True], ids=["teacher runs", "stored predictions"])
def test_training_is_the_guides_loop(stored: bool) -> None:
    student, teacher = models()
    twin = copy.deepcopy(student)
    data = batches()
    predictions = [copy.deepcopy(teacher).eval()(inputs).detach() for inputs, _ in data]
    loader = [(*pair, logits) for pair, logits in zip(data, predictions, strict=True)] if stored else data
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    history = train_with_distillation(
        student, None if stored else teacher, loader, optimizer, 2.0, 0.3, device="cpu", num_epochs=2
    )
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    expected = []
    for _ in range(2):
        losses = []
        for (inputs, labels), logits in zip(data, predictions, strict=True):
            outputs = twin(inputs)
            soft = F.kl_div((outputs / 2).log_softmax(1), (logits / 2).softmax(1), reduction="batchmean")
            loss = 0.7 * F.cross_entropy(outputs, labels) + 0.3 * 4 * soft
            plain.zero_grad()
            loss.backward()
            plain.step()
            losses.append(loss.item())
        expected.append(sum(losses) / 3)
    assert history == pytest.approx(expected, rel=1e-5)
    for actual, reference in zip(student.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(actual, reference)


def test_batches_of_another_form_and_losses_that_are_not_finite_are_refused() -> None:
    student, teacher = models()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    with pytest.raises(ConfigurationError, match="but the loader yielded dict; for other forms use DistilRunner"):
        train_with_distillation(student, teacher, [{"input": torch.zeros(2, 4)}], optimizer, device="cpu")
    with pytest.raises(ConfigurationError, match="at least one batch in each epoch"):
        train_with_distillation(student, teacher, [], optimizer, device="cpu")
    with pytest.raises(ConfigurationError, match="at least one epoch, but num_epochs is 0"):
        train_with_distillation(student, teacher, batches(), optimizer, device="cpu", num_epochs=0)
    broken = [(torch.full((2, 4), float("nan")), torch.tensor([0, 1]))]
    with pytest.raises(NonFiniteError, match="became nan in epoch 0; lower the learning rate"):
        train_with_distillation(student, teacher, broken, optimizer, device="cpu")


def test_training_is_configured_as_adam_with_a_cosine_schedule() -> None:
    student, _ = models()
    optimizer, scheduler = configure_training(student, 0.2, num_epochs=4)
    assert type(optimizer) is torch.optim.Adam
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    cosines = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64).mul(torch.pi).cos()
    assert rates == pytest.approx((0.1 * (1 + cosines)).tolist(), abs=1e-12)
    with pytest.raises(ConfigurationError, match=r"learning_rate must be positive, but is 0\."):
        configure_training(student, 0)
