"""The search that a trainer runs: regular distillation and evaluation are the trainer's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn
from transformers.trainer_utils import has_length

from autodistill.auto_distillation import AutoDistillation
from autodistill.data_stream import DataStream
from autodistill.distillation.engine import Engine
from autodistill.distillation.regular import RegularTask
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.integrations.huggingface.trainer_distillation import EpochLoader, TrainerDistillation
from autodistill.padding import report_padding
from autodistill.search.trial import Trial
from autodistill.training import Trained, Training, TrainingContext, TrainingReport

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
"""The arguments that must be equal for the results of two trainers to be comparable."""

_LESS_PADDING = (
    "pad in the data collator, not before, and set train_sampling_strategy='group_by_length' in TrainingArguments"
)


@dataclass(frozen=True)
class EvaluatedTraining:
    """A training after which a trainer evaluates the student, in all processes.

    Args:
        training: the training.
        evaluate: evaluates a student.
    """

    training: Training
    evaluate: Callable[[nn.Module], None]

    @property
    def keeps_size(self) -> bool:
        """Whether the trained model has the parameters of the built one, in number and in shape."""
        return self.training.keeps_size

    def check(self, student: nn.Module) -> None:
        """Check the settings of the training against a student."""
        self.training.check(student)

    def prepare(self, report: TrainingReport) -> None:
        """Train what all students share."""
        self.training.prepare(report)

    def train(self, student: nn.Module, context: TrainingContext) -> Trained:
        """Train one student, and evaluate it."""
        trained = self.training.train(student, context)
        self.evaluate(trained.model)
        return trained

    def for_another_process(self, *, with_files: bool) -> EvaluatedTraining:
        """What is sent to a process that trains students too."""
        return replace(self, training=self.training.for_another_process(with_files=with_files))

    def place(self, folder: Path | None) -> None:
        """Put the training on the device of the process that has received it."""
        self.training.place(folder)

    def describe(self) -> dict[str, Any]:
        """The settings of the training."""
        return self.training.describe()


class TrainerSearch(AutoDistillation):
    """A search whose students are trained by a trainer."""

    def __init__(self, *arguments: Any, trainer: Any, **options: Any) -> None:
        self._trainer = trainer
        super().__init__(*arguments, **options)

    def make_training(self, regular_engine: Callable[[RegularTask], Engine] | None = None) -> Training:
        """The built-in training with regular distillation in the trainer, and the trainer's evaluation after it."""
        training = super().make_training(regular_engine or self._regular_engine)
        if self._processes.is_main and self.train_dataloader is not None:
            report_padding(DataStream(self.train_dataloader, self.config.seed), _LESS_PADDING)
        return EvaluatedTraining(training, self._trainer.evaluate_student)

    def _regular_engine(self, task: RegularTask) -> TrainerDistillation:
        source = self.train_dataloader
        dataset = getattr(source, "dataset", None)
        loader = EpochLoader(task.stream, _length(source), _length(dataset))
        chosen = "train_steps" in task.stage.settings.model_fields_set
        return TrainerDistillation(self._trainer, task, loader, task.stage.steps if chosen else None)

    def finish(self, architecture: Mapping[str, Any], train_steps: int | None = None, **options: Any) -> Trial:
        """Like that of any search, by a run of the trainer, whose model is unchanged when this returns."""
        with self._trainer.restored():
            return super().finish(architecture, train_steps, **options)

    def for_limit(self, n_trials: int = 20, train_steps: int | None = None, **limits: float) -> Trial:
        """Like that of any search; the trainer's model is unchanged when this returns."""
        with self._trainer.restored():
            return super().for_limit(n_trials, train_steps, **limits)

    def describe(self) -> dict[str, Any]:
        """The description of the search, with the trainer's arguments and the configuration of its model."""
        description = super().describe()
        description["trainer"] = {name: _plain(getattr(self._trainer.args, name)) for name in RECORDED_ARGUMENTS}
        if isinstance(self.model_builder, TransformersBuilder):
            description["student"] = self.model_builder.to_json()
        return description


def _length(source: Any) -> int | None:
    return len(source) if has_length(source) else None


def _plain(value: Any) -> Any:
    return getattr(value, "value", value)
