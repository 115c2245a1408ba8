"""One trial: build the student, train it, evaluate and measure it, save it.

Every trial runs through `run_trial`. It reads only its arguments, so that it can run in this process or in any other.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodistill.file_hashes import folder_hashes
from autodistill.frameworks.framework import Framework
from autodistill.json_files import encode_json
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.metric import Metric, metric_values, named_values
from autodistill.remote_files import RemoteFiles
from autodistill.search.layout import LOSSES_FILE, STUDENT, checkpoint_directory
from autodistill.search.progress import LossRecorder
from autodistill.search.trial import Trial
from autodistill.search.trial_checkpoints import take_over
from autodistill.seeds import derive_seed
from autodistill.training import BlockWorkers, NoReport, Training, TrainingContext, TrainingReport
from search_spaces import Architecture, SearchSpace

if TYPE_CHECKING:
    from autodistill.processes import Processes


@dataclass(frozen=True)
class TrialSpec:
    """The settings that all trials of a search share; everything random in them derives from the seed.

    Args:
        framework: builds, evaluates, measures and saves.
        training: trains.
        search_space: of the architectures.
        metrics: to be evaluated or measured in every trial.
        seed: of the search.
        processes: train together; only process 0 evaluates and saves.
        promote: the share of trials that is trained to the end; the others end after flash distillation. None for all.
        saves_students: students are written into the trial's folder.
        report: receives the progress of the training.
        storage: of checkpoints and students; None for the search directory.
        block_workers: makes what trains the blocks of a student, from its architecture and the seed of its training;
            None trains them where the trial runs.
    """

    framework: Framework
    training: Training
    search_space: SearchSpace
    metrics: tuple[Metric, ...]
    seed: int
    processes: Processes
    promote: float | None = None
    saves_students: bool = True
    report: TrainingReport = field(default_factory=NoReport)
    storage: RemoteFiles | None = None
    block_workers: Callable[[Architecture, int], BlockWorkers] | None = None

    def ends_after_flash(self, trial: Trial) -> bool:
        """Whether the part of a trial that is due ends after flash distillation."""
        return self.promote is not None and not trial.after_flash

    def for_another_process(self, *, with_files: bool = False) -> TrialSpec:
        """A copy without the display, which belongs to this process.

        Args:
            with_files: with the files that the training has written for all trials; they are not needed by a process
                that reads the same disk.
        """
        return replace(self, report=NoReport(), training=self.training.for_another_process(with_files=with_files))


@dataclass(frozen=True)
class Outcome:
    """The outcome of a trial.

    Args:
        metrics: the values by name.
        details: of training and timing, as JSON.
        student: the hash of each file of the student, if it was saved.
        files: the content of what was written, by path in the folder of the trial, where the driver cannot read it.
    """

    metrics: dict[str, float] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    student: dict[str, str] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict, repr=False)


def run_trial(spec: TrialSpec, trial: Trial) -> Outcome:
    """Build, train, evaluate, measure and save one student, or do the part of this that is due.

    Args:
        spec: the settings that all trials of the search share.
        trial: its architecture and its folder. An interrupted training resumes from the checkpoints in the folder, and
            the student is saved beside those of this start; without a folder nothing is written.

    Returns:
        The metrics of `eval_func`, and the built-in ones that it did not return; nothing in processes other than 0.

    Raises:
        TrialError: a hook returned an invalid value or called `sys.exit`; NonFiniteError for a metric that is NaN or
            infinite.
        TeacherChangedError: a hook changed the teacher's weights.
        ValueError: the details of the training or of a measurement are not JSON.
        Exception: any exception that a hook raises.
    """
    with spec.framework.isolated(verified=True):
        return _outcome(spec, trial)


def _outcome(spec: TrialSpec, trial: Trial) -> Outcome:
    framework, processes = spec.framework, spec.processes
    seed = derive_seed(spec.seed, "training", spec.search_space.key(trial.architecture))
    flash_only = spec.ends_after_flash(trial)
    folder = student_of_start(trial) if spec.saves_students and trial.directory is not None else None
    with processes.together():
        student = framework.build(trial.architecture)
        framework.check_teacher()  # before its features are computed, and kept
        shapes = framework.tensor_shapes(student) if folder is not None else None
        with framework.random_state(seed):
            trained = spec.training.train(student, _context(spec, trial, seed, flash_only))
        model = framework.finish(trained.model, shapes)
    if not processes.is_main:
        return Outcome()
    metrics, errors = metric_values(named_values(framework.evaluate(model, seed), spec.metrics), "eval_func returned")
    if errors:
        raise errors[0]
    details: dict[str, Any] = {}
    if trained.stages:
        details["distillation"] = [stage.to_json() for stage in trained.stages]
    missing = [metric.name for metric in spec.metrics if metric.name in BUILT_IN and metric.name not in metrics]
    if missing:
        measurement = framework.measure(model, missing)
        metrics |= measurement.metrics
        details |= measurement.details
    encode_json(details)  # what cannot be recorded fails the trial here
    if folder is None or flash_only:
        return Outcome(metrics, details)
    folder.parent.mkdir(parents=True, exist_ok=True)
    framework.save(model, trial.architecture, folder)
    return Outcome(metrics, details, folder_hashes(folder))


def _context(spec: TrialSpec, trial: Trial, seed: int, flash_only: bool) -> TrainingContext:
    workers = None if spec.block_workers is None else spec.block_workers(trial.architecture, seed)
    if trial.directory is None:
        return TrainingContext(seed, spec.report, flash_only=flash_only, block_workers=workers)
    report = LossRecorder(trial.directory / LOSSES_FILE, spec.report)
    checkpoints = take_over(trial.directory, trial.starts)
    return TrainingContext(seed, report, checkpoints, trial.directory, flash_only, workers)


def student_of_start(trial: Trial) -> Path:
    """Where a start of a trial saves the student, until the trial is recorded as complete."""
    assert trial.directory is not None
    return checkpoint_directory(trial.directory, trial.starts) / STUDENT


def written_files(trial: Trial, *, student: bool) -> dict[str, bytes]:
    """The content of what a trial has written, by path in its folder: the losses, and the student if asked for."""
    assert trial.directory is not None
    folder = student_of_start(trial)
    files = [trial.directory / LOSSES_FILE, *(folder.rglob("*") if student and folder.exists() else ())]
    return {file.relative_to(trial.directory).as_posix(): file.read_bytes() for file in files if file.is_file()}


def missing_metrics(metrics: tuple[Metric, ...], outcome: Outcome) -> str | None:
    """The message about metrics that an outcome lacks, which is a mistake in the set-up, not in the trial."""
    missing = [metric.name for metric in metrics if metric.name not in outcome.metrics]
    if not missing:
        return None
    return (
        f"eval_func must return every metric that is not built in, but {', '.join(map(repr, missing))} is "
        f"missing; it returned {', '.join(map(repr, outcome.metrics)) or 'nothing'}, and the built-in ones are "
        f"{', '.join(BUILT_IN)}."
    )
