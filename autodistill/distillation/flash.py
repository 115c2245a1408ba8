"""Flash distillation: the student's blocks are trained one after the other, those before one finished and frozen."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from autodistill.config.temperature import temperature_at
from autodistill.data import Batch
from autodistill.distillation.activation_store import ActivationStore, Budget
from autodistill.distillation.captured_inputs import CapturedInputs
from autodistill.distillation.checkpoints import Checkpoints, block_state, load_block_state
from autodistill.distillation.plan import Stage
from autodistill.distillation.replay import why_not
from autodistill.distillation.step_loop import StepLoop, autocast
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.losses.criterion import Criterion, Features
from autodistill.models.calls import VerificationError
from autodistill.models.masks import predicts_next_token
from autodistill.models.modes import compiled, frozen, plain_forward, training_only
from autodistill.models.module_paths import find_module, last_of_their_siblings
from autodistill.models.taps import Tap, TapRecorder
from autodistill.seeds import derive_seed
from autodistill.training import TrainingReport

logger = logging.getLogger(__name__)

StudentForward = Callable[[int], tuple[Features, Any]]
"""Gives the student's mapped features of a batch of the flash set, and what the student returned if it ran whole."""


@dataclass
class FlashDistillation:
    """Trains the blocks of one student.

    Args:
        student: on the device of the batches.
        stages: one for each block, in the order of the forward pass.
        criteria: one for each stage, with its matchers.
        batches: the flash set; step k uses batch k modulo its length.
        cache: gives the teacher's features.
        later_taps: what else will be asked of the teacher: computed in the same pass.
        seed: everything random in the training derives from it.
        report: tells a progress display.
        replay: False runs every stage by the truncated forward.
        checkpoints: where an interrupted training goes on from.
        budget: what the captured inputs may take.
        exact: False keeps them as bfloat16.
    """

    student: nn.Module
    stages: Sequence[Stage]
    criteria: Sequence[Criterion]
    batches: Sequence[Batch]
    cache: TeacherCache
    later_taps: Sequence[Tap]
    seed: int
    report: TrainingReport
    replay: bool = True
    checkpoints: Checkpoints = field(default_factory=partial(Checkpoints, None))
    budget: Budget = field(default_factory=Budget)
    exact: bool = True
    _inputs: CapturedInputs = field(init=False)
    _reasons: list[str | None] = field(init=False)
    _captured_for: int | None = field(init=False, default=None)

    def run(self) -> list[dict[str, Any]]:
        """Train every block; return for each stage how it ran and its losses."""
        self._inputs = CapturedInputs(self.student, self.batches, ActivationStore(self.budget, exact=self.exact))
        try:
            with plain_forward(self.student):
                self._reasons = self._why_not_replayed()
                return [self._run_stage(index) for index in range(len(self.stages))]
        finally:
            self._inputs.clear()

    def _why_not_replayed(self) -> list[str | None]:
        if not self.replay:
            return ["replay is turned off"] * len(self.stages)
        if not self.stages:
            return []
        with self._blocks_before(self.stages[0]):
            return why_not(self.stages, self.student, self.batches[0])

    def _run_stage(self, index: int) -> dict[str, Any]:
        """Train a stage's block and write it down, or read it where that was done before."""
        stage, name = self.stages[index], f"flash-{index:03d}"
        self.report.stage(stage.name, stage.steps)
        saved = self.checkpoints.load(name)
        if saved is None:
            record, losses = self._train_stage(index)
            self.checkpoints.save(name, block_state(self.student, stage.blocks), {"record": record, "losses": losses})
        else:
            load_block_state(self.student, saved[0])
            record, losses = saved[1]["record"], saved[1]["losses"]
        self.report.finished(stage.name, losses)
        return record

    def _train_stage(self, index: int) -> tuple[dict[str, Any], list[float]]:
        stage = self.stages[index]
        with self._blocks_before(stage):
            reason = self._capture_inputs(index)
        if reason is None:
            losses, reason = self._train_by_replay(index)
        if reason is not None:
            logger.info("%s runs by the truncated forward: %s", stage.name, reason)
            losses = self._train(index, self._truncated_forward(stage))
        record = {
            "stage": stage.name,
            "mode": "replay" if reason is None else "truncated forward",
            "reason": reason,
            "first_loss": losses[0],
            "last_loss": losses[-1],
        }
        return record, losses

    @contextlib.contextmanager
    def _blocks_before(self, stage: Stage) -> Iterator[None]:
        """The conditions under which the blocks before the trained one run in training."""
        with frozen(self.student), autocast(self.batches[0].device, stage.settings.mixed_precision):
            yield

    def _capture_inputs(self, index: int) -> str | None:
        """Have the inputs of the stage's block ready, or say why it cannot be replayed."""
        stage, block = self.stages[index], self.stages[index].blocks[0]
        if self._reasons[index] is not None:
            return self._reasons[index]
        finished = [path for earlier in self.stages[:index] for path in earlier.blocks]
        keep: list[str] = []
        if self._captured_for == index - 1:
            try:
                self._inputs.move_on(self.stages[index - 1].blocks[0], block)
            except VerificationError as error:
                logger.info("the inputs of %s are captured anew by full forwards: %s", stage.name, error)
                self._captured_for = None
                keep = last_of_their_siblings(finished)
        if self._captured_for != index - 1:
            self._inputs.capture(block, finished, keep)
        self._captured_for = index
        return None

    def _train_by_replay(self, index: int) -> tuple[list[float], str | None]:
        """Train the stage's block alone; where the verification after it fails, put all back and say why."""
        block, criterion = self.stages[index].blocks[0], self.criteria[index]
        replayed_next = index + 1 < len(self.stages) and self._reasons[index + 1] is None
        module = find_module(self.student, block)
        before = copy.deepcopy((module.state_dict(), criterion.state_dict()))
        stage = self.stages[index]
        with compiled(self.student, block, stage.student_taps, stage.settings.compile):
            losses = self._train(index, self._replayed_block(stage))
        try:
            with self._blocks_before(self.stages[index]):
                self._inputs.verify(block, self.stages[index + 1].blocks[0] if replayed_next else None)
        except VerificationError as error:
            module.load_state_dict(before[0])
            criterion.load_state_dict(before[1])
            self._captured_for = None
            return [], str(error)
        return losses, None

    def _train(self, index: int, forward: StudentForward) -> list[float]:
        stage, criterion = self.stages[index], self.criteria[index]
        shift = predicts_next_token(self.student)

        def loss_at(step: int, number: int) -> torch.Tensor:
            batch = self.batches[number % len(self.batches)]
            teacher = self.cache.features(batch, stage.teacher_taps, self.later_taps)
            student, output = forward(number % len(self.batches))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            return criterion.step_loss(student, teacher, output, batch, temperature=temperature, label_shift=shift)

        loop = StepLoop(
            stage.name,
            stage.settings,
            stage.steps,
            derive_seed(self.seed, "flash", index),
            self.batches[0].device,
            self.report.step,
        )
        with training_only(self.student, stage.blocks) as parameters:
            return loop.run(
                parameters,
                list(criterion.parameters()),
                loss_at,
                given_at=lambda number: self.cache.given(self.batches[number % len(self.batches)], stage.teacher_taps),
            )

    def _replayed_block(self, stage: Stage) -> StudentForward:
        module = find_module(self.student, stage.blocks[0])
        recorder = TapRecorder(self.student, stage.student_taps, owner="student", stop=True, also_run=stage.blocks)

        def forward(index: int) -> tuple[Features, Any]:
            call = self._inputs.call(index)
            with recorder:
                return recorder.run(lambda: call(module)), None

        return forward

    def _truncated_forward(self, stage: Stage) -> StudentForward:
        recorder = TapRecorder(self.student, stage.student_taps, owner="student", also_run=stage.blocks)
        with recorder, torch.no_grad():
            recorder.run(lambda: self.batches[0].call(self.student.eval()))
        recorder.stop = not stage.add_origin_loss and all(calls == 1 for calls in recorder.calls.values())

        def forward(index: int) -> tuple[Features, Any]:
            output: list[Any] = []
            with recorder:
                features = recorder.run(lambda: output.append(self.batches[index].call(self.student)))
            return features, output[0] if output else None

        return forward
