"""Whether student and teacher predict the same things, where their predictions are compared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from autodistill.distillation.plan import Stage
from autodistill.losses.criterion import Features
from autodistill.losses.loss_types import LOSS_TYPES

CLASSES = {"vocab_size": "tokens", "num_labels": "labels"}
"""Settings of a transformers configuration that say how many classes a model chooses from."""


def prediction_problems(
    stage: Stage, student: nn.Module, teacher: nn.Module, features: Features, targets: Features
) -> Iterator[str]:
    """A sentence for each pair of logits of which student and teacher have different numbers.

    A matcher between them would learn which class is which, in place of the student.

    Args:
        stage: its mappings.
        student: whose configuration may tell the number of classes.
        teacher: the same.
        features: the student's, of one batch.
        targets: the teacher's.
    """
    for mapping, kind in zip(stage.mappings, stage.loss_types, strict=False):
        ours, theirs = features[mapping.student], targets[mapping.teacher]
        if ours.shape[-1:] == theirs.shape[-1:]:
            continue
        own, given = _classes(student, ours), _classes(teacher, theirs)
        if stage.on_predictions or (LOSS_TYPES[kind].compares_logits and own is not None and given is not None):
            yield (
                f"logits are compared class by class, but for {mapping} the student has {ours.shape[-1]} "
                f"{own or 'classes'} and the teacher {theirs.shape[-1]} {given or 'classes'}; give both the same "
                "vocabulary and labels, or map hidden states."
            )


def _classes(model: nn.Module, feature: torch.Tensor) -> str | None:
    """What the last axis of a feature counts, if it is classes of the model."""
    config: Any = getattr(model, "config", None)
    return next((word for name, word in CLASSES.items() if getattr(config, name, None) == feature.shape[-1]), None)
