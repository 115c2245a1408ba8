"""Regular distillation: the whole student is trained towards the teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.temperature import temperature_at
from autodistill.data_stream import DataStream
from autodistill.distillation.checkpoints import LoopCheckpoint, SharedCheckpoints
from autodistill.distillation.plan import Stage
from autodistill.distillation.step_loop import StepLoop
from autodistill.distillation.teacher_cache import TeacherCache, loss_inputs
from autodistill.losses.criterion import Criterion, TrainingStep
from autodistill.models.modes import compiled, plain_forward, training_only
from autodistill.models.taps import TapRecorder
from autodistill.processes import ALONE, Processes
from autodistill.seeds import derive_seed
from autodistill.training import StageRecord, TrainingContext

CHECKPOINT = "regular"


@dataclass(frozen=True)
class RegularTask:
    """One student's regular distillation, for any engine.

    Args:
        student: on the device of the training.
        stage: the one stage.
        criterion: with its matchers.
        stream: the training data; its order is the same in every trial, so that the teacher's outputs are reused.
        cache: computes the teacher's features.
        device: that of the student.
        checkpoint_steps: steps between two checkpoints.
        processes: batch k of the stream goes to process k modulo their number; all have equal weights at every step.
    """

    student: nn.Module
    stage: Stage
    criterion: Criterion
    stream: DataStream
    cache: TeacherCache
    device: torch.device
    checkpoint_steps: int = 200
    processes: Processes = ALONE

    def reader(self) -> Callable[[int], Batch]:
        """A function that returns batch number k of the stream; batches before the first k are caught up with."""

        began = False

        def catch_up(number: int, batch: Batch) -> None:
            if not began:  # later, the batches between its own are those of other processes
                self.cache.catch_up(batch.to(self.device), self.stage.teacher_taps)

        read = self.stream.reader(catch_up)

        def next_batch(number: int) -> Batch:
            nonlocal began
            batch = read(number)
            began = True
            return batch

        return next_batch

    def checkpoint(self, directory: Path | None) -> LoopCheckpoint:
        """The checkpoint of an interrupted training in this directory; None keeps none."""
        modules = {"student": self.student, "matchers": self.criterion}
        checkpoints = SharedCheckpoints(directory, self.processes)
        return LoopCheckpoint(
            checkpoints, CHECKPOINT, modules, self.checkpoint_steps, self.cache.flush, self.stage.steps
        )


class RegularDistillation:
    """Trains a whole student by the step loop.

    Args:
        task: the student, its targets and the data.
    """

    def __init__(self, task: RegularTask) -> None:
        self._task = task

    def run(self, context: TrainingContext) -> list[StageRecord]:
        """Train the student, in all processes together.

        Args:
            context: an interrupted training resumes from its checkpoint.
        """
        task, stage, report = self._task, self._task.stage, context.report
        report.stage(stage.name, stage.steps)
        seed = derive_seed(context.seed, "regular")
        loop = StepLoop(stage.name, stage.settings, stage.steps, seed, task.device, report.step, task.processes)
        recorder = TapRecorder(task.student, stage.student_taps, owner="student")
        with (
            plain_forward(task.student, keep_compiled=not any(tap.path for tap in stage.student_taps)),
            training_only(task.student, stage.blocks) as parameters,
            recorder,
            compiled(task.student, "", stage.student_taps, stage.settings.compile),
        ):
            losses = loop.run(
                parameters,
                list(task.criterion.parameters()),
                self._losses(recorder),
                task.checkpoint(context.checkpoint_directory),
                buffers=list(task.student.buffers()),
                loss_inputs_at=self._loss_inputs,
            )
        report.finished(stage.name, losses)
        return [StageRecord(stage.name, losses[0], losses[-1])]

    def _losses(self, recorder: TapRecorder) -> Callable[[int, int], torch.Tensor]:
        task, stage, next_batch = self._task, self._task.stage, self._task.reader()

        def loss_at(step: int, number: int) -> torch.Tensor:
            batch = next_batch(number)
            _ = batch.sample_keys  # computed where the batch is, before it is moved
            batch = batch.to(task.device)
            teacher = task.cache.outputs(batch, stage.teacher_taps, stage.top_k)
            output: list[Any] = []
            student = recorder.run(lambda: output.append(batch.call(task.student)))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            return task.criterion.step_loss(student, teacher, TrainingStep(batch, temperature, output[0]))

        return loss_at

    def _loss_inputs(self, number: int) -> dict[str, Any]:
        task = self._task
        batch = task.stream.reader()(number).to(task.device)
        return loss_inputs(batch, task.cache.outputs(batch, task.stage.teacher_taps, task.stage.top_k))
