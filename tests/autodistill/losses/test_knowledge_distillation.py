"""The criterion on predictions: each term against its formula, and when the teacher runs."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from independent_losses import joined_divergence
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.criterion import TrainingStep
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
from autodistill.losses.logits import decoupled_kl_divergence
from autodistill.losses.top_k import top_k_logits
from autodistill.models.masks import Masks, Positions
from autodistill.models.taps import AUTO, Tap


class CountedTeacher(nn.Module):
    """Counts its calls, and notes in which state they were."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.calls: list[tuple[bool, bool]] = []

    def forward(self, inputs, scale=1.0):
        self.calls.append((self.training, torch.is_grad_enabled()))
        return scale * self.linear(inputs)


def predictions(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    student, teacher = (2 * torch.randn(2, *shape, dtype=torch.float64, generator=generator)).unbind()
    return student, teacher


def with_outputs(teacher: torch.Tensor, *args, **kwargs) -> KnowledgeDistillationLoss:
    criterion = KnowledgeDistillationLoss(*args, teacher_model=nn.Identity(), **kwargs)
    criterion.teacher_model_forward(teacher)
    return criterion


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5), (2, 3, 2, 5)], ids=str)
@pytest.mark.parametrize("kind", ["CE", "KL", "MSE"])
def test_loss_is_the_labels_term_and_the_teachers_with_their_weights(kind: str, shape) -> None:
    student, teacher = predictions(*shape)
    labels = torch.randint(0, 5, shape[:-1], generator=torch.Generator().manual_seed(0))
    p, log_q = torch.softmax(teacher / 3, -1), torch.log_softmax(student / 3, -1)
    term = {
        "CE": 9 * -(p * log_q).sum(-1).mean(),
        "KL": 9 * (p * (p.log() - log_q)).sum(-1).mean(),
        "MSE": (student - teacher).square().mean(),
    }[kind]
    own = -torch.log_softmax(student, -1).gather(-1, labels.unsqueeze(-1)).mean()
    criterion = with_outputs(teacher, 3.0, ["CE", kind], [0.25, 2.0])
    torch.testing.assert_close(criterion(student, labels), 0.25 * own + 2 * term)
    torch.testing.assert_close(criterion.loss_cal(student, labels), criterion(student, labels))
    torch.testing.assert_close(criterion.teacher_student_loss_cal(student, teacher), term)
    torch.testing.assert_close(criterion.student_targets_loss_cal(student, labels), own)
    torch.testing.assert_close(
        criterion.loss_cal_sloss(student, teacher, torch.tensor(7.0)), 0.25 * torch.tensor(7.0) + 2 * term
    )


def test_defaults_are_those_of_the_specification() -> None:
    criterion = KnowledgeDistillationLoss()
    assert (criterion.temperature, criterion.loss_types, criterion.loss_weights) == (1.0, ("CE", "CE"), (0.5, 0.5))
    assert (criterion.student_model, criterion.teacher_model) == (None, None)


def test_regression_compares_with_numbers() -> None:
    student, teacher = predictions(6, 2)
    targets = torch.ones(6, 2)
    criterion = with_outputs(teacher, 1.0, ["MSE", "MSE"], [0.5, 0.5])
    expected = 0.5 * (student - 1).square().mean() + 0.5 * (student - teacher).square().mean()
    torch.testing.assert_close(criterion(student, targets), expected)


@pytest.mark.parametrize("ignored", [-100, 0])
def test_ignored_labels_count_in_neither_term(ignored: int) -> None:
    student, teacher = predictions(2, 3, 5)
    labels = torch.tensor([[1, ignored, 2], [ignored, ignored, 4]])
    kept = labels != ignored
    whole = with_outputs(teacher, 2.0, ["CE", "KL"], ignore_index=ignored)(student, labels)
    part = with_outputs(teacher[kept], 2.0, ["CE", "KL"], ignore_index=ignored)(student[kept], labels[kept])
    torch.testing.assert_close(whole, part)


@pytest.mark.parametrize("kind", ["CE", "KL", "MSE"])
def test_gradient_agrees_with_finite_differences(kind: str) -> None:
    student, teacher = predictions(2, 3, 5)
    labels = torch.tensor([[1, -100, 2], [0, 3, 4]])
    criterion = with_outputs(teacher, 2.0, ["CE", kind])
    assert torch.autograd.gradcheck(lambda s: criterion(s, labels), student.requires_grad_())


@pytest.mark.parametrize("form", ["tensor", "mapping", "tuple"])
def test_teacher_runs_in_eval_mode_without_gradient_and_keeps_its_mode(form: str) -> None:
    teacher, inputs = CountedTeacher().train(), torch.randn(5, 4)
    criterion = KnowledgeDistillationLoss(teacher_model=teacher)
    given = {"tensor": inputs, "mapping": {"inputs": inputs, "scale": 1.0}, "tuple": (inputs, 1.0)}[form]
    outputs = criterion.teacher_model_forward(given)
    assert teacher.calls == [(False, False)]
    assert teacher.training
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, teacher.linear(inputs).detach())
    assert criterion.teacher_outputs is outputs


def test_teacher_of_no_weight_does_not_run() -> None:
    teacher, student = CountedTeacher(), torch.randn(5, 3)
    criterion = KnowledgeDistillationLoss(loss_weights=[1.0, 0.0], teacher_model=teacher)
    assert criterion.teacher_model_forward(torch.randn(5, 4)) is None
    assert teacher.calls == []
    labels = torch.tensor([0, 1, 2, 0, 1])
    torch.testing.assert_close(criterion(student, labels), F.cross_entropy(student, labels))


def test_labels_of_no_weight_are_not_needed() -> None:
    student, teacher = predictions(6, 5)
    criterion = with_outputs(teacher, 1.0, ["CE", "KL"], [0.0, 1.0])
    expected = F.kl_div(student.log_softmax(-1), teacher.softmax(-1), reduction="batchmean")
    torch.testing.assert_close(criterion(student), expected)


def test_another_teacher_may_run() -> None:
    criterion, other = KnowledgeDistillationLoss(teacher_model=CountedTeacher()), CountedTeacher()
    criterion.teacher_model_forward(torch.randn(2, 4), other)
    assert (len(criterion.teacher_model.calls), len(other.calls)) == (0, 1)


def test_causal_language_models_are_compared_with_the_next_label() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=11, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    student, teacher = GPT2LMHeadModel(config).eval(), GPT2LMHeadModel(config)
    batch = {"input_ids": torch.randint(0, 11, (2, 6)), "labels": torch.randint(0, 11, (2, 6))}
    batch["labels"][0, 3] = -100
    criterion = KnowledgeDistillationLoss(1.0, ["CE", "KL"], [0.5, 0.5], student, teacher)
    targets = criterion.teacher_model_forward(batch)
    outputs = student(**batch)
    kept = batch["labels"][:, 1:] != -100
    soft = F.kl_div(
        outputs.logits[:, :-1][kept].log_softmax(-1), targets.logits[:, :-1][kept].softmax(-1), reduction="batchmean"
    )
    torch.testing.assert_close(criterion(outputs, batch["labels"]), 0.5 * outputs.loss + 0.5 * soft)


def test_loss_of_built_in_training_is_the_same_at_its_own_temperature() -> None:
    student, teacher = (each.float() for each in predictions(2, 3, 5))
    batch = Batch({"labels": torch.tensor([[1, -100, 2], [0, 3, 4]])})
    criterion = with_outputs(teacher, 4.0, ["CE", "KL"])
    expected = criterion(student, batch.targets)
    engine = KnowledgeDistillationLoss(1.0, ["CE", "KL"])
    before = engine.temperature
    value = engine.step_loss({}, {"logits": teacher}, TrainingStep(batch, 4.0, output=student))
    assert engine.temperature == before
    torch.testing.assert_close(value, expected)


def test_all_mistakes_are_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        KnowledgeDistillationLoss(math.nan, ["KL", "cosine"], [-1.0, 0.5, 1.0])
    assert caught.value.problems == [
        "a temperature must be positive and finite, but got nan.",
        "loss_weights must have two entries, the labels' and the teacher's, but has 3.",
        "the loss between student and labels is one of CE, MSE, but got 'KL'.",
        "the loss between student and teacher is one of CE, DIST, DKD, KL, LSKD, MSE, but got 'cosine'.",
        "a loss weight must be finite and not negative, but got -1.0.",
    ]


def test_missing_teacher_or_targets_are_refused_with_the_remedy() -> None:
    criterion = KnowledgeDistillationLoss()
    with pytest.raises(ConfigurationError, match="needs a teacher to run, but there is none; pass teacher_model"):
        criterion.teacher_model_forward(torch.zeros(1))
    with pytest.raises(ConfigurationError, match=r"needs its outputs: call teacher_model_forward\(inputs\) first"):
        criterion(torch.zeros(1, 2), torch.tensor([0]))
    with pytest.raises(ConfigurationError, match="the labels' loss needs labels, but targets is None"):
        with_outputs(torch.zeros(1, 2))(torch.zeros(1, 2))
    with pytest.raises(ConfigurationError, match=r"in one shape, but got \(1, 2\) and \(1, 3\)"):
        with_outputs(torch.zeros(1, 3))(torch.zeros(1, 2), torch.tensor([0]))
    broken = with_outputs(torch.zeros(1, 2))
    broken.temperature = 0.0
    with pytest.raises(ConfigurationError, match=r"a temperature must be positive and finite, but got 0\.0"):
        broken(torch.zeros(1, 2), torch.tensor([0]))


def test_regression_of_one_number_a_sample_is_compared_sample_by_sample() -> None:
    student, targets = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0.0, 0.0, 1.0])
    criterion = KnowledgeDistillationLoss(1.0, ["MSE", "MSE"], [1.0, 0.0])
    assert criterion(student, targets).item() == pytest.approx((1 + 4 + 9) / 3)
    with pytest.raises(ConfigurationError, match=r"of the same shape, but got \(3, 2\) and \(3,\)"):
        criterion(torch.zeros(3, 2), targets)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_one_hot_targets_have_the_loss_of_their_class_numbers(dtype: torch.dtype) -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    inputs, labels = torch.randn(6, 4), torch.arange(6) % 3
    criterion = KnowledgeDistillationLoss(2.0, ["CE", "KL"], [0.4, 0.6], student, teacher)
    criterion.teacher_model_forward(inputs)
    p, q = (teacher(inputs) / 2).softmax(-1), (student(inputs) / 2).softmax(-1)
    hard = -student(inputs).log_softmax(-1)[torch.arange(6), labels].mean()
    expected = 0.4 * hard + 0.6 * 4 * (p * (p / q).log()).sum(-1).mean()
    torch.testing.assert_close(criterion(student(inputs), F.one_hot(labels, 3).to(dtype)), expected)


@pytest.mark.parametrize("ignored", [-100, 255])
def test_decoupled_divergence_reads_the_labels_that_count(ignored: int) -> None:
    student, teacher = nn.Linear(4, 3), nn.Linear(4, 3)
    inputs, labels = torch.randn(6, 4), torch.tensor([0, ignored, 2, 1, 0, ignored])
    criterion = KnowledgeDistillationLoss(2.0, ["CE", "DKD"], [0.4, 0.6], student, teacher, ignore_index=ignored)
    criterion.teacher_model_forward(inputs)
    kept = labels != ignored
    logits, targets = student(inputs)[kept], labels[kept]
    soft = decoupled_kl_divergence(logits, teacher(inputs)[kept], None, 2.0, targets)
    expected = 0.4 * F.cross_entropy(logits, targets) + 0.6 * soft
    torch.testing.assert_close(criterion(student(inputs), labels), expected)
    if ignored == -100:
        output = student(inputs)
        features = {Tap(""): teacher(inputs).detach()}
        torch.testing.assert_close(
            criterion.step_loss({}, features, TrainingStep(Batch((inputs, labels)), 2.0, output)), expected
        )


def test_decoupled_divergence_of_a_language_model_reads_the_next_labels() -> None:
    logits, teacher = torch.randn(2, 2, 4, 5).unbind()
    labels = torch.tensor([[0, 1, 2, 3], [4, -100, 1, 0]])
    criterion = KnowledgeDistillationLoss(1.0, ["CE", "DKD"], [0.0, 1.0])
    criterion.masks = Masks({Tap("", AUTO): Positions("inputs")}, label_shift=True)
    step = TrainingStep(Batch((torch.zeros(2, 4), labels)), 1.0, logits)
    following = torch.tensor([[1, 2, 3, -100], [-100, 1, 0, -100]])
    expected = decoupled_kl_divergence(logits, teacher, labels=following)
    torch.testing.assert_close(criterion.step_loss({}, {Tap(""): teacher}, step), expected)


def test_classes_of_pixels_are_on_the_second_axis_and_ignored_pixels_do_not_count() -> None:
    student, teacher = predictions(2, 5, 3, 4)
    labels = torch.randint(0, 5, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    labels[:, 0] = -100
    p, q = torch.softmax(teacher, 1), torch.softmax(student, 1)
    divergence = (p * (p.log() - q.log())).sum(1)[labels != -100].mean()
    criterion = with_outputs(teacher, 1.0, ["CE", "KL"], [0.25, 2.0])
    expected = 0.25 * F.cross_entropy(student, labels) + 2 * divergence
    torch.testing.assert_close(criterion(student, labels), expected)
    step = TrainingStep(Batch((student, labels)), 1.0, student)
    torch.testing.assert_close(criterion.step_loss({}, {Tap(""): teacher}, step), expected)


@pytest.mark.parametrize("shape", [(6, 5), (2, 3, 5)], ids=str)
def test_the_teachers_term_may_be_that_of_its_largest_logits(shape) -> None:
    student, teacher = predictions(*shape)
    labels = torch.randint(0, 5, shape[:-1], generator=torch.Generator().manual_seed(0))
    labels[0] = -100
    criterion = KnowledgeDistillationLoss(3.0, ["CE", "KL"], [0.25, 2.0])
    criterion.teacher_outputs = top_k_logits(teacher, 2, 3.0)
    expected = 0.25 * F.cross_entropy(student.flatten(0, -2), labels.flatten())
    expected = expected + 2 * joined_divergence(student, teacher, labels != -100, 3.0, 2)
    torch.testing.assert_close(criterion(student, labels), expected)
    own = criterion.student_targets_loss_cal(student, labels)
    whole = criterion.loss_cal_sloss(student, criterion.teacher_outputs, own, labels != -100)
    torch.testing.assert_close(whole, expected)
