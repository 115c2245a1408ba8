"""Regular distillation: the whole student is trained towards the teacher's predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from autodistill.config.temperature import temperature_at
from autodistill.data import DataStream
from autodistill.distillation.checkpoints import Checkpoints, LoopCheckpoint
from autodistill.distillation.plan import Stage
from autodistill.distillation.step_loop import StepLoop
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.losses.criterion import Criterion
from autodistill.models.masks import predicts_next_token
from autodistill.models.modes import compiled, plain_forward, training_only
from autodistill.models.taps import TapRecorder
from autodistill.processes import ALONE, Processes
from autodistill.seeds import derive_seed
from autodistill.training import TrainingReport


@dataclass(frozen=True)
class RegularDistillation:
    """Trains a whole student.

    Args:
        student: on `device`.
        stage: the one stage.
        criterion: with its matchers.
        stream: the training data; its order is the same in every trial, so that the teacher's outputs recur.
        cache: gives the teacher's features.
        seed: everything random in the training derives from it.
        device: where the student is.
        report: tells a progress display.
        checkpoints: where an interrupted training goes on from.
        checkpoint_steps: steps between two checkpoints.
        processes: batch k of the stream goes to process k modulo their number; all have equal weights at every step.
    """

    student: nn.Module
    stage: Stage
    criterion: Criterion
    stream: DataStream
    cache: TeacherCache
    seed: int
    device: torch.device
    report: TrainingReport
    checkpoints: Checkpoints = field(default_factory=partial(Checkpoints, None))
    checkpoint_steps: int = 200
    processes: Processes = ALONE

    def run(self) -> dict[str, Any]:
        """Train the student; return how it went."""
        stage = self.stage
        self.report.stage(stage.name, stage.steps)
        loop = StepLoop(
            stage.name,
            stage.settings,
            stage.steps,
            derive_seed(self.seed, "regular"),
            self.device,
            self.report.step,
            self.processes,
        )
        recorder = TapRecorder(self.student, stage.student_taps, owner="student")
        with (
            plain_forward(self.student),
            training_only(self.student, stage.blocks) as parameters,
            recorder,
            compiled(self.student, "", stage.student_taps, stage.settings.compile),
        ):
            losses = loop.run(
                parameters,
                list(self.criterion.parameters()),
                self._losses(recorder),
                self._checkpoint(),
                buffers=list(self.student.buffers()),
                given_at=lambda number: self.cache.given(
                    self.stream.reader()(number).to(self.device), stage.teacher_taps
                ),
            )
        self.report.finished(stage.name, losses)
        return {"stage": stage.name, "first_loss": losses[0], "last_loss": losses[-1]}

    def _checkpoint(self) -> LoopCheckpoint:
        modules = {"student": self.student, "matchers": self.criterion}
        return LoopCheckpoint(self.checkpoints, "regular", modules, self.checkpoint_steps)

    def _losses(self, recorder: TapRecorder) -> Callable[[int, int], torch.Tensor]:
        stage, next_batch = self.stage, self.stream.reader()
        shift = predicts_next_token(self.student)

        def loss_at(step: int, number: int) -> torch.Tensor:
            batch = next_batch(number).to(self.device)
            teacher = self.cache.features(batch, stage.teacher_taps)
            output: list[Any] = []
            student = recorder.run(lambda: output.append(batch.call(self.student)))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            return self.criterion.step_loss(
                student, teacher, output[0], batch, temperature=temperature, label_shift=shift
            )

        return loss_at
