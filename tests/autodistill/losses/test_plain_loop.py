"""The criterion on layers in the user's own training loop: hooks, matchers, masks, the origin loss."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from small_models import Around
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, XLNetConfig, XLNetLMHeadModel

from autodistill.errors import ConfigurationError
from autodistill.losses import functions as losses
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
from autodistill.losses.loss_types import LOSS_TYPES
from autodistill.models.taps import Tap


def network(width: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.Tanh(), nn.Dropout(0.5), nn.Linear(width, 3))


def hooks_of(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


INPUTS, LABELS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


def criterion_for(student, teacher, mappings=(("1", "1"), ("3", "3")), kinds=("MSE", "KL"), **arguments):
    return IntermediateLayersKnowledgeDistillationLoss(
        mappings, kinds, student_model=student, teacher_model=teacher, example=INPUTS, **arguments
    )


def test_loss_in_a_plain_loop_is_the_sum_over_mappings_and_the_origin_loss() -> None:
    student, teacher = network(6, 1).eval(), network(9, 2).eval()
    criterion = criterion_for(student, teacher, loss_weights=[0.5, 2.0], add_origin_loss=True, temperature=3.0)
    with criterion:
        criterion.teacher_model_forward(INPUTS)
        outputs = student(INPUTS)
        loss = criterion(outputs, LABELS)
    hidden, target = student[:2](INPUTS), teacher[:2](INPUTS)
    weight, bias = criterion.parameters()
    p = (teacher(INPUTS) / 3).softmax(-1)
    soft = 9 * (p * (p.log() - (outputs / 3).log_softmax(-1))).sum(-1).mean()
    expected = 0.5 * (hidden @ weight.T + bias - target).square().mean() + 2 * soft + F.cross_entropy(outputs, LABELS)
    torch.testing.assert_close(loss, expected)


def test_the_context_manager_removes_its_hooks_even_after_an_error() -> None:
    student, teacher = network(6, 1), network(9, 2)
    criterion = criterion_for(student, teacher)
    with criterion:
        assert hooks_of(student) > 0
    assert hooks_of(student) == hooks_of(teacher) == 0
    with pytest.raises(RuntimeError, match="of the user"), criterion:
        raise RuntimeError("of the user")
    assert hooks_of(student) == 0


def test_features_are_attributes_and_the_models_keep_their_modes() -> None:
    student, teacher = network(6, 1), network(9, 2)
    criterion = criterion_for(student, teacher)
    assert student.training
    assert teacher.training
    with criterion:
        features = criterion.teacher_model_forward(INPUTS)
        assert criterion.teacher_features is features
        criterion(student(INPUTS), LABELS).backward()
    assert set(criterion.student_features) == {Tap("1"), Tap("3")}
    assert criterion.teacher_features is features
    torch.testing.assert_close(features[Tap("3")], teacher.eval()(INPUTS).detach())
    assert teacher[0].weight.grad is None
    assert student[0].weight.grad is not None
    assert criterion.layer_output_process == [("", ""), ("", "")]


def test_one_student_layer_may_learn_from_several_teacher_layers() -> None:
    student, teacher = network(6, 1).eval(), network(9, 2).eval()
    criterion = criterion_for(student, teacher, mappings=[("1", "0"), ("1", "1")], kinds=["MSE", "MSE"])
    assert [tuple(parameter.shape) for parameter in criterion.parameters()] == [(9, 6), (9,)] * 2
    with criterion:
        targets = criterion.teacher_model_forward(INPUTS)
        loss = criterion(student(INPUTS))
    hidden = student[:2](INPUTS)
    first, second = criterion.feature_matchers
    expected = losses.mse_loss(first(hidden), targets[Tap("0")]) + losses.mse_loss(second(hidden), targets[Tap("1")])
    torch.testing.assert_close(loss, expected)


def test_matchers_learn_a_teacher_that_is_a_linear_image_of_the_student() -> None:
    torch.manual_seed(0)
    student = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
    teacher = nn.Sequential(student[0], student[1], nn.Linear(6, 10)).requires_grad_(False)
    criterion = criterion_for(student, teacher, mappings=[("1", "2")], kinds=["MSE"])
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.05)
    with criterion:
        for _ in range(400):
            criterion.teacher_model_forward(INPUTS)
            loss = criterion(student(INPUTS))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss.item() < 1e-4


def test_padding_and_ignored_labels_of_the_inputs_are_left_out() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(9, 5)

        def forward(self, input_ids, attention_mask=None, labels=None):
            return self.table(input_ids)

    student, teacher = Tokens(), Tokens()
    batch = {
        "input_ids": torch.arange(8).reshape(2, 4),
        "attention_mask": torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]),
        "labels": torch.tensor([[1, -100, 2, 3], [-100, 1, 2, 3]]),
    }
    criterion = IntermediateLayersKnowledgeDistillationLoss(
        [("table", "table")], ["KL"], student_model=student, teacher_model=teacher, example=batch
    )
    with criterion:
        criterion.teacher_model_forward(batch)
        loss = criterion(student(**batch))
    kept = batch["attention_mask"].bool() & (batch["labels"] != -100)
    s, t = student.table(batch["input_ids"])[kept], teacher.table(batch["input_ids"])[kept]
    torch.testing.assert_close(loss, F.kl_div(s.log_softmax(-1), t.softmax(-1), reduction="batchmean"))


@pytest.mark.parametrize("kind", ["KL", "cosine", "MSE"])
def test_image_features_with_channels_last_are_declared_by_their_output_process(kind: str) -> None:
    class ChannelsLast(nn.Module):
        def forward(self, images):
            return images.movedim(1, -1)

    images = torch.randn(2, 4, 4, 4)  # as many channels as pixels in a row: the shapes do not show the axis
    student, teacher = nn.Sequential(nn.Conv2d(4, 4, 1)), nn.Sequential(nn.Conv2d(4, 4, 1), ChannelsLast())
    criterion = IntermediateLayersKnowledgeDistillationLoss(
        [("0", "", "1", "channels_last")], [kind], student_model=student, teacher_model=teacher, example=images
    )
    with criterion:
        criterion.teacher_model_forward(images)
        loss = criterion(student(images))
    rows = [feature.movedim(1, -1).reshape(-1, 4) for feature in (student(images), teacher[0](images))]
    torch.testing.assert_close(loss, LOSS_TYPES[kind].on_features(*rows))


def test_gradient_of_features_in_double_precision_agrees_with_finite_differences() -> None:
    student, teacher = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    criterion = IntermediateLayersKnowledgeDistillationLoss([("s", "t")], ["MSE"])
    criterion.init_feature_matcher({Tap("s"): student}, {Tap("t"): teacher})
    assert torch.autograd.gradcheck(
        lambda s: criterion.loss_cal({Tap("s"): s}, {Tap("t"): teacher}), student.requires_grad_()
    )


def test_without_any_weight_the_teacher_does_not_run() -> None:
    class Counted(nn.Linear):
        calls = 0

        def forward(self, inputs):
            type(self).calls += 1
            return super().forward(inputs)

    student, teacher = network(6, 1), nn.Sequential(Counted(4, 3))
    criterion = criterion_for(
        student, teacher, mappings=[("3", "0")], kinds=["KL"], loss_weights=[0.0], add_origin_loss=True
    )
    calls = Counted.calls
    with criterion:
        assert criterion.teacher_model_forward(INPUTS) == {}
        outputs = student(INPUTS)
        torch.testing.assert_close(criterion(outputs, LABELS), F.cross_entropy(outputs, LABELS))
    assert Counted.calls == calls


def test_wrong_weights_and_temperature_are_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        IntermediateLayersKnowledgeDistillationLoss([("a", "b")] * 2, ["MSE"] * 2, [-1.0, math.nan], temperature=0)
    assert caught.value.problems == [
        "a loss weight must be finite and not negative, but got -1.0.",
        "a loss weight must be finite and not negative, but got nan.",
        "a temperature must be positive and finite, but got 0.",
    ]


def test_a_missing_step_of_the_loop_is_refused_with_the_remedy() -> None:
    student, teacher = network(6, 1), network(9, 2)
    criterion = criterion_for(student, teacher)
    with pytest.raises(ConfigurationError, match="within `with criterion:` only; enter it first"):
        criterion(student(INPUTS))
    with criterion:
        outputs = student(INPUTS)
        with pytest.raises(ConfigurationError, match=r"call teacher_model_forward\(inputs\) first"):
            criterion(outputs)
        criterion.teacher_model_forward(INPUTS)
        criterion(outputs)
        with pytest.raises(ConfigurationError, match=r"call teacher_model_forward\(inputs\) first"):
            criterion(student(INPUTS))  # the teacher has run on the batch before
        criterion.teacher_model_forward(INPUTS)
        criterion(student(INPUTS))
        criterion.teacher_model_forward(INPUTS)
        with pytest.raises(ConfigurationError, match="must run in the forward pass, but the student never calls '1', "):
            criterion(outputs)  # of the step before
    unprepared = IntermediateLayersKnowledgeDistillationLoss([("1", "1")], ["MSE"])
    with pytest.raises(ConfigurationError, match="feature matchers must exist before the loss"):
        unprepared.loss_cal({Tap("1"): INPUTS}, {Tap("1"): INPUTS})
    with pytest.raises(ConfigurationError, match="recording the student's layers needs the student"):
        unprepared.__enter__()


@pytest.mark.parametrize("shifts", [True, False], ids=["GPT-2", "XLNet"])
@pytest.mark.parametrize("on_predictions", [True, False], ids=["predictions", "layers"])
def test_labels_exclude_the_positions_that_predict_them(shifts: bool, on_predictions: bool) -> None:
    tokens = torch.randint(3, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    labels = tokens.masked_fill(torch.arange(6) % 3 == 1, -100)
    if shifts:
        models = [Around(GPT2LMHeadModel(GPT2Config(vocab_size=20, n_embd=8, n_layer=n, n_head=1))) for n in (1, 2)]
    else:
        models = [
            Around(XLNetLMHeadModel(XLNetConfig(vocab_size=20, d_model=8, n_layer=n, n_head=1, d_inner=8)))
            for n in (1, 2)
        ]
    student, teacher = (model.eval() for model in models)
    inputs = {"input_ids": tokens}
    logits, target = student(**inputs).logits, teacher(**inputs).logits
    expected = F.pad(labels[:, 1:], (0, 1), value=-100) if shifts else labels
    counted = expected != -100
    soft = (target.softmax(-1) * (target.log_softmax(-1) - logits.log_softmax(-1))).sum(-1)[counted].mean()
    hard = F.cross_entropy(logits[counted], expected[counted])
    if on_predictions:
        criterion = KnowledgeDistillationLoss(1.0, ["CE", "KL"], [0.5, 0.5], student, teacher)
        criterion.teacher_model_forward(inputs)
        torch.testing.assert_close(criterion(student(**inputs), labels), 0.5 * hard + 0.5 * soft)
        return
    mapping = ("", "logits", "", "logits")
    criterion = IntermediateLayersKnowledgeDistillationLoss(
        [mapping], ["KL"], student_model=student, teacher_model=teacher, example=inputs
    )
    with criterion:
        criterion.teacher_model_forward(inputs)
        torch.testing.assert_close(criterion(student(**inputs), labels), soft)
