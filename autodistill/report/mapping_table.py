"""The layer mapping of one student as a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.distillation.automatic_mapping import anatomy_of_teacher
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.resolve_plan import Phases, resolve
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.models.devices import device_of


@dataclass(frozen=True)
class MappingRow:
    """One pair of layers of one stage.

    Attributes:
        stage: the name of the stage: the blocks that are trained, or regular distillation.
        student: the student's layer, or "the student's own loss".
        teacher: the teacher's layer; empty for the student's own loss.
        loss: the loss type.
        weight: of this term in the loss of the stage.
        steps: number of optimizer updates of the stage.
    """

    stage: str
    student: str
    teacher: str
    loss: str
    weight: float
    steps: int


def explain_mapping(
    config: AutoDistillationConfig | Mapping[str, Any] | str | Path, student: nn.Module, teacher: nn.Module, batch: Any
) -> list[MappingRow]:
    """The rows of the mapping table: the layers that each stage compares, with loss type and weight.

    Args:
        config: as `AutoDistillationConfig.load` accepts it.
        student: of any architecture of the search; the table is for its depth.
        teacher: the teacher.
        batch: any batch of the training data.

    Raises:
        ConfigurationError: the settings do not fit the two models; all mistakes in one error.

    Examples:
        >>> import torch
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> sizes = dict(n_embd=4, n_head=1, vocab_size=9, bos_token_id=0, eos_token_id=0)
        >>> student, teacher = (GPT2LMHeadModel(GPT2Config(n_layer=depth, **sizes)) for depth in (1, 2))
        >>> search = {"search_space": {"n_layer": [1, 2]}, "metrics": ["parameters"]}
        >>> config = {"search": search, "flash_distillation": {"automatic_mapping": "all"}}
        >>> tokens = torch.ones(1, 3, dtype=torch.long)
        >>> rows = explain_mapping(config, student, teacher, {"input_ids": tokens, "labels": tokens})
        >>> for row in rows:
        ...     print(row.student, "->", row.teacher, row.loss)
        'transformer.h.0'[input] -> 'transformer.h.0'[input] NMSE
        'transformer.h.0'[auto] -> 'transformer.h.1'[auto] NMSE
    """
    device = device_of(student)
    content = batch.content if isinstance(batch, Batch) else batch
    flash_set = FlashSet([Batch(content).to(device)], TeacherCache(teacher.to(device)))
    phases = Phases.of(AutoDistillationConfig.load(config))
    anatomy = None if phases.flash is None else anatomy_of_teacher(phases.flash, flash_set.cache, flash_set.batch(0))
    # A start inside the teacher looks at more than one batch: the layers are compared without it.
    plan = resolve(phases, student, flash_set, anatomy=anatomy)
    rows = []
    for stage in plan.stages:
        rows += [
            MappingRow(stage.name, str(mapping.student), str(mapping.teacher), loss, weight, stage.steps)
            for mapping, loss, weight in zip(stage.mappings, stage.loss_types, stage.loss_weights, strict=True)
        ]
        if stage.add_origin_loss:
            rows.append(MappingRow(stage.name, "the student's own loss", "", "loss", 1.0, stage.steps))
    return rows
