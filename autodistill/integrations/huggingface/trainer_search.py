"""The search that a trainer runs: a `Distiller` whose regular distillation and evaluation are the trainer's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn
from transformers.trainer_utils import has_length

from autodistill.auto_distillation import AutoDistillation
from autodistill.distillation.checkpoints import LoopCheckpoint, SharedCheckpoints
from autodistill.distillation.plan import Stage
from autodistill.distiller import Distiller
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.integrations.huggingface.trainer_run import EpochLoader, TrainerRun
from autodistill.losses.criterion import Criterion
from autodistill.training import TrainingReport

RECORDED_ARGUMENTS = (
    "learning_rate",
    "optim",
    "weight_decay",
    "lr_scheduler_type",
    "warmup_steps",
    "max_grad_norm",
    "label_smoothing_factor",
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "bf16",
    "fp16",
    "seed",
    "data_seed",
)
"""What makes the results of one trainer comparable with another's."""


@dataclass
class TrainerDistiller(Distiller):
    """The built-in training with regular distillation in a trainer, and its evaluation afterwards, in all processes.

    Args:
        trainer: an `AutoDistillationMixin`.
    """

    trainer: Any = None

    def __call__(self, student: nn.Module, **arguments: Any) -> list[dict[str, Any]]:
        """As `Distiller` does; the arguments are the same."""
        records = super().__call__(student, **arguments)
        self.trainer.evaluate_student(student)
        return records

    def distil_whole(
        self,
        student: nn.Module,
        stage: Stage,
        criterion: Criterion,
        seed: int,
        report: TrainingReport,
        directory: Path | None,
    ) -> dict[str, Any]:
        """A run of the trainer; the arguments are those of `Distiller.distil_whole`."""
        assert self.config.regular_distillation is not None
        chosen = "train_steps" in self.config.regular_distillation.model_fields_set
        length = len(cast(Any, self.train_dataloader)) if has_length(self.train_dataloader) else None
        dataset = getattr(self.train_dataloader, "dataset", None)
        run = TrainerRun(
            self.trainer,
            student,
            stage,
            criterion,
            EpochLoader(self.stream, length, len(cast(Any, dataset)) if has_length(dataset) else None),
            self.cache,
            seed,
            report,
            LoopCheckpoint(
                SharedCheckpoints(directory, self.processes),
                "regular",
                {"student": student, "matchers": criterion},
                self.config.checkpoint_steps,
            ),
            self.processes,
            directory.parent if directory is not None else None,
            stage.steps if chosen else None,
        )
        record: dict[str, Any] = self.trainer.train_student(run)
        return record


class TrainerSearch(AutoDistillation):
    """A search whose students are trained by a trainer."""

    def __init__(self, *arguments: Any, trainer: Any, **options: Any) -> None:
        self._trainer = trainer
        super().__init__(*arguments, **options)

    def make_training(self) -> Distiller:
        made = super().make_training()
        return TrainerDistiller(
            **{name: getattr(made, name) for name in made.__dataclass_fields__}, trainer=self._trainer
        )

    def describe(self) -> dict[str, Any]:
        description = super().describe()
        description["trainer"] = {name: _plain(getattr(self._trainer.args, name)) for name in RECORDED_ARGUMENTS}
        if isinstance(self.model_builder, TransformersBuilder):
            description["student"] = self.model_builder.to_json()
        return description


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
