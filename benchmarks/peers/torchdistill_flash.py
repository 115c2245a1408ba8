"""The same stages by torchdistill: a training stage per block, earlier blocks frozen, full forwards of both models."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import SequentialSampler
from torchdistill.core.distillation import MultiStagesDistillationBox
from torchdistill.losses.registry import register_func2extract_model_output, register_low_level_loss
from torchdistill.models.registry import register_auxiliary_model_wrapper
from torchdistill.models.wrapper import AuxiliaryModelWrapper
from torchdistill.optim.registry import register_scheduler
from transformers import get_scheduler

from autodistill.batch import Batch
from autodistill.distillation.plan import Stage
from autodistill.losses.functions import normalized_mse_loss
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss


@register_auxiliary_model_wrapper
class Matched(AuxiliaryModelWrapper):
    """A student whose block's output goes through a feature matcher."""

    def __init__(self, student_model: nn.Module, block: str, matcher: nn.Module, **unused: Any) -> None:
        super().__init__()
        self.student_model, self.matcher, self.path = student_model, matcher, f"student_model.{block}"

    def forward(self, **batch: torch.Tensor) -> Any:
        return self.student_model(**batch)

    def secondary_forward(self, io_dict: dict[str, Any]) -> None:
        self.matcher(io_dict[self.path]["output"])


@register_low_level_loss
class MatchedLoss(nn.Module):
    """The normalised squared error of this library; torchdistill has none that ignores padding."""

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        return normalized_mse_loss(student, teacher, MatchedLoss.mask)

    mask: torch.Tensor | None = None  # of the batch: the loss wrapper passes only two tensors


@register_func2extract_model_output
def no_model_loss(*arguments: Any, **others: Any) -> dict[str, torch.Tensor]:
    """The encoder has no loss of its own."""
    return {}


@register_scheduler
def linear_with_warmup(optimizer: torch.optim.Optimizer, **settings: Any) -> Any:
    """The schedule that this library uses."""
    return get_scheduler(settings.pop("name"), optimizer, **settings)


class Batches(torch.utils.data.Dataset):
    """Whole batches, as torchdistill's loop reads them."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches = batches

    def __len__(self) -> int:
        return len(self._batches)

    def __getitem__(self, index: int) -> tuple[Any, Any, dict[str, Any]]:
        batch = self._batches[index]
        return dict(batch.content), batch.padding_mask, {}


def torchdistill_run(
    student: nn.Module,
    teacher: nn.Module,
    stages: Sequence[Stage],
    criteria: Sequence[IntermediateLayersKnowledgeDistillationLoss],
    batches: Sequence[Batch],
) -> Callable[[], list[float]]:
    """A function that trains the student's blocks in place, a step on each batch, and returns the last loss of each."""
    config = {
        f"stage{index + 1}": _stage(stage, criteria[index], [earlier.blocks[0] for earlier in stages], len(batches))
        for index, stage in enumerate(stages)
    }
    data = {"flash": Batches(batches)}

    def run() -> list[float]:
        box = MultiStagesDistillationBox(teacher, student, data, config, torch.device("cpu"), None, False, 1)
        losses = []
        for _ in stages:
            box.pre_epoch_process()
            for inputs, mask, others in box.train_data_loader:
                box.pre_forward_process()
                MatchedLoss.mask = mask
                loss = box.forward_process(inputs, targets=None, supp_dict=others)
                box.post_forward_process(loss=loss)
            losses.append(loss.item())
            box.post_epoch_process()
        return losses

    return run


def _stage(
    stage: Stage, criterion: IntermediateLayersKnowledgeDistillationLoss, blocks: list[str], steps: int
) -> dict[str, Any]:
    """torchdistill's configuration of one stage."""
    block, target, settings = stage.blocks[0], stage.teacher_taps[0].path, stage.settings
    frozen = ["embeddings", "pooler", *(other for other in blocks if other != block)]
    return {
        "num_epochs": 1,
        "train_data_loader": {
            "dataset_id": "flash",
            "requires_supp": False,
            "sampler": {"class_or_func": SequentialSampler},
            "kwargs": {"batch_size": None},
        },
        "teacher": {
            "forward_proc": "forward_batch_only_as_kwargs",
            "forward_hook": {"input": [], "output": [target]},
            "requires_grad": False,
        },
        "student": {
            "forward_proc": "forward_batch_only_as_kwargs",
            "forward_hook": {"input": [], "output": [f"student_model.{block}", "matcher"]},
            "frozen_modules": [f"student_model.{path}" for path in frozen],
            "auxiliary_model_wrapper": {
                "key": "Matched",
                "kwargs": {"block": block, "matcher": copy.deepcopy(criterion.feature_matchers[0])},
            },
        },
        "criterion": {
            "key": "WeightedSumLoss",
            "func2extract_model_loss": "no_model_loss",
            "kwargs": {
                "sub_terms": {
                    "feature": {
                        "criterion": {"key": "MatchedLoss", "kwargs": {}},
                        "criterion_wrapper": {
                            "key": "SimpleLossWrapper",
                            "kwargs": {
                                "input": {"is_from_teacher": False, "module_path": "matcher", "io": "output"},
                                "target": {"is_from_teacher": True, "module_path": target, "io": "output"},
                            },
                        },
                        "weight": 1.0,
                    }
                }
            },
        },
        "optimizer": {
            "key": settings.optimizer,
            "kwargs": {"lr": settings.learning_rate, "weight_decay": settings.weight_decay},
            "max_grad_norm": settings.max_grad_norm,
        },
        "scheduler": {
            "key": "linear_with_warmup",
            "kwargs": {
                "name": settings.scheduler,
                "num_warmup_steps": round(settings.warmup_ratio * steps),
                "num_training_steps": steps,
            },
            "scheduling_step": 1,
        },
    }
