"""Samples in shuffled batches with dynamic padding, and students distilled on them in two ways."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.training import TrainingContext


def joined(batches: Sequence[Any]) -> Any:
    """All samples of some batches as one; its mapping, or its pair."""
    if isinstance(batches[0], tuple):
        return tuple(torch.cat(parts) for parts in zip(*batches, strict=True))
    return {
        name: torch.cat([batch[name] for batch in batches]) if isinstance(value, torch.Tensor) else value
        for name, value in batches[0].items()
    }


def collate(content: Any, indices: Sequence[int]) -> Any:
    """Some samples as a collator pads them: as long as the longest of them."""
    if isinstance(content, tuple):
        return tuple(tensor[list(indices)] for tensor in content)
    batch = {
        name: value[list(indices)] if isinstance(value, torch.Tensor) else value for name, value in content.items()
    }
    masks = {"inputs": batch.get("attention_mask"), "targets": batch.get("labels")}
    if masks["targets"] is not None and masks["targets"].dim() == 2 and not masks["targets"].is_floating_point():
        batch["labels"] = _shortened(batch["labels"], batch["labels"] != -100)
    if (mask := masks["inputs"]) is not None:
        for name, value in list(batch.items()):
            if name != "labels" and isinstance(value, torch.Tensor) and value.shape[:2] == mask.shape:
                batch[name] = _shortened(value, mask)
        if masks["targets"] is not None and masks["targets"].shape == mask.shape:  # labels of the tokens
            batch["labels"] = masks["targets"][:, : batch["attention_mask"].shape[1]].contiguous()
    return batch


def _shortened(tensor: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    columns = counts.bool().any(dim=0).nonzero()
    return tensor[:, : int(columns.max()) + 1 if len(columns) else 1].contiguous()


def shuffled(content: Any, batch_size: int, *, indices: Sequence[int] | None = None, **options: Any) -> DataLoader:
    """A loader of these samples in another order in every epoch."""
    first = next(tensor for tensor in (content if isinstance(content, tuple) else content.values()) if tensor.dim())
    chosen = list(indices) if indices is not None else list(range(len(first)))
    return DataLoader(
        chosen,  # type: ignore[arg-type]
        batch_size,
        collate_fn=lambda taken: collate(content, taken),
        **{"shuffle": True} | options,
    )


@dataclass
class Counting:
    """Counts the teacher's forward passes, and the samples in each of them."""

    teacher: nn.Module
    samples: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.teacher.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.samples.append(len(next(value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))))


@dataclass
class Losses:
    """A report that keeps the losses of each stage."""

    of: dict[str, list[float]] = field(default_factory=dict)

    def stage(self, name: str, steps: int) -> None:
        """Nothing."""

    def step(self, step: int, loss: float) -> None:
        """Nothing."""

    def finished(self, name: str, losses: Sequence[float]) -> None:
        self.of[name] = list(losses)


def make_distiller(
    teacher: nn.Module, loader: Any, storage: Storage | None = None, *, flash: Any = None, **regular: Any
) -> Distiller:
    """With an optimizer that does not amplify rounding."""
    settings = {"train_steps": 8, "learning_rate": 0.05, "optimizer": "SGD"}
    config: dict[str, Any] = {
        "search": {"search_space": {"width": [1]}, "metrics": ["loss"], "seed": 5},
        "regular_distillation": settings | regular,
    }
    if flash is not None:
        config["flash_distillation"] = settings | flash
    loaded = AutoDistillationConfig.load(config)
    return Distiller(teacher, loaded, loader, torch.device("cpu"), storage or Storage())


def distil(distiller: Distiller, student: nn.Module, checkpoints: Path | None = None) -> tuple[nn.Module, list[float]]:
    """A trained copy of the student, and the losses of regular distillation."""
    losses, twin = Losses(), copy.deepcopy(student)
    distiller.train(twin, TrainingContext(seed=1, report=losses, checkpoint_directory=checkpoints))
    return twin, losses.of["regular distillation"]


def difference(left: nn.Module, right: nn.Module, start: nn.Module) -> float:
    """The largest difference of weights, relative to how far training moved the weights of that tensor."""
    states = left.state_dict(), right.state_dict(), start.state_dict()
    moved = max((states[1][name].double() - before.double()).norm() for name, before in states[2].items())
    return max(float((value.double() - states[1][name].double()).norm() / moved) for name, value in states[0].items())


def assert_equal(left: nn.Module, right: nn.Module) -> None:
    """To the bit."""
    for (name, one), other in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(one, other), name
