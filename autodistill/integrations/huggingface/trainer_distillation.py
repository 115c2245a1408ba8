"""Regular distillation as a run of transformers' `Trainer`: the methods that it calls while it trains one student."""

from __future__ import annotations

import copy
import json
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import has_length

from autodistill.batch import Batch
from autodistill.config.temperature import temperature_at
from autodistill.data_stream import DataStream
from autodistill.distillation.regular import RegularTask
from autodistill.distillation.step_loop import CHECK_EVERY
from autodistill.errors import NonFiniteError
from autodistill.losses.criterion import TrainingStep
from autodistill.models.modes import plain_forward, training_only
from autodistill.models.taps import TapRecorder, main_part
from autodistill.randomness import seed_torch
from autodistill.seeds import derive_seed
from autodistill.tensors import tensors_in
from autodistill.training import StageRecord, TrainingContext


class EpochLoader(DataLoader[Any]):
    """Loads the batches of a stream for a trainer, one epoch at a time; they are the same for every student.

    Args:
        stream: the stream.
        length: the number of batches in an epoch; None if it is unknown.
        samples: the number of samples in an epoch, for the trainer's log.
    """

    def __init__(self, stream: DataStream, length: int | None, samples: int | None) -> None:
        self.samples = samples
        dataset = _Epoch(stream) if length is None else _CountedEpoch(stream, length)
        super().__init__(dataset, batch_size=None, collate_fn=_identity)

    def set_epoch(self, epoch: int) -> None:
        """Read another epoch from now on."""
        self.dataset.number = epoch  # type: ignore[attr-defined]


def _identity(content: Any) -> Any:
    return content


class _Epoch(IterableDataset[Any]):
    def __init__(self, stream: DataStream) -> None:
        self._stream = stream
        self.number = 0

    def __iter__(self) -> Iterator[Any]:
        return (batch.content for batch in self._stream.epoch(self.number))


class _CountedEpoch(_Epoch):
    def __init__(self, stream: DataStream, length: int) -> None:
        super().__init__(stream)
        self._length = length

    def __len__(self) -> int:
        return self._length


class _TrainerState:
    """Adapts the state of a trainer to the interface of a checkpoint."""

    def __init__(self, trainer: Trainer) -> None:
        self._trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as directory:
            file = Path(directory) / TRAINER_STATE_NAME
            self._trainer.state.save_to_json(str(file))
            state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return {"json": state}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Do nothing: the trainer has already read its state."""


@dataclass(frozen=True)
class TrainerDistillation:
    """The engine of regular distillation that runs transformers' `Trainer`.

    Args:
        trainer: an `AutoDistillationMixin`; its data, arguments and callbacks are used.
        task: the student and its targets.
        loader: the batches of the task's stream.
        max_steps: the number of optimizer updates; None for that of the trainer's arguments.
    """

    trainer: Any
    task: RegularTask
    loader: EpochLoader
    max_steps: int | None = None

    def run(self, context: TrainingContext) -> list[StageRecord]:
        """Train the student, in all processes together.

        Args:
            context: an interrupted run resumes from its checkpoint, of safetensors and JSON. The trainer's logs go to
                the directory above the checkpoints.
        """
        record: StageRecord = self.trainer.train_student(TrainerRun(self, context))
        return [record]


class TrainerRun:
    """One student's regular distillation in a trainer, which calls these methods while it trains.

    Args:
        engine: the task and the trainer.
        context: the seed, among others; the dropout of batch number k is seeded with `(seed, k, process)`.
    """

    def __init__(self, engine: TrainerDistillation, context: TrainingContext) -> None:
        task = engine.task
        self.stage = task.stage
        self.loader = engine.loader
        self.matchers = list(task.criterion.parameters())
        self._trainer: Trainer = engine.trainer
        self._task = task
        self._max_steps = engine.max_steps
        self._context = context
        self._checkpoint = task.checkpoint(context.checkpoint_directory)
        self._recorder = TapRecorder(task.student, task.stage.student_taps, owner="student")
        self._losses: list[float] = []
        self._pending: list[torch.Tensor] = []

    def run(self) -> StageRecord:
        """Train the student."""
        trainer, student, report = self._trainer, self._task.student, self._context.report
        trainer.args = self._arguments(trainer.args)
        trainer.model_init = lambda: cast(Any, student)
        trainer.loss_is_scaled_for_ga = False
        with (
            tempfile.TemporaryDirectory() as directory,
            plain_forward(student),
            training_only(student, [""]),
            self._recorder,
        ):
            report.stage(self.stage.name, self._steps())
            trainer.train(resume_from_checkpoint=self._state_to_resume(Path(directory)))
        self._read_losses()
        report.finished(self.stage.name, self._losses)
        steps = trainer.state.global_step
        return StageRecord(self.stage.name, self._losses[0], self._losses[-1], mode="Trainer", steps=steps)

    def _arguments(self, configured: Any) -> Any:
        """The trainer's arguments for one student: it writes no checkpoints, and logs to the trial's directory."""
        args = copy.copy(configured)
        args.save_strategy = "steps"
        args.save_steps = self._checkpoint.every
        args.load_best_model_at_end = False
        args.push_to_hub = False
        args._n_gpu = min(configured.n_gpu, 1)  # one process drives one GPU
        if self._context.directory is not None:
            args.output_dir = str(self._context.directory)
        if self._max_steps is not None:
            args.max_steps = self._max_steps
        return args

    def _steps(self) -> int:
        values = self._trainer.set_initial_training_values(self._trainer.args, self.loader)
        return int(values[-1])

    def _state_to_resume(self, directory: Path) -> str | None:
        """A directory with the state from which the trainer resumes an interrupted run; None for a new run."""
        saved = self._checkpoint.checkpoints.load(self._checkpoint.name)
        if saved is None:
            return None
        state = saved[1]["others"]["trainer"]["json"]
        if state["max_steps"] != self._steps():  # that of a student that was finished with another number
            return None
        if self._task.processes.count == 1:
            self._task.reader()(len(saved[1]["losses"]))
        (directory / TRAINER_STATE_NAME).write_text(json.dumps(state), encoding="utf-8")
        if has_length(self.loader):
            updates = math.ceil(len(self.loader) / self._trainer.args.gradient_accumulation_steps)
            self.loader.set_epoch(state["global_step"] // updates)
        return str(directory)

    def save(self) -> None:
        """Write the student, the matchers, the optimizer and the schedule after an update."""
        self._read_losses()
        if self._task.processes.is_main:
            self._checkpoint.save(self._losses, self._optimizer, self._others)

    def restore(self) -> None:
        """Restore what `save` wrote."""
        self._losses = self._checkpoint.restore(self._optimizer, self._others)

    @property
    def _optimizer(self) -> torch.optim.Optimizer:
        optimizer: Any = self._trainer.optimizer
        return optimizer  # type: ignore[no-any-return]

    @property
    def _others(self) -> dict[str, Any]:
        others: dict[str, Any] = {"schedule": self._trainer.lr_scheduler, "trainer": _TrainerState(self._trainer)}
        scaler = getattr(self._trainer.accelerator, "scaler", None)
        return others if scaler is None else others | {"scaler": scaler}

    def step(self, train: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Train on one batch, whose dropout depends only on its number; average the gradients of the matchers."""
        number = len(self._losses) + len(self._pending)
        device = self._trainer.args.device
        seed_torch(derive_seed(self._context.seed, "regular", number, self._task.processes.rank), device)
        loss = train()
        if self.matchers and self._trainer.accelerator.sync_gradients:
            self._task.processes.average_gradients(self.matchers, loss)
        self._pending.append(loss.detach() * self._trainer.current_gradient_accumulation_steps)
        if len(self._pending) == CHECK_EVERY:
            self._read_losses()
            self._context.report.step(self._trainer.state.global_step, self._losses[-1])
        return loss

    def _read_losses(self) -> None:
        """Read the losses of the last steps, which waits for the device."""
        if self._pending:
            self._losses.extend(torch.stack(self._pending).tolist())
            recent, self._pending = self._losses[-len(self._pending) :], []
            bad = next((loss for loss in recent if not math.isfinite(loss)), None)
            if bad is not None:
                step = self._trainer.state.global_step
                raise NonFiniteError(
                    f"the loss must stay finite, but became {bad} near step {step} of {self.stage.name}."
                )

    def loss(self, inputs: Any, forward: Callable[[], tuple[torch.Tensor | None, Any]]) -> tuple[torch.Tensor, Any]:
        """The criterion on one batch, and the student's own loss if the stage adds it.

        Args:
            inputs: the batch.
            forward: runs the student; returns its own loss, which may be None if it is not added, and its outputs.
        """
        batch = Batch(dict(inputs))
        returned: list[tuple[torch.Tensor | None, Any]] = []
        student = self._recorder.run(lambda: returned.append(forward()))
        own_loss, outputs = returned[0]
        teacher = self._task.cache.outputs(batch, self.stage.teacher_taps, self.stage.top_k)
        progress = self._trainer.state.global_step / max(self._trainer.state.max_steps, 1)
        temperature = temperature_at(self.stage.settings.temperature, progress)
        output = {"loss": own_loss, "logits": main_part(outputs)}
        step = TrainingStep(batch, temperature, output)
        loss = self._task.criterion.step_loss(student, teacher, step)
        if not self.stage.add_origin_loss and self._task.processes.count > 1:
            # Every parameter that the outputs depend on must receive a gradient, even if it is zero.
            loss = loss + 0 * sum(t.float().sum() for t in tensors_in(outputs) if t.requires_grad)
        return loss, outputs
