"""Students that are trained alone, for the comparison with elastic students: their cost of a step, and their scores."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from elastic_tasks import Architecture, ElasticTask
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.training import TrainingContext

FEW, MORE = 3, 11
"""Steps; the difference of their times is the cost of the others."""


@dataclass
class Alone:
    """Trains students of a task alone, each from its start inside the teacher, with the teacher's outputs cached.

    Attributes:
        task: the task.
        directory: of the teacher's features, which all runs share.
    """

    task: ElasticTask
    directory: Path
    _filled: set[int] = field(default_factory=set)

    def architectures(self) -> list[Architecture]:
        """All architectures of the space."""
        return [
            dict(zip(self.task.space, values, strict=True)) for values in itertools.product(*self.task.space.values())
        ]

    def batches(self, seed: int) -> list[Any]:
        """The training batches in the order of a seed."""
        train = self.task.task.train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed))
        return [train[number] for number in order.tolist()]

    def configuration(self, steps: int, seed: int, **sections: Any) -> AutoDistillationConfig:
        """The configuration of regular distillation for some steps, from a start inside the teacher."""
        task = self.task
        return AutoDistillationConfig.load(
            {
                "search": {
                    "search_space": {k: list(v) for k, v in task.space.items()},
                    "metrics": ["score"],
                    "seed": seed,
                },
                "regular_distillation": {
                    "train_steps": steps,
                    "learning_rate": task.learning_rate,
                    **task.task.regular,
                },
                "init": dict(task.task.init),
                **sections,
            }
        )

    def distiller(self, config: AutoDistillationConfig, seed: int) -> Distiller:
        """A distiller that keeps the teacher's features on disk."""
        storage = Storage(self.directory, teacher_cache_gb=16, activation_budget_gb=10)
        return Distiller(self.task.task.teacher, config, self.batches(seed), torch.device("cpu"), storage)

    def train(self, architecture: Architecture, steps: int, seed: int) -> tuple[nn.Module, float, float]:
        """Train a student; return it with the CPU seconds and the loss of the last step."""
        distiller = self.distiller(self.configuration(steps, seed), seed)
        torch.manual_seed(seed)
        student = self.task.build(architecture).eval()
        if seed not in self._filled:  # everything that is kept for all students of a search
            self._filled.add(seed)
            count = len(self.task.task.train)
            plan = distiller.resolve(student)
            read = distiller.stream.reader()
            for number in range(count):
                distiller.cache.outputs(read(number), plan.stages[-1].teacher_taps)
            distiller.cache.flush()
            distiller.initialize(self.task.build(architecture).eval(), plan)
        start = time.process_time()
        records = distiller.train(student, TrainingContext(seed)).stages
        return student.eval(), time.process_time() - start, records[-1].last_loss

    def costs(self, architecture: Architecture) -> tuple[float, float]:
        """The CPU seconds of the start of a student, and of a step."""
        few = min(self.train(architecture, FEW, 0)[1] for _ in range(2))
        more = min(self.train(architecture, MORE, 0)[1] for _ in range(2))
        step = (more - few) / (MORE - FEW)
        return max(0.0, few - FEW * step), step

    def run(self, architecture: Architecture, budget: float, seed: int, costs: Sequence[float]) -> dict[str, Any]:
        """A row: the score of a student that was trained for a budget of CPU seconds."""
        start, step = costs
        steps = max(1, int((budget - start) / step))
        student, cpu, loss = self.train(architecture, steps, seed)
        return {
            "architecture": dict(architecture),
            "budget": budget,
            "seed": seed,
            "steps": steps,
            "score": self.task.task.score(student),
            "last_loss": loss,
            "cpu_seconds": cpu,
        }
