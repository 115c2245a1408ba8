"""The evaluation of a distilled student: measured numbers that equal their definitions."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.metrics.latency import Timing
from autodistill.standalone.evaluation import evaluate_distillation


class Constant(nn.Module):
    """Logits that are its inputs; weights that only use memory."""

    def __init__(self, weights: int) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.zeros(weights))
        self.dropout = nn.Dropout(0.9)

    def forward(self, inputs):
        return self.dropout(inputs)


LOADER = [(torch.eye(4), torch.tensor([0, 1, 0, 3])), (torch.eye(4)[:1], torch.tensor([1]))]


def test_accuracy_and_size_are_counted() -> None:
    result = evaluate_distillation(Constant(25), Constant(100), LOADER, "cpu")
    assert result["accuracy"] == 3 / 5
    assert result["model_size_reduction"] == 0.75
    assert list(result) == ["accuracy", "model_size_reduction", "inference_speedup"]


def test_speedup_is_the_teachers_latency_over_the_students(monkeypatch) -> None:
    times = {"student": Timing(1.0, 2.0, 3.0, 5), "teacher": Timing(5.0, 7.0, 8.0, 5)}  # ms per sample
    monkeypatch.setattr(sys.modules["autodistill.metrics.measure"], "time_models", lambda models, batch: times)
    assert evaluate_distillation(Constant(1), Constant(1), LOADER)["inference_speedup"] == 3.5


def test_models_keep_their_training_modes() -> None:
    student, teacher = Constant(1).train(), Constant(2).eval()
    evaluate_distillation(student, teacher, LOADER)
    assert (student.training, student.dropout.training, teacher.training) == (True, True, False)


def test_ignored_labels_do_not_count_and_batches_may_be_mappings() -> None:
    logits = torch.eye(3).reshape(1, 3, 3)
    loader = [{"inputs": logits, "labels": torch.tensor([[0, -100, 1]])}]
    assert evaluate_distillation(Constant(1), Constant(1), loader)["accuracy"] == 0.5


def test_test_set_without_labels_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="accuracy needs at least one labelled sample"):
        evaluate_distillation(Constant(1), Constant(1), [])
    with pytest.raises(
        ConfigurationError, match=r"one for each of the predictions \(4, 4\), classes last, but .* None"
    ):
        evaluate_distillation(Constant(1), Constant(1), [(torch.eye(4), None)])


def test_outputs_of_one_class_are_refused() -> None:
    test = [(torch.zeros(2, 4), torch.zeros(2, dtype=torch.long))]
    with pytest.raises(ConfigurationError, match=r"at least 2 classes, but the student's outputs are \(2, 1\)"):
        evaluate_distillation(nn.Linear(4, 1), nn.Linear(4, 1), test)
