"""The contract between a search and the training of a student. No torch is imported here.

`Training` is what `run_trial` calls: the built-in `Distiller`, a user's `train_func`, a trainer of another library.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol


class TrainingReport(Protocol):
    """Receives the progress of a trial's training while it runs."""

    def stage(self, name: str, steps: int) -> None:
        """A stage of `steps` optimizer steps begins."""

    def step(self, step: int, loss: float) -> None:
        """`step` steps of the stage are done; `loss` is that of the last one."""

    def finished(self, name: str, losses: Sequence[float]) -> None:
        """A stage is done; `losses` holds the loss of every step."""


class NoReport:
    """A report that is discarded."""

    def stage(self, name: str, steps: int) -> None:
        """Nothing."""

    def step(self, step: int, loss: float) -> None:
        """Nothing."""

    def finished(self, name: str, losses: Sequence[float]) -> None:
        """Nothing."""


@dataclass(frozen=True)
class StageRecord:
    """How one stage of a training went; part of the trial's record.

    Attributes:
        stage: its name.
        first_loss: the loss of its first step.
        last_loss: the loss of its last step.
        mode: how it ran, such as `"replay"`; None if there is only one way.
        reason: why it did not run in the cheapest way; None if it did.
        steps: optimizer updates, if their number is not the configured one.
    """

    stage: str
    first_loss: float
    last_loss: float
    mode: str | None = None
    reason: str | None = None
    steps: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields that have a value, for a JSON file.

        Examples:
            >>> record = StageRecord("encoder.layer.0", 1.5, 0.25, mode="replay")
            >>> StageRecord(**record.to_json()) == record
            True
        """
        return {name: value for name, value in asdict(self).items() if value is not None}


class TrainedBlocks(NamedTuple):
    """Blocks of a student that a worker has trained.

    Attributes:
        stages: their positions among those of the plan.
        tensors: their parameters and buffers.
        losses: the loss of each for every batch.
    """

    stages: Sequence[int]
    tensors: Mapping[str, Any]
    losses: Any


class BlockWorkers(Protocol):
    """Workers that train the blocks of one student, all at the same time."""

    def train(self, sizes: Sequence[int]) -> list[TrainedBlocks]:
        """Train all blocks.

        Args:
            sizes: the number of parameters of each stage, by which the work is divided.
        """


@dataclass(frozen=True)
class TrainingContext:
    """What a training needs besides the student.

    Attributes:
        seed: everything random in the training of this student derives from it.
        report: receives progress.
        checkpoint_directory: an interrupted training resumes from here; None keeps no checkpoints. It is created when
            the first one is written.
        directory: of the trial, for logs; None writes none.
        flash_only: stop after flash distillation, or with the slice of an elastic student; called again with the same
            directory, the training continues from there and ends with the same weights as a single call.
        block_workers: train the blocks that do not depend on each other; None trains them here.
    """

    seed: int
    report: TrainingReport = field(default_factory=NoReport)
    checkpoint_directory: Path | None = None
    directory: Path | None = None
    flash_only: bool = False
    block_workers: BlockWorkers | None = None


@dataclass(frozen=True)
class Trained:
    """What a training returns.

    Attributes:
        model: the trained student: the model that was passed in, or another one.
        stages: how it went, stage by stage.
    """

    model: Any
    stages: tuple[StageRecord, ...] = ()


class Training(Protocol):
    """Trains the students of a search."""

    @property
    def keeps_size(self) -> bool:
        """Whether the trained model has the parameters of the built one, in number and in shape.

        Metrics such as `parameters` are then known before a student is trained.
        """

    def check(self, student: Any) -> None:
        """Compare the settings with a student, before anything is trained.

        Raises:
            ConfigurationError: they do not fit the student; all mistakes in one error.
        """

    def prepare(self, report: TrainingReport) -> None:
        """Train what all students share, before the first trial; an interrupted training resumes."""

    def train(self, student: Any, context: TrainingContext) -> Trained:
        """Train one student."""

    def for_another_process(self, *, with_files: bool) -> Training:
        """What is sent to a process that trains students too.

        Args:
            with_files: with the files that `prepare` has written.
        """

    def place(self, folder: Path | None) -> None:
        """Called in a process that has received this training: put it on the device of this process.

        Args:
            folder: where files are kept from now on, since the disk is another one; None keeps them where they were.
        """

    def describe(self) -> dict[str, Any]:
        """What makes the results of two trainings comparable, as JSON: part of the record of a search.

        The settings are under `"distillation"`; what may differ with a warning is under `"environment"`, if present.
        """


@dataclass(frozen=True)
class FunctionTraining:
    """A training by the user's own function.

    Args:
        function: `student -> trained student`, or `student -> None` if it trains the student in place.
    """

    function: Callable[[Any], Any]

    keeps_size: ClassVar[bool] = False  # the function may prune

    def check(self, student: Any) -> None:
        """Nothing: there are no settings."""

    def prepare(self, report: TrainingReport) -> None:
        """Nothing: students share nothing."""

    def train(self, student: Any, context: TrainingContext) -> Trained:
        """Call the function, which receives neither the progress report nor the checkpoint directory."""
        trained = self.function(student)
        return Trained(student if trained is None else trained)

    def for_another_process(self, *, with_files: bool) -> FunctionTraining:
        """This training: nothing was written for all students."""
        return self

    def place(self, folder: Path | None) -> None:
        """Nothing: the function is placed by its author."""

    def describe(self) -> dict[str, Any]:
        """Functions cannot be compared."""
        return {"distillation": "train_func"}
