"""Teacher-fed flash distillation: every block is fed the teacher's hidden state, and all are trained in one pass.

Since no block depends on another, groups of them may also be trained in several workers.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.temperature import temperature_at
from autodistill.distillation.boundaries import boundary_taps, output_mapping, project
from autodistill.distillation.checkpoints import Checkpoints, block_state, load_block_state
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.plan import Projection, Stage
from autodistill.distillation.step_loop import StepLoop, autocast
from autodistill.distillation.teacher_cache import loss_inputs
from autodistill.losses.criterion import Criterion, Features, TrainingStep
from autodistill.models.calls import Call, calls_of, first_keyword, removing, returning
from autodistill.models.modes import compiled, frozen, plain_forward, training_only
from autodistill.models.module_paths import find_module
from autodistill.models.taps import TapRecorder
from autodistill.randomness import seed_torch
from autodistill.seeds import derive_seed
from autodistill.tensors import tensors_in
from autodistill.training import StageRecord, TrainingContext

logger = logging.getLogger(__name__)

STAGE = "all blocks, teacher-fed"
CHECKPOINT = "flash-teacher-fed"


class TeacherFedDistillation:
    """Trains the blocks of one student together, each between two hidden states of the teacher.

    No gradient and no random number passes between blocks, and gradients are clipped block by block: the result is, bit
    for bit, that of training each block alone.

    Args:
        student: on the device of the batches.
        stages: one for each block, as `boundaries.teacher_fed_stages` returns them; optionally, the last is that
            of `boundaries.outside_stage`, which is not fed.
        criteria: one for each stage; without matchers.
        flash_set: step k uses its batch number k.
        projection: brings the teacher's hidden states to the student's width; None if the widths agree.
    """

    def __init__(
        self,
        student: nn.Module,
        stages: Sequence[Stage],
        criteria: Sequence[Criterion],
        flash_set: FlashSet,
        *,
        projection: Projection | None = None,
    ) -> None:
        self._student = student
        self._stages = stages
        self._criteria = criteria
        self._flash_set = flash_set
        self._projection = projection
        self._fed = [stage for stage in stages if stage.input is not None]
        self._blocks = [block for stage in stages for block in stage.blocks]
        reduced = {tap for stage in stages if stage.top_k is not None for tap in stage.top_k.taps}
        taps = dict.fromkeys(tap for stage in stages for tap in stage.teacher_taps)
        self._taps = [tap for tap in taps if tap not in reduced]
        self._boundaries = boundary_taps(stages)

    def run(self, context: TrainingContext) -> list[StageRecord]:
        """Train the blocks.

        Args:
            context: blocks in its checkpoint are loaded instead. Its report receives one stage, whose loss is the sum
                over the blocks.
        """
        checkpoints = Checkpoints(context.checkpoint_directory)
        context.report.stage(STAGE, self._stages[0].steps)
        saved = checkpoints.load(CHECKPOINT)
        if saved is None:
            losses = self._train(context)
            totals = self._by_step([row.sum() for row in losses])
            curves = [self._by_step(list(column)) for column in losses.unbind(dim=1)]
            records = [
                StageRecord(stage.name, curve[0], curve[-1], mode="teacher-fed")
                for stage, curve in zip(self._stages, curves, strict=True)
            ]
            written = {"records": [record.to_json() for record in records], "losses": totals}
            checkpoints.save(CHECKPOINT, block_state(self._student, self._blocks), written)
        else:
            load_block_state(self._student, saved[0])
            records, totals = [StageRecord(**record) for record in saved[1]["records"]], saved[1]["losses"]
        context.report.finished(STAGE, totals)
        return records

    def _features(self, number: int) -> Features:
        """The teacher's features of batch number k, at the blocks' boundaries in the student's width and precision."""
        features = self._flash_set.features(number, self._taps)
        if self._stages[0].settings.mixed_precision == "no":  # otherwise autocast converts them
            fed = find_module(self._student, self._fed[0].blocks[0])
            kind = next(parameter.dtype for parameter in fed.parameters() if parameter.is_floating_point())
            features = {tap: value.to(kind) if tap in self._boundaries else value for tap, value in features.items()}
        return project(features, self._boundaries, self._projection)

    def _arguments(self) -> BlockArguments:
        precision = self._stages[0].settings.mixed_precision
        with frozen(self._student), autocast(self._flash_set.device, precision):
            return BlockArguments(self._student, self._fed, self._flash_set.batches, self._features(0))

    def _train(self, context: TrainingContext) -> torch.Tensor:
        """Train all stages, here or in workers; the loss of each for every batch, of shape (batches, stages)."""
        everything = range(len(self._stages))
        if context.block_workers is None:
            return self.train_stages(context, everything)
        sizes = [sum(parameter.numel() for parameter in self._parameters_of(index)) for index in everything]
        parts = context.block_workers.train(sizes)
        for part in parts:
            load_block_state(self._student, part.tensors)
        columns = {index: part.losses[:, column] for part in parts for column, index in enumerate(part.stages)}
        return torch.stack([columns[index] for index in everything], dim=1)

    def train_stages(self, context: TrainingContext, chosen: Sequence[int]) -> torch.Tensor:
        """Train some of the stages.

        Args:
            context: of the training of the student.
            chosen: the positions of the stages, in order.

        Returns:
            The loss of each for every batch, of shape (batches, stages chosen).
        """
        settings, steps = self._stages[0].settings, self._stages[0].steps
        fed = [index for index in chosen if index < len(self._fed)]
        blocks = [block for index in chosen for block in self._stages[index].blocks]
        losses_by_batch: list[torch.Tensor] = []
        with plain_forward(self._student), contextlib.ExitStack() as compiling:
            losses_of = self._losses_of(chosen, self._arguments(), context.seed)

            def loss_at(step: int, number: int) -> torch.Tensor:
                losses = torch.stack(losses_of(step, number))
                losses_by_batch.append(losses.detach())
                return losses.sum()

            loop = StepLoop(
                STAGE,
                settings,
                steps,
                derive_seed(context.seed, STAGE),
                self._flash_set.device,
                context.report.step,
            )
            parameters = compiling.enter_context(training_only(self._student, blocks))
            for index in fed:  # the outside stage is not compiled
                block, taps = self._stages[index].blocks[0], self._criteria[index].student_taps
                compiling.enter_context(compiled(self._student, block, taps, settings.compile))
            loop.run(
                parameters,
                [],
                loss_at,
                clipped_apart=[self._parameters_of(index) for index in chosen],
                loss_inputs_at=lambda number: loss_inputs(self._flash_set.batch(number), self._features(number)),
            )
        return torch.stack(losses_by_batch).float().cpu()

    def block_state(self, chosen: Sequence[int]) -> dict[str, torch.Tensor]:
        """The parameters and buffers of the blocks of some stages."""
        return block_state(self._student, [block for index in chosen for block in self._stages[index].blocks])

    def _losses_of(
        self, chosen: Sequence[int], arguments: BlockArguments, seed: int
    ) -> Callable[[int, int], list[torch.Tensor]]:
        """A function of step and batch number that computes the losses of some stages."""
        fed = {
            index: self._block_loss(index, derive_seed(seed, "flash", index))
            for index in chosen
            if index < len(self._fed)
        }
        outside = [
            self._outside_loss(index, arguments, derive_seed(seed, "flash", self._stages[index].name))
            for index in chosen
            if index >= len(self._fed)
        ]

        def losses_at(step: int, number: int) -> list[torch.Tensor]:
            features = self._features(number)
            calls = arguments.of(self._flash_set.index(number), features)
            losses = [loss(calls[index], features, step, number) for index, loss in fed.items()]
            return losses + [loss(features, step, number) for loss in outside]

        return losses_at

    def _by_step(self, losses: Sequence[torch.Tensor]) -> list[float]:
        """The mean over the batches of each step."""
        batches = self._stages[0].settings.gradient_accumulation_steps
        return torch.stack(list(losses)).reshape(-1, batches).mean(dim=1).tolist()

    def _parameters_of(self, index: int) -> list[nn.Parameter]:
        """The parameters that a stage trains."""
        modules = [find_module(self._student, block) for block in self._stages[index].blocks]
        parameters = dict.fromkeys(parameter for module in modules for parameter in module.parameters())
        return [parameter for parameter in parameters if parameter.requires_grad]

    def _block_loss(self, index: int, seed: int) -> Callable[[Call, Features, int, int], torch.Tensor]:
        """A function that computes the loss of one block, called with its arguments."""
        stage, criterion = self._stages[index], self._criteria[index]
        module = find_module(self._student, stage.blocks[0])
        recorder = TapRecorder(self._student, criterion.student_taps, owner="student", stop=True)

        def loss(call: Call, features: Features, step: int, number: int) -> torch.Tensor:
            batch = self._flash_set.batch(number)
            seed_torch(derive_seed(seed, number), batch.device)
            with recorder:
                student = recorder.run(lambda: call(module))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            return criterion.step_loss(student, features, TrainingStep(batch, temperature))

        return loss

    def _outside_loss(
        self, index: int, arguments: BlockArguments, seed: int
    ) -> Callable[[Features, int, int], torch.Tensor]:
        """A function that computes the loss outside the blocks, which return the teacher's states meanwhile."""
        stage, criterion = self._stages[index], self._criteria[index]
        recorder = TapRecorder(self._student, criterion.student_taps, owner="student")

        def loss(features: Features, step: int, number: int) -> torch.Tensor:
            batch = self._flash_set.batch(number)
            seed_torch(derive_seed(seed, number), batch.device)
            with recorder, returning(arguments.standing_in(features)):
                student = recorder.run(lambda: batch.call(self._student))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            logits = {} if stage.top_k is None else self._flash_set.targets(number, stage)
            return criterion.step_loss(student, {**logits, **features}, TrainingStep(batch, temperature))

        return loss


class BlockArguments:
    """The arguments of teacher-fed blocks: the teacher's hidden state, and whatever else the student passes to them.

    Masks, rotary embeddings and position biases are taken from forwards of the student as it was before training. If
    they do not depend on what the blocks compute, a forward without the blocks returns them whenever a batch is used.
    Otherwise (T5's first block computes the position bias of all) they are captured once over the flash set, and kept.

    Args:
        student: frozen (see `models.frozen`) while the arguments are captured.
        stages: of the blocks.
        batches: the flash set.
        features: the teacher's features of the first batch, in the student's width.
    """

    def __init__(
        self, student: nn.Module, stages: Sequence[Stage], batches: Sequence[Batch], features: Features
    ) -> None:
        self._student = student
        self._stages = stages
        self._batches = batches
        self._modules = [find_module(student, stage.blocks[0]) for stage in stages]
        self._forms: dict[nn.Module, Callable[[torch.Tensor], Any]] = {}
        self._alone = True  # blocks return a hidden state, and no other tensor
        self._kept: list[list[Call]] | None = None
        handles = [module.register_forward_hook(self._note_form) for module in self._modules]
        with removing(*handles):
            first = self._run_student(0)
            last, module = self._stages[-1].input, self._modules[-1]  # the forward has ended before it
            if last is not None:
                _with_first(first[-1], module, features[last.teacher].clone())(module)
        if not self._alone or not _same(first, self._without_blocks(0, features)):
            logger.info("what the student passes to its blocks depends on the blocks: it is captured once, and kept")
            self._kept = [self._run_student(index) for index in range(len(batches))]

    def of(self, index: int, features: Features) -> list[Call]:
        """The calls of all blocks for a batch of the flash set, given the teacher's features of it."""
        calls = self._kept[index] if self._kept is not None else self._without_blocks(index, features)
        hidden = [features[stage.input.teacher] for stage in self._stages if stage.input is not None]
        return [
            _with_first(call, module, state) for call, module, state in zip(calls, self._modules, hidden, strict=True)
        ]

    def _note_form(self, module: nn.Module, args: Any, output: Any) -> None:
        self._forms[module] = _form(output)
        rest = output[1:] if isinstance(output, tuple | list) else ()
        self._alone = self._alone and not any(True for _ in tensors_in(rest))

    def _without_blocks(self, index: int, features: Features) -> list[Call]:
        """A forward of the student in which blocks return the teacher's hidden states, and compute nothing."""
        with returning(self.standing_in(features)):
            return self._run_student(index)

    def standing_in(self, features: Features) -> dict[nn.Module, Any]:
        """For each block, what it would return if its output were the teacher's hidden state."""
        outputs = {}
        for module, stage in zip(self._modules, self._stages, strict=True):
            mapping = output_mapping(stage)
            if module in self._forms and mapping is not None:
                # A clone, since the student may change it in place.
                outputs[module] = self._forms[module](features[mapping.teacher].clone())
        return outputs

    def _run_student(self, index: int) -> list[Call]:
        """The call of every block, without its first argument; the forward ends before the last block."""
        calls = calls_of(self._student, [stage.blocks[0] for stage in self._stages], self._batches[index])
        return [_with_first(call, module, None) for call, module in zip(calls, self._modules, strict=True)]


def _form(output: Any) -> Callable[[torch.Tensor], Any]:
    """A function that turns a hidden state into an output of this form; the other elements stay as they were."""
    if not isinstance(output, tuple | list):
        return lambda hidden: hidden
    kind, rest = type(output), output[1:]
    return lambda hidden: kind((hidden, *rest))


def _with_first(call: Call, module: nn.Module, value: torch.Tensor | None) -> Call:
    if call.args:
        return Call((value, *call.args[1:]), call.kwargs)
    return Call((), {**call.kwargs, first_keyword(module, call.kwargs): value})


def _same(left: Sequence[Call], right: Sequence[Call]) -> bool:
    return all(a.same_as(b) for a, b in zip(left, right, strict=True))
