"""Evaluation of a distilled student: its accuracy, and its savings compared with the teacher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch, next_labels
from autodistill.errors import ConfigurationError
from autodistill.metrics.measure import measure, size_in_bytes
from autodistill.models.calls import call_by_names
from autodistill.models.label_shift import find_label_shift
from autodistill.models.masks import counted_labels
from autodistill.models.modes import inference
from autodistill.models.taps import main_part


def evaluate_distillation(
    student_model: nn.Module,
    teacher_model: nn.Module,
    test_loader: Iterable[Any],
    device: torch.device | str = "cpu",
) -> dict[str, float]:
    """Measure a distilled student on a test set.

    Args:
        student_model: moved to `device`, like the teacher; both keep their training modes.
        teacher_model: the teacher of the student.
        test_loader: batches with labels: mappings or pairs.
        device: on which to measure.

    Returns:
        `accuracy`: the share of labels that the student predicts (top 1); labels of -100 are left out.
        `model_size_reduction`: the share of the teacher's bytes that the student saves, `1 - student / teacher`.
        `inference_speedup`: the teacher's latency divided by the student's, timed in turns on the first batch.

    Raises:
        ConfigurationError: there is no batch, or a batch without class labels.

    Examples:
        >>> test = [(torch.eye(2), torch.tensor([0, 1]))]
        >>> student, teacher = nn.Identity(), nn.Linear(2, 2)
        >>> result = evaluate_distillation(student, teacher, test, "cpu")
        >>> result["accuracy"], result["model_size_reduction"], result["inference_speedup"] > 0
        (1.0, 1.0, True)
    """
    device = torch.device(device)
    student, teacher = student_model.to(device), teacher_model.to(device)
    first: Batch | None = None
    correct, counted, shift = 0, 0, False
    with inference(student):
        for content in test_loader:
            batch = Batch(content).to(device)
            if first is None:
                first, shift = batch, find_label_shift(student, batch) is True
            hits, counts = _hits(student, batch, shift)
            correct, counted = correct + hits, counted + counts
    if first is None or not counted:
        raise ConfigurationError("accuracy needs at least one labelled sample, but the test loader gives none.")
    return {
        "accuracy": correct / counted,
        "model_size_reduction": 1 - size_in_bytes(student) / size_in_bytes(teacher),
        "inference_speedup": measure(student, ["speedup"], example=first, teacher=teacher).metrics["speedup"],
    }


def _hits(student: nn.Module, batch: Batch, shift: bool) -> tuple[int, int]:
    """The number of labels that the student predicts, and the number of all labels that count."""
    logits, labels = main_part(call_by_names(student, batch)), batch.targets
    if shift:
        labels = next_labels(labels)
    if logits.shape[-1] < 2:
        raise ConfigurationError(
            f"accuracy needs logits of at least 2 classes, but the student's outputs are {tuple(logits.shape)}."
        )
    mask = counted_labels(labels, logits)
    if mask is None:
        raise ConfigurationError(
            f"accuracy needs class labels, one for each of the predictions {tuple(logits.shape)}, classes last, but a "
            f"batch's are {tuple(labels.shape) if isinstance(labels, torch.Tensor) else labels}."
        )
    return int((logits.argmax(-1) == labels)[mask].sum()), int(mask.sum())
