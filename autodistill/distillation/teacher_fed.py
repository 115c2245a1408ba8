"""Teacher-fed flash distillation: every block is fed the teacher's hidden state, and all are trained in one pass."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from autodistill.config.temperature import temperature_at
from autodistill.data import Batch
from autodistill.distillation.boundaries import Projection, boundary_taps, output_mapping, project
from autodistill.distillation.checkpoints import Checkpoints, block_state, load_block_state
from autodistill.distillation.plan import Stage
from autodistill.distillation.step_loop import StepLoop, autocast
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.losses.criterion import Criterion, Features
from autodistill.models.calls import Call, calls_of, first_keyword, removing, returning
from autodistill.models.masks import predicts_next_token
from autodistill.models.modes import compiled, frozen, plain_forward, training_only
from autodistill.models.module_paths import find_module
from autodistill.models.taps import Tap, TapRecorder
from autodistill.randomness import seed_torch
from autodistill.seeds import derive_seed
from autodistill.tensors import tensors_in
from autodistill.training import TrainingReport

logger = logging.getLogger(__name__)

STAGE = "all blocks, teacher-fed"
CHECKPOINT = "flash-teacher-fed"


@dataclass
class TeacherFedDistillation:
    """Trains the blocks of one student all at once, each between two hidden states of the teacher.

    No gradient and no random number passes between blocks, and gradients are clipped block by block: the result is, bit
    for bit, that of training each block alone.

    Args:
        student: on the device of the batches.
        stages: one for each block, as `boundaries.teacher_fed_stages` gives them; and perhaps, last, that of
            `boundaries.outside_stage`, which is not fed.
        criteria: one for each stage; without matchers.
        batches: the flash set; step k uses batch k modulo its length.
        cache: gives the teacher's features.
        later_taps: what else will be asked of the teacher: computed in the same pass.
        seed: everything random in the training derives from it.
        report: tells a progress display, of one stage whose loss is the sum over the blocks.
        projection: brings the teacher's hidden states to the student's width; None where the widths agree.
        checkpoints: where the trained blocks are written in the end, and read where that was done before.
    """

    student: nn.Module
    stages: Sequence[Stage]
    criteria: Sequence[Criterion]
    batches: Sequence[Batch]
    cache: TeacherCache
    later_taps: Sequence[Tap]
    seed: int
    report: TrainingReport
    projection: Projection | None = None
    checkpoints: Checkpoints = field(default_factory=partial(Checkpoints, None))

    def run(self) -> list[dict[str, Any]]:
        """Train the blocks; return for each how it ran and its losses."""
        self.report.stage(STAGE, self.stages[0].steps)
        saved = self.checkpoints.load(CHECKPOINT)
        if saved is None:
            with plain_forward(self.student):
                totals, losses = self._train(self._arguments())
            records = [
                _record(stage, curve) for stage, curve in zip(self.stages, zip(*losses, strict=True), strict=True)
            ]
            state = block_state(self.student, self._blocks)
            self.checkpoints.save(CHECKPOINT, state, {"records": records, "losses": totals})
        else:
            load_block_state(self.student, saved[0])
            records, totals = saved[1]["records"], saved[1]["losses"]
        self.report.finished(STAGE, totals)
        return records

    @property
    def _blocks(self) -> list[str]:
        return [block for stage in self.stages for block in stage.blocks]

    @property
    def _fed(self) -> list[Stage]:
        return [stage for stage in self.stages if stage.input is not None]

    def _features(self, number: int) -> Features:
        """The teacher's features of a batch of the flash set, at the blocks' boundaries in the student's width."""
        taps = list(dict.fromkeys(tap for stage in self.stages for tap in stage.teacher_taps))
        features = self.cache.features(self.batches[number % len(self.batches)], taps, self.later_taps)
        return project(features, boundary_taps(self.stages), self.projection)

    def _arguments(self) -> BlockArguments:
        precision = self.stages[0].settings.mixed_precision
        with frozen(self.student), autocast(self.batches[0].device, precision):
            return BlockArguments(self.student, self._fed, self.batches, self._features(0))

    def _train(self, arguments: BlockArguments) -> tuple[list[float], list[list[float]]]:
        """The sum of the blocks' losses at every step, and the losses of the blocks."""
        settings, steps = self.stages[0].settings, self.stages[0].steps
        block_losses = [self._block_loss(index) for index in range(len(self._fed))]
        outside_losses = [self._outside_loss(index, arguments) for index in range(len(self._fed), len(self.stages))]
        seen: list[torch.Tensor] = []

        def loss_at(step: int, number: int) -> torch.Tensor:
            features = self._features(number)
            calls = arguments.of(number % len(self.batches), features)
            parts = [loss(call, features, step, number) for loss, call in zip(block_losses, calls, strict=True)]
            parts += [loss(features, step, number) for loss in outside_losses]
            losses = torch.stack(parts)
            seen.append(losses.detach())
            return losses.sum()

        loop = StepLoop(STAGE, settings, steps, derive_seed(self.seed, STAGE), self.batches[0].device, self.report.step)
        with contextlib.ExitStack() as compiling, training_only(self.student, self._blocks) as parameters:
            for stage, criterion in zip(self._fed, self.criteria, strict=False):  # regular distillation has one more
                taps = criterion.student_taps
                compiling.enter_context(compiled(self.student, stage.blocks[0], taps, settings.compile))
            totals = loop.run(
                parameters,
                [],
                loss_at,
                clipped_apart=self._parameters_of_each_stage(),
                given_at=lambda number: {
                    "the inputs": self.batches[number % len(self.batches)].content,
                    "the teacher's features": self._features(number),
                },
            )
        parts = torch.stack(seen).reshape(steps, settings.gradient_accumulation_steps, len(self.stages))
        return totals, parts.mean(dim=1).tolist()

    def _parameters_of_each_stage(self) -> list[list[nn.Parameter]]:
        groups = [[find_module(self.student, block) for block in stage.blocks] for stage in self.stages]
        parameters = [dict.fromkeys(p for module in modules for p in module.parameters()) for modules in groups]
        return [[parameter for parameter in group if parameter.requires_grad] for group in parameters]

    def _block_loss(self, index: int) -> Callable[[Call, Features, int, int], torch.Tensor]:
        """What gives the loss of one block, called with its arguments."""
        stage, criterion = self.stages[index], self.criteria[index]
        module = find_module(self.student, stage.blocks[0])
        recorder = TapRecorder(self.student, criterion.student_taps, owner="student", stop=True)
        shift = predicts_next_token(self.student)
        seed = derive_seed(self.seed, "flash", index)

        def loss(call: Call, features: Features, step: int, number: int) -> torch.Tensor:
            batch = self.batches[number % len(self.batches)]
            seed_torch(derive_seed(seed, number), batch.device)
            with recorder:
                student = recorder.run(lambda: call(module))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            return criterion.step_loss(student, features, None, batch, temperature=temperature, label_shift=shift)

        return loss

    def _outside_loss(self, index: int, arguments: BlockArguments) -> Callable[[Features, int, int], torch.Tensor]:
        """What gives the loss of what lies outside the blocks: a forward in which they return the teacher's states."""
        stage, criterion = self.stages[index], self.criteria[index]
        recorder = TapRecorder(self.student, criterion.student_taps, owner="student")
        shift = predicts_next_token(self.student)
        seed = derive_seed(self.seed, "flash", stage.name)

        def loss(features: Features, step: int, number: int) -> torch.Tensor:
            batch = self.batches[number % len(self.batches)]
            seed_torch(derive_seed(seed, number), batch.device)
            with recorder, returning(arguments.standing_in(features)):
                student = recorder.run(lambda: batch.call(self.student))
            temperature = temperature_at(stage.settings.temperature, step / stage.steps)
            return criterion.step_loss(student, features, None, batch, temperature=temperature, label_shift=shift)

        return loss


def _record(stage: Stage, losses: Sequence[float]) -> dict[str, Any]:
    return {
        "stage": stage.name,
        "mode": "teacher-fed",
        "reason": None,
        "first_loss": losses[0],
        "last_loss": losses[-1],
    }


class BlockArguments:
    """The arguments of teacher-fed blocks: the teacher's hidden state, and whatever else the student gives its blocks.

    Masks, rotary embeddings and position biases come out of forwards of the student as it was before training. Where
    they do not depend on what the blocks compute, a forward without the blocks gives them whenever a batch is used.
    Else (T5's first block computes the position bias of all) they are captured once over the flash set, and kept.

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
            logger.info("what the student gives its blocks depends on the blocks: it is captured once, and kept")
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
        """For each block what it would return, were its output the teacher's hidden state."""
        outputs = {}
        for module, stage in zip(self._modules, self._stages, strict=True):
            mapping = output_mapping(stage)
            if module in self._forms and mapping is not None:
                # A clone, since the student may go on in place.
                outputs[module] = self._forms[module](features[mapping.teacher].clone())
        return outputs

    def _run_student(self, index: int) -> list[Call]:
        """The call of every block, without its first argument; the forward ends before the last block."""
        calls = calls_of(self._student, [stage.blocks[0] for stage in self._stages], self._batches[index])
        return [_with_first(call, module, None) for call, module in zip(calls, self._modules, strict=True)]


def _form(output: Any) -> Callable[[torch.Tensor], Any]:
    """What makes a hidden state an output of this form; whatever else the output holds is as it was."""
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
