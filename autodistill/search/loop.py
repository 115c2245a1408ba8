"""The loop over the trials of a search directory: take the next trial, run it, write it down, and again."""

from __future__ import annotations

import logging
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Literal

from advisors import SpaceExhaustedError
from autodistill.config import SearchConfig
from autodistill.errors import ConfigurationError, SearchStoppedError
from autodistill.files import remove
from autodistill.frameworks.student_files import save_student
from autodistill.search.directory import SearchDirectory
from autodistill.search.progress import Progress
from autodistill.search.promotion import best_paused, promotable
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState
from autodistill.search.trial_report import TrialReport
from autodistill.search.trial_runner import Outcome, TrialRunner
from search_spaces import Architecture

logger = logging.getLogger(__name__)


CHECKPOINT = "checkpoint"


@dataclass(frozen=True)
class Policy:
    """What becomes of students and of failures.

    Args:
        keep: which trained students stay on disk: those on the Pareto front, all, or none.
        max_retries: how often an interrupted trial is begun again before it counts as failed.
        max_consecutive_failures: so many failed trials in a row stop the search.
    """

    keep: Literal["pareto", "all", "none"]
    max_retries: int
    max_consecutive_failures: int


@dataclass
class TrialLoop:
    """Runs trials until the search ends; what comes next follows from the trials that are recorded.

    Args:
        directory: held by this process.
        search: the metrics, and the share of trials that is promoted.
        policy: of students and failures.
        propose: gives the architecture of the next trial.
        make_runner: called for each trial, since hooks may have been assigned meanwhile.
        progress: told of everything.
    """

    directory: SearchDirectory
    search: SearchConfig
    policy: Policy
    propose: Callable[[], Architecture]
    make_runner: Callable[[], TrialRunner]
    progress: Progress
    _total: int = field(init=False)
    _deadline: float = field(init=False)
    _patience: float = field(init=False)
    _checked: bool = field(init=False)
    _exhausted: bool = field(init=False, default=False)

    def run(self, n_trials: int | None, timeout: float | None, patience: int | None) -> Iterator[Trial]:
        """Run trials, and give each when it is recorded as complete, failed or paused.

        Args:
            n_trials: so many more; None for as many as the directory lacks of `max_trials`.
            timeout: begin none after so many seconds.
            patience: propose no architecture when the front has not changed for so many trials.

        Raises:
            SearchStoppedError: too many failed in a row.
        """
        result = self._result
        done = len(result.tried)
        self._total = self.search.max_trials if n_trials is None else done + n_trials
        self._deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._patience = math.inf if patience is None else patience
        self._checked = any(trial.is_measured for trial in result)
        if done:
            logger.info("resuming the search in %s, which holds %d finished trials", self.directory.path, done)
        self.progress.search_started(self._total, done)
        failures = 0
        while (begun := self._next()) is not None:
            trial, error = self._run(begun)
            yield trial
            failures = 0 if error is None else failures + 1
            if failures >= self.policy.max_consecutive_failures:
                raise SearchStoppedError(
                    f"the search stops when {failures} trials fail in a row (max_consecutive_failures), "
                    f"and they did; the last with {type(error).__name__}: {error} "
                    f"Mend the cause, then resume {self.directory.path}."
                ) from error

    @property
    def _result(self) -> SearchResult:
        return SearchResult(self.directory.trials(), self.search.metrics)

    def _next(self) -> Trial | None:
        """An interrupted trial begun again, a paused one promoted, or a new one; None at the end.

        Where nothing is complete in the end, the best of the paused is promoted all the same: there is to be a best.
        """
        trial = None
        if time.monotonic() < self._deadline:
            trial = self._interrupted() or self._promoted() or self._new()
        if trial is None and not self._result.completed:
            paused = best_paused(self._result)
            trial = self.directory.promote(paused) if paused is not None else None
        return trial

    def _interrupted(self) -> Trial | None:
        for trial in self.directory.interrupted():
            if not trial.after_flash and len(self._result.tried) >= self._total:
                continue
            if trial.attempts <= self.policy.max_retries:
                self._check(trial.architecture)
                return self.directory.take_over(trial)
            self.directory.record(
                trial.fail(f"it was interrupted {trial.attempts} times, and max_retries is {self.policy.max_retries}")
            )
        return None

    def _promoted(self) -> Trial | None:
        trial = promotable(self._result, self.search.promote)
        return self.directory.promote(trial) if trial is not None else None

    def _new(self) -> Trial | None:
        result = self._result
        if self._exhausted or len(result.tried) >= self._total:
            return None
        if result.unchanged_for >= self._patience:
            logger.info("the search ends: the front has not changed for %d trials (patience)", self._patience)
            return None
        try:
            architecture = self.propose()
        except SpaceExhaustedError as exhausted:
            logger.warning("the search ends before %d trials: %s", self._total, exhausted)
            self._exhausted = True
            return None
        self._check(architecture)
        return self.directory.claim(architecture)

    def _check(self, architecture: Architecture) -> None:
        """Before the first trial: the distillation settings against the first student that can be built and run."""
        if not self._checked:
            self._checked = self.make_runner().check(architecture)
            if self._checked and self.search.promote is not None:
                self.make_runner().warn_of_promotion(architecture)

    def _run(self, trial: Trial) -> tuple[Trial, Exception | None]:
        """Run one trial, or the part of it that is due, and record it; with the error where it failed."""
        self.progress.trial_started(trial)
        runner, failure = self.make_runner(), None
        flash_only = self.search.promote is not None and not trial.after_flash
        folder = self.directory.trial_directory(trial.number)
        report = TrialReport(self.progress, folder)
        try:
            key = self.search.search_space.key(trial.architecture)
            runner.processes.broadcast({"train": trial.architecture, "flash_only": flash_only})
            outcome = runner.run(trial.architecture, key, report, folder / CHECKPOINT, flash_only=flash_only)
        except Exception as error:
            failure = error
            trial = trial.fail("".join(traceback.format_exception(error)))
            logger.warning("trial %d failed: %s: %s", trial.number, type(error).__name__, error)
            self.directory.record(trial)
        except BaseException:
            self._interrupt(trial)
            raise
        else:
            try:
                runner.check_metrics(outcome)
            except ConfigurationError:
                self._interrupt(trial)
                raise
            trial = self._pause(trial, outcome) if flash_only else self._complete(trial, outcome)
        if trial.state is not TrialState.PAUSED:  # a promoted trial goes on from its checkpoint
            shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        self.progress.trial_finished(trial)
        return trial, failure

    def _interrupt(self, trial: Trial) -> None:
        """Leave a trial to be begun again; an orderly interruption counts as no attempt."""
        self.directory.record(replace(trial, attempts=trial.attempts - 1))

    def _pause(self, trial: Trial, outcome: Outcome) -> Trial:
        trial = trial.pause(outcome.metrics, outcome.details)
        self.directory.record(trial)
        return trial

    def _complete(self, trial: Trial, outcome: Outcome) -> Trial:
        """Save the student before its trial counts as complete, then remove those that are no longer wanted."""
        trial = trial.complete(outcome.metrics, outcome.details)
        others = [other for other in self.directory.trials() if other.number != trial.number]
        result = SearchResult([*others, trial], self.search.metrics)
        wanted = {"all": result.completed, "pareto": result.pareto_front, "none": []}[self.policy.keep]
        if trial in wanted:
            save_student(outcome.student, trial.architecture, self.directory.student_directory(trial.number))
        self.directory.record(trial)
        for other in result.completed:
            if other not in wanted:
                remove(self.directory.student_directory(other.number))
        return trial
