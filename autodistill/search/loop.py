"""The loop over the trials of a search: start trials while an executor has room, record each that ends, repeat.

The driver, the process that runs the loop, is the only one that proposes, records, and removes what is not kept.
"""

from __future__ import annotations

import logging
import math
import time
import traceback
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Literal

from advisors.errors import SpaceExhaustedError
from autodistill.errors import (
    ConfigurationError,
    SearchDirectoryError,
    SearchStoppedError,
    StorageError,
    TeacherChangedError,
    text_of,
)
from autodistill.files import replacing
from autodistill.interrupts import raise_if_interrupted
from autodistill.machine_faults import machine_fault
from autodistill.search.directory import SearchDirectory
from autodistill.search.executors import Executor, WorkerInterruptedError, WorkerLostError, WorkersFailedError
from autodistill.search.layout import ELASTIC, LOSSES_FILE
from autodistill.search.progress import LossRecorder, Progress
from autodistill.search.promotion import best_paused, promotable, rung_result
from autodistill.search.proposals import Proposals
from autodistill.search.result import SearchResult
from autodistill.search.run_trial import Outcome, TrialSpec, missing_metrics, run_trial
from autodistill.search.stored_trial import run_stored_trial
from autodistill.search.trial import CHOSEN, Trial, TrialState
from autodistill.search.trial_timeout import reported_after
from autodistill.search.untrained_bounds import UntrainedBounds
from search_spaces import Architecture

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """How students and failures are handled.

    Args:
        keep: which trained students stay on disk: those on the Pareto front, all, or none, and those of `finish`.
        max_retries: how often an interrupted trial is started again before it counts as failed.
        max_consecutive_failures: this many failed trials in a row stop the search.
        trial_timeout: seconds after which a trial that runs in this process is reported with the stacks of all threads;
            None never.
        promotes_last: no trial is promoted while there are new ones to start: a first rung that costs seconds is
            completed before the best are chosen.
    """

    keep: Literal["pareto", "all", "none"]
    max_retries: int
    max_consecutive_failures: int
    trial_timeout: float | None = None
    promotes_last: bool = False


@dataclass(frozen=True)
class Limits:
    """When a search ends.

    Args:
        trials: the number of trials in the directory at which it ends; infinite for as many as there are architectures.
        seconds: after this time no further trial is started.
        patience: no architecture is proposed when the front has not changed for this many trials.
        promotes: whether paused trials are finished.
    """

    trials: float
    seconds: float = math.inf
    patience: float = math.inf
    promotes: bool = True


@dataclass
class _Running:
    """The trials that an executor runs, and those of them that have ended and are not recorded yet."""

    trials: dict[int, Trial] = field(default_factory=dict)
    ended: SimpleQueue[tuple[Trial, Future[Outcome]]] = field(default_factory=SimpleQueue)

    def add(self, trial: Trial) -> None:
        self.trials[trial.number] = trial

    def follow(self, trial: Trial, future: Future[Outcome]) -> None:
        """Note when the trial ends, in whatever thread it does."""
        future.add_done_callback(lambda ended: self.ended.put((trial, ended)))

    def next(self) -> tuple[Trial, Future[Outcome]]:
        """The next trial that ends; it counts as running until it is recorded."""
        return self.ended.get()

    def __len__(self) -> int:
        return len(self.trials)


class SearchLoop:
    """Runs trials until the search ends; the next trial follows from those that are recorded.

    Args:
        directory: held by this process.
        spec: what the trials have in common; may be replaced between trials.
        proposals: the source of architectures.
        bounds: checks those that the advisor proposes.
        executor: runs the trials, as many at the same time as it has slots.
        policy: how students and failures are handled.
        progress: receives all events.
    """

    def __init__(
        self,
        directory: SearchDirectory,
        spec: TrialSpec,
        proposals: Proposals,
        bounds: UntrainedBounds,
        executor: Executor,
        policy: Policy,
        progress: Progress,
    ) -> None:
        self.directory = directory
        self.spec = spec
        self.proposals = proposals
        self.bounds = bounds
        self.executor = executor
        self.policy = policy
        self.progress = progress
        # Whether the settings were checked against a student: a trial that was measured shows that they fit.
        self._checked = any(trial.is_measured and not trial.added for trial in self.result)
        self._exhausted = False  # whether the space is
        self._running = _Running()
        self._stopping = False
        # The numbers of the trials that may have a student on disk: a kill may have left any.
        self._with_students = {trial.number for trial in self.result}

    @property
    def result(self) -> SearchResult:
        """The trials so far."""
        return self.directory.result

    def run(self, limits: Limits) -> Generator[Trial]:
        """Run trials, and yield each when it is recorded as complete, failed or paused.

        Raises:
            ConfigurationError: the settings do not fit the first student, or `eval_func` does not return every metric.
            SearchStoppedError: too many failed in a row.
            TeacherChangedError: a hook changed the teacher; the trial may be run again.
        """
        done = len(self.result.tried)
        self._limits, self._stopping = limits, False
        self._deadline = time.monotonic() + limits.seconds
        if done:
            logger.info("resuming the search in %s, which holds %d finished trials", self.directory.path, done)
        space = self.spec.search_space
        self._remove_students()
        self.progress.search_started(int(min(limits.trials, space.size or space.grid_size or math.inf)), done)
        failures = 0
        try:
            while self._start_trials():
                trial, error = self._record_next()
                if trial.state is TrialState.RUNNING:  # it is started again
                    continue
                self.progress.trial_finished(trial)
                yield trial
                failures = 0 if error is None else failures + 1
                if error is not None and failures >= self.policy.max_consecutive_failures:
                    raise SearchStoppedError(
                        f"the search stops when {failures} trials fail in a row (max_consecutive_failures), "
                        f"and they did; the last with {text_of(error)} "
                        f"Fix the cause, then resume {self.directory.path}."
                    ) from error
        finally:
            self._interrupt_running()

    def stop(self) -> None:
        """Start no further trial; those that run are recorded when they end."""
        self._stopping = True

    # --- the next trial ---

    def _start_trials(self) -> bool:
        """Start trials while there is room for them; returns whether any is running."""
        while len(self._running) < self.executor.slots and (trial := self._next()) is not None:
            self._submit(trial)
        return len(self._running) > 0

    def _next(self) -> Trial | None:
        """An interrupted trial started again, a paused one promoted, or a new one; None at the end.

        If no trial is complete at the end, the best paused one is promoted anyway, so that there is a best trial.
        """
        trial = None
        if self._stopping:
            return None
        if time.monotonic() < self._deadline:
            trial = self._interrupted()
            if self.policy.promotes_last:
                trial = trial or self._new() or self._promoted()
            else:
                trial = trial or self._promoted() or self._new()
        if trial is None and not self._running and not self.result.completed and self._limits.promotes:
            paused = best_paused(self.result)
            trial = self.directory.promote(paused) if paused is not None else None
        return trial

    def _interrupted(self) -> Trial | None:
        for trial in self.directory.interrupted:
            if trial.number in self._running.trials or (not trial.after_flash and self._has_all_trials):
                continue
            if trial.attempts <= self.policy.max_retries or self.directory.has_progressed(trial):
                self._prepare(trial.architecture)
                return self.directory.retry(trial)
            reason = f"it was interrupted {trial.attempts} times, and max_retries is {self.policy.max_retries}"
            self._record_failure(trial, reason)
        return None

    def _promoted(self) -> Trial | None:
        in_first_rung = any(map(self.spec.ends_after_flash, self._running.trials.values()))
        if not self._limits.promotes or (self.policy.promotes_last and in_first_rung):
            return None
        trial = promotable(self.result, self.spec.promote)
        return self.directory.promote(trial) if trial is not None else None

    @property
    def _has_all_trials(self) -> bool:
        """Whether as many trials as the limit allows are finished, paused or running."""
        new = [trial for trial in self._running.trials.values() if not trial.after_flash]
        return len(self.result.tried) + len(new) >= self._limits.trials

    def _new(self) -> Trial | None:
        if self._exhausted or self._has_all_trials:
            return None
        if self._limits.patience < math.inf and self._unchanged_for >= self._limits.patience:
            if not self._running:
                logger.info(
                    "the search ends: the front has not changed for %d trials (patience)", self._limits.patience
                )
            return None
        try:
            architecture = self.proposals.next(self.result, partial(self.bounds.keeps, self.spec))
        except SpaceExhaustedError as exhausted:
            # for_limit only chooses among slices: when all are evaluated, nothing ended early.
            if self._limits.promotes and self._limits.trials < math.inf:
                logger.warning("the search ends before %d trials: %s", self._limits.trials, exhausted)
            self._exhausted = True
            return None
        self._prepare(architecture)
        return self.directory.begin(architecture)

    @property
    def _unchanged_for(self) -> int:
        """How many trials have not changed the front; of slices, the front of the first rung."""
        return (rung_result(self.result) if self.policy.promotes_last else self.result).unchanged_for

    def _prepare(self, architecture: Architecture) -> None:
        """Check the settings, and train what all students share, before a trial starts."""
        self._check(architecture)
        losses = self.directory.path / ELASTIC / LOSSES_FILE
        with self.spec.framework.isolated(verified=True):
            self.spec.training.prepare(LossRecorder(losses, self.progress, continues=True))

    def _check(self, architecture: Architecture) -> None:
        """Before the first trial, check the settings against the first student that can be built and run."""
        if self._checked:
            return
        framework = self.spec.framework
        try:
            with framework.isolated():
                student = framework.build(architecture)
                framework.check_teacher()
                self.spec.training.check(student)
        except (ConfigurationError, SearchStoppedError):
            raise
        except Exception as error:  # its trial meets the same error, and handles it; the next student is checked
            logger.debug("the settings could not be checked against %s: %s", architecture, error)
        else:
            self._checked = True

    def finish(self, architecture: Architecture, *, again: bool = True) -> Trial:
        """Train the student of an architecture to the end, whatever its trial has done before, and record it.

        Args:
            architecture: of the space.
            again: False leaves a trained student that is on disk as it is.

        Raises:
            SearchStoppedError: the trial fails.
        """
        self._prepare(architecture)
        key = self.spec.search_space.key(architecture)
        trial = next((one for one in self.result if self.spec.search_space.key(one.architecture) == key), None)
        if trial is None:
            trial = self.directory.begin(architecture)
        done = trial.state is TrialState.COMPLETE and self.directory.student_directory(trial.number).exists()
        if done and not again:
            self.directory.record(trial := replace(trial, details={**trial.details, CHOSEN: True}))
            return trial
        before = trial
        if trial.state not in (TrialState.PAUSED, TrialState.RUNNING):
            trial = trial.reopen()
        trial = replace(trial, added=False, details={**trial.details, CHOSEN: True})
        self.directory.record(trial)
        error = None
        if trial.state is not TrialState.PAUSED:
            trial, error = self._run_alone(self.directory.retry(trial))
        if trial.state is TrialState.PAUSED:
            trial, error = self._run_alone(self.directory.promote(trial))
        self.progress.trial_finished(trial)
        if error is not None and before.state is TrialState.COMPLETE:
            self.directory.record(before)  # its student is still there
        if error is not None:
            raise SearchStoppedError(f"the student must be trained to the end, but {text_of(error)}") from error
        return trial

    # --- running and recording it ---

    def _run_alone(self, trial: Trial) -> tuple[Trial, Exception | None]:
        """Run one trial while no other runs, and record it; also returns the error if it failed."""
        try:
            self._submit(trial)
            return self._record_next()
        finally:
            self._interrupt_running()

    def _submit(self, trial: Trial) -> None:
        self.progress.trial_started(trial)
        self._running.add(trial)
        with reported_after(self.policy.trial_timeout, f"trial {trial.number}"):  # a serial executor runs it here
            run = run_trial if self.spec.storage is None else run_stored_trial
            future = self.executor.submit(run, self.spec, trial)
        self._running.follow(trial, future)

    def _record_next(self) -> tuple[Trial, Exception | None]:
        """Record the next trial that ends, or the part of it that was due; also returns the error if it failed.

        One whose worker was lost is left to be started again. A fault of the machine is raised, and leaves it, too.
        """
        trial, future = self._running.next()
        error = future.exception()
        raise_if_interrupted()  # also if a hook went on, or a process of its own failed by the signal
        if isinstance(error, WorkerLostError | WorkerInterruptedError):
            logger.warning("trial %d is started again from its last checkpoint: %s", trial.number, error)
            del self._running.trials[trial.number]
            if isinstance(error, WorkerInterruptedError):
                self._interrupt(trial)
            return trial, None
        if isinstance(error, TeacherChangedError):
            self.directory.remove_checkpoints(trial)  # they may stem from the changed teacher
        fault = machine_fault(error)
        if fault is not None and fault.may_be_caused:
            del self._running.trials[trial.number]  # its attempt counts
        if error is not None and (fault is not None or isinstance(error, TeacherChangedError | WorkersFailedError)):
            raise error
        problem = None if error is not None else missing_metrics(self.spec.metrics, future.result())
        if problem is not None:
            raise ConfigurationError(problem)
        del self._running.trials[trial.number]
        if isinstance(error, Exception):
            return self._fail(trial, error), error
        self._write_files(trial, future.result())
        if self.spec.ends_after_flash(trial):
            return self._pause(trial, future.result()), None
        return self._complete(trial, future.result()), None

    def _write_files(self, trial: Trial, outcome: Outcome) -> None:
        """Write what a worker without access to this disk has written on its own."""
        for name, content in outcome.files.items():
            path = self.directory.trial_directory(trial.number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as temporary:
                temporary.write_bytes(content)

    def _interrupt_running(self) -> None:
        """End the trials that still run, after a checkpoint if possible, and leave them to be started again."""
        if self._running:
            self.executor.interrupt()
        for trial in self._running.trials.values():
            self._interrupt(trial)
        self._running = _Running()

    def _interrupt(self, trial: Trial) -> None:
        """Leave a trial to be started again; an orderly interruption does not count as an attempt."""
        try:
            self.directory.record(replace(trial, attempts=trial.attempts - 1))
        except SearchDirectoryError as error:  # what interrupts the trial may be a full disk
            logger.warning("the interruption of trial %d counts as an attempt: %s", trial.number, error)

    def _fail(self, trial: Trial, error: Exception) -> Trial:
        logger.warning("trial %d failed: %s", trial.number, text_of(error))
        trial = self._record_failure(trial, "".join(traceback.format_exception(error)))
        traceback.clear_frames(error.__traceback__)  # they hold the student, whose memory the next trial needs
        return trial

    def _record_failure(self, trial: Trial, error: str) -> Trial:
        trial = trial.fail(error)
        self.directory.record(trial)
        self.directory.remove_checkpoints(trial)
        return trial

    def _pause(self, trial: Trial, outcome: Outcome) -> Trial:
        """Record a paused trial; it keeps its checkpoints and resumes from them once promoted."""
        trial = trial.pause(outcome.metrics, outcome.details)
        self.directory.record(trial)
        return trial

    def _complete(self, trial: Trial, outcome: Outcome) -> Trial:
        """Record a trial whose student has been saved, and remove the students that are not kept."""
        if outcome.student:
            self.directory.take_student(trial)
        trial = trial.complete(outcome.metrics, outcome.details, outcome.student)
        self.directory.record(trial)
        self.directory.remove_checkpoints(trial)
        self._with_students.add(trial.number)
        self._remove_students()
        return trial

    def _remove_students(self) -> None:
        """Remove the students that are not kept."""
        numbers = {trial.number for trial in self._kept()}
        for number in self._with_students - numbers:
            try:
                self.directory.remove_student(number)
            except (OSError, StorageError) as error:
                logger.warning("the student of trial %d is not kept, but could not be removed: %s", number, error)
        self._with_students = numbers

    def _kept(self) -> list[Trial]:
        """The trials whose students stay on disk."""
        if self.policy.keep == "all":
            return self.result.completed
        chosen = [trial for trial in self.result.completed if trial.details.get(CHOSEN)]
        return [*self.result.pareto_front, *chosen] if self.policy.keep == "pareto" else chosen
