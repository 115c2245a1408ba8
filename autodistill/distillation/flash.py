"""Flash distillation: the student's blocks are trained one after the other, those before it finished and frozen."""

from __future__ import annotations

import contextlib
import copy
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.config.temperature import temperature_at
from autodistill.distillation.activation_store import ActivationStore, Budget
from autodistill.distillation.captured_inputs import CapturedInputs
from autodistill.distillation.checkpoints import Checkpoints, block_state, load_block_state
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.plan import Stage
from autodistill.distillation.replay import replay_blockers
from autodistill.distillation.step_loop import StepLoop, autocast
from autodistill.losses.criterion import Criterion, Features, TrainingStep
from autodistill.models.calls import VerificationError
from autodistill.models.modes import compiled, frozen, is_compiled, plain_forward, training_only
from autodistill.models.module_paths import find_module, last_of_their_siblings
from autodistill.models.taps import TapRecorder
from autodistill.seeds import derive_seed
from autodistill.training import StageRecord, TrainingContext

logger = logging.getLogger(__name__)

StudentForward = Callable[[int], tuple[Features, Any]]
"""Returns the student's mapped features for a batch of the flash set, and its output if the full forward ran."""


class FlashDistillation:
    """Trains the blocks of one student.

    Args:
        student: on the device of the batches.
        stages: one for each block, in the order of the forward pass.
        criteria: one for each stage, with its matchers.
        flash_set: step k uses its batch number k.
        replay: False runs every stage by the truncated forward.
        budget: the memory and disk for the captured inputs.
        exact: False keeps them as bfloat16.
    """

    def __init__(
        self,
        student: nn.Module,
        stages: Sequence[Stage],
        criteria: Sequence[Criterion],
        flash_set: FlashSet,
        *,
        replay: bool = True,
        budget: Budget | None = None,
        exact: bool = True,
    ) -> None:
        self._student = student
        self._stages = stages
        self._criteria = criteria
        self._flash_set = flash_set
        self._replay = replay
        self._inputs = CapturedInputs(student, flash_set.batches, ActivationStore(budget or Budget(), exact=exact))
        self._blockers: list[str | None] = []  # for each stage the reason why it cannot be replayed
        self._captured_for: int | None = None  # the stage whose inputs are captured

    def run(self, context: TrainingContext) -> list[StageRecord]:
        """Train every block.

        Args:
            context: a block in its checkpoints is loaded instead.
        """
        self._captured_for = None
        if is_compiled(self._student):
            logger.info("the student was compiled: it runs uncompiled in flash distillation")
        try:
            with plain_forward(self._student):
                self._blockers = self._find_blockers()
                return [self._run_stage(index, context) for index in range(len(self._stages))]
        finally:
            self._inputs.clear()

    def _find_blockers(self) -> list[str | None]:
        if not self._replay:
            return ["replay is turned off"] * len(self._stages)
        if not self._stages:
            return []
        with self._blocks_before(self._stages[0]):
            return replay_blockers(self._stages, self._student, self._flash_set.batch(0))

    def _run_stage(self, index: int, context: TrainingContext) -> StageRecord:
        """Train a stage's block and write its checkpoint, or load the checkpoint if it exists."""
        stage, name = self._stages[index], f"flash-{index:03d}"
        checkpoints = Checkpoints(context.checkpoint_directory)
        context.report.stage(stage.name, stage.steps)
        saved = checkpoints.load(name)
        if saved is None:
            record, losses = self._train_stage(index, context)
            state = block_state(self._student, stage.blocks)
            checkpoints.save(name, state, {"record": record.to_json(), "losses": losses})
        else:
            load_block_state(self._student, saved[0])
            record, losses = StageRecord(**saved[1]["record"]), saved[1]["losses"]
        context.report.finished(stage.name, losses)
        return record

    def _train_stage(self, index: int, context: TrainingContext) -> tuple[StageRecord, list[float]]:
        stage = self._stages[index]
        losses: list[float] = []
        fallback_reason = self._blockers[index]
        if fallback_reason is None:
            with self._blocks_before(stage):
                self._capture_inputs(index)
            losses, fallback_reason = self._train_by_replay(index, context)
        if fallback_reason is not None:
            logger.info("%s runs by the truncated forward: %s", stage.name, fallback_reason)
            losses = self._train(index, self._truncated_forward(stage), context)
        mode = "replay" if fallback_reason is None else "truncated forward"
        return StageRecord(stage.name, losses[0], losses[-1], mode, fallback_reason), losses

    @contextlib.contextmanager
    def _blocks_before(self, stage: Stage) -> Iterator[None]:
        """The context in which the blocks before the trained one run in training."""
        with frozen(self._student), autocast(self._flash_set.device, stage.settings.mixed_precision):
            yield

    def _capture_inputs(self, index: int) -> None:
        """Capture the inputs of the stage's block, from those of the preceding block if possible."""
        stage, block = self._stages[index], self._stages[index].blocks[0]
        finished = [path for earlier in self._stages[:index] for path in earlier.blocks]
        keep: list[str] = []
        if self._captured_for == index - 1:
            try:
                self._inputs.move_on(self._stages[index - 1].blocks[0], block)
            except VerificationError as error:
                logger.info("the inputs of %s are captured again by full forwards: %s", stage.name, error)
                self._captured_for = None
                keep = last_of_their_siblings(finished)
        if self._captured_for != index - 1:
            self._inputs.capture(block, finished, keep)
        self._captured_for = index

    def _train_by_replay(self, index: int, context: TrainingContext) -> tuple[list[float], str | None]:
        """Train the stage's block alone; if the verification afterwards fails, restore it and return the reason."""
        stage, block, criterion = self._stages[index], self._stages[index].blocks[0], self._criteria[index]
        replayed_next = index + 1 < len(self._stages) and self._blockers[index + 1] is None
        module = find_module(self._student, block)
        before = copy.deepcopy((module.state_dict(), criterion.state_dict()))
        with compiled(self._student, block, stage.student_taps, stage.settings.compile):
            losses = self._train(index, self._replayed_block(stage), context)
        try:
            with self._blocks_before(stage):
                self._inputs.verify(block, self._stages[index + 1].blocks[0] if replayed_next else None)
        except VerificationError as error:
            module.load_state_dict(before[0])
            criterion.load_state_dict(before[1])
            self._captured_for = None
            return [], str(error)
        return losses, None

    def _train(self, index: int, forward: StudentForward, context: TrainingContext) -> list[float]:
        stage, criterion, flash_set = self._stages[index], self._criteria[index], self._flash_set

        def loss_at(step: int, number: int) -> torch.Tensor:
            teacher = flash_set.targets(number, stage)
            student, output = forward(number)
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            batch = flash_set.batch(number)
            return criterion.step_loss(student, teacher, TrainingStep(batch, temperature, output))

        seed = derive_seed(context.seed, "flash", index)
        loop = StepLoop(stage.name, stage.settings, stage.steps, seed, flash_set.device, context.report.step)
        with training_only(self._student, stage.blocks) as parameters:
            return loop.run(
                parameters,
                list(criterion.parameters()),
                loss_at,
                loss_inputs_at=lambda number: flash_set.loss_inputs(number, stage),
            )

    def _replayed_block(self, stage: Stage) -> StudentForward:
        module = find_module(self._student, stage.blocks[0])
        recorder = TapRecorder(self._student, stage.student_taps, owner="student", stop=True, also_run=stage.blocks)

        def forward(number: int) -> tuple[Features, Any]:
            call = self._inputs.call(self._flash_set.index(number))
            with recorder:
                return recorder.run(lambda: call(module)), None

        return forward

    def _truncated_forward(self, stage: Stage) -> StudentForward:
        recorder = TapRecorder(self._student, stage.student_taps, owner="student", also_run=stage.blocks)
        with recorder, torch.no_grad():
            recorder.run(lambda: self._flash_set.batch(0).call(self._student.eval()))
        recorder.stop = not stage.add_origin_loss and all(calls == 1 for calls in recorder.calls.values())

        def forward(number: int) -> tuple[Features, Any]:
            output: list[Any] = []
            with recorder:
                features = recorder.run(lambda: output.append(self._flash_set.batch(number).call(self._student)))
            return features, output[0] if output else None

        return forward
