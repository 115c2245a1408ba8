"""Regular distillation agrees with a plainly written loop."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from small_models import Counted, Transformer
from torch import nn
from toy_search import make_loader
from transformers import get_scheduler

from autodistill.config import AutoDistillationConfig
from autodistill.config.temperature import AnnealedTemperature
from autodistill.data_stream import DataStream
from autodistill.distiller import Distiller
from autodistill.errors import NonFiniteError
from autodistill.seeds import derive_seed
from autodistill.training import TrainingContext

SEED = 42  # the search's, by default


def make_distiller(teacher, **regular):
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"], "seed": SEED},
            "regular_distillation": {"train_steps": 14, "learning_rate": 0.05, "optimizer": "SGD"} | regular,
        }
    )
    return Distiller(teacher, config, make_loader(), torch.device("cpu"))


def naive_regular(student, teacher, batches, steps, seed, temperature_at, own_loss_weight):
    """KL between the logits with the temperature of each step, and the student's own loss; SGD, linear schedule."""
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    schedule = get_scheduler("linear", optimizer, num_warmup_steps=round(0.1 * steps), num_training_steps=steps)
    student.train()
    for step in range(steps):
        inputs, targets = next(batches).content
        torch.manual_seed(derive_seed(derive_seed(seed, "regular"), step))
        temperature = temperature_at(step / steps)
        with torch.no_grad():
            expected = teacher.eval()(inputs)
        logits = student(inputs)
        soft = nn.functional.log_softmax(logits / temperature, dim=-1)
        kl = nn.functional.kl_div(
            soft, nn.functional.log_softmax(expected / temperature, dim=-1), reduction="batchmean", log_target=True
        )
        loss = temperature**2 * kl + own_loss_weight * nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return student.eval()


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


@pytest.mark.parametrize(
    ("temperature", "at"),
    [
        (2.0, lambda progress: 2.0),
        (AnnealedTemperature(start=5, end=1), lambda progress: 1 + 4 * (1 - progress)),
        (AnnealedTemperature(start=4, end=2, shape="cosine"), lambda p: 2 + (1 + math.cos(math.pi * p))),
    ],
    ids=["constant", "linear", "cosine"],
)
@pytest.mark.parametrize("own_loss", [True, False])
def test_the_weights_agree_with_a_plain_loop_over_three_epochs(temperature, at, own_loss):
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    twin = copy.deepcopy(student)
    make_distiller(teacher, temperature=temperature, add_origin_loss=own_loss).train(student, TrainingContext(seed=7))
    with torch.random.fork_rng():
        naive_regular(twin, teacher, iter(DataStream(make_loader(), SEED)), 14, 7, at, float(own_loss))
    for (name, a), (_, b) in zip(student.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


@pytest.mark.parametrize("weights", [None, [1.0, 1.0]])
def test_a_pair_of_losses_is_that_of_the_labels_and_that_of_the_teacher(weights):
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    twin = copy.deepcopy(student)
    pair = {"loss_types": ["CE", "KL"]} | ({} if weights is None else {"loss_weights": weights})
    (record,) = make_distiller(teacher, temperature=2.0, **pair).train(student, TrainingContext(seed=7)).stages
    assert record.stage == "regular distillation"
    with torch.random.fork_rng():
        naive_regular(twin, teacher, iter(DataStream(make_loader(), SEED)), 14, 7, lambda progress: 2.0, 1.0)
    for (name, a), (_, b) in zip(student.state_dict().items(), twin.state_dict().items(), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_soft_cross_entropy_trains_as_the_divergence_does():
    teacher = seeded(lambda: Transformer(16, 4))
    students = {kind: seeded(lambda: Transformer(12, 2), 1) for kind in ("CE", "KL")}
    for kind, student in students.items():
        make_distiller(teacher, temperature=2.0, loss_types=["CE", kind], loss_weights=[0.5, 0.5]).train(
            student, TrainingContext(seed=7)
        )
    for (name, a), (_, b) in zip(*(student.state_dict().items() for student in students.values()), strict=True):
        assert torch.allclose(a, b, rtol=1e-4, atol=1e-5), name


def test_a_teacher_of_no_weight_never_runs():
    teacher = Counted(seeded(lambda: Transformer(16, 4)))
    student = seeded(lambda: Transformer(12, 2), 1)
    (record,) = (
        make_distiller(teacher, loss_types=["CE", "CE"], loss_weights=[1.0, 0.0])
        .train(student, TrainingContext(seed=0))
        .stages
    )
    assert teacher.forwards == 0
    assert record.last_loss < record.first_loss


def test_every_parameter_trains_and_the_teacher_does_not():
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    before, teacher_before = copy.deepcopy(student.state_dict()), copy.deepcopy(teacher.state_dict())
    make_distiller(teacher).train(student, TrainingContext(seed=0))
    assert not any(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(torch.equal(value, teacher_before[name]) for name, value in teacher.state_dict().items())


def test_batches_that_recur_in_a_later_trial_cost_no_teacher_forward():
    teacher = Counted(seeded(lambda: Transformer(16, 4)))
    distiller = make_distiller(teacher)
    distiller.train(seeded(lambda: Transformer(12, 2)), TrainingContext(seed=0))
    after_one = teacher.forwards
    distiller.train(seeded(lambda: Transformer(8, 1)), TrainingContext(seed=1))
    assert teacher.forwards == after_one == 14


def test_the_student_is_in_eval_mode_and_its_frozen_parameters_are_unchanged():
    teacher, student = seeded(lambda: Transformer(16, 4)), seeded(lambda: Transformer(12, 2), 1)
    student.embedding.requires_grad_(False)
    before = student.embedding.weight.clone()
    make_distiller(teacher).train(student, TrainingContext(seed=0))
    assert not student.training
    assert torch.equal(student.embedding.weight, before)
    assert [p.requires_grad for p in student.embedding.parameters()] == [False, False]
    assert all(p.requires_grad for p in student.head.parameters())


def test_nan_of_the_teacher_is_named_in_the_error():
    teacher = seeded(lambda: Transformer(12, 2))
    teacher.head.bias.data[0] = float("nan")
    with pytest.raises(NonFiniteError, match="; the teacher's features already hold NaN for batch 0: find its cause"):
        make_distiller(teacher).train(seeded(lambda: Transformer(12, 1), 1), TrainingContext(seed=0))
