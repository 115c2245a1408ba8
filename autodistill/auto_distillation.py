"""The search: propose an architecture, build and distil the student, measure it, write it down, and again."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
import traceback
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from advisors import Advisor, AdvisorError, Observation, SpaceExhaustedError, as_advisor
from advisors.insight import importance, predict
from autodistill.config import AutoDistillationConfig
from autodistill.data import Batch, DataStream
from autodistill.display import Progress, make_progress
from autodistill.distillation.schedule import Distiller
from autodistill.environment import resolve_device
from autodistill.errors import ConfigurationError, SearchStoppedError
from autodistill.initialization.settings import InitializationConfig
from autodistill.observations import earlier_observations, measured_elsewhere, observation
from autodistill.processes import current_processes
from autodistill.randomness import derive_seed
from autodistill.search_directory import SearchDirectory
from autodistill.set_up import Given, argument_problems, describe_search, set_up_problems
from autodistill.students import load_student, remove_student, save_student
from autodistill.trial import SEARCH_FILE, TEACHER_CACHE, SearchResult, Trial, student_directory
from autodistill.trial_report import TrialReport
from autodistill.trial_runner import EvalFunction, ModelBuilder, Outcome, TrainFunction, TrialRunner
from autodistill.untrained_bounds import UntrainedBounds
from search_spaces import Architecture, SearchSpace, SearchSpaceError

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"

Callback = Callable[["AutoDistillation", Trial], None]


class AutoDistillation:
    """Finds and delivers small, fast students of a large teacher.

    A search lives in a directory. `search_loop` begins it or resumes it; what is recorded there is the truth, and
    `search_result` and `best_model_arch` are computed from it.

    Args:
        model_builder: `architecture -> student`. It is called in the same random state for every trial of a search, so
            that the same architecture is the same student.
        config: a mapping, the path of a YAML file, or an `AutoDistillationConfig`.
        teacher_model: needed by the built-in training and by the metric `speedup`; moved to the device, and put in
            eval mode when it is used.
        train_dataloader: gives batches again and again: mappings (keyword arguments) or pairs `(inputs, targets)`.
        train_func: `student -> trained student`; in place of the built-in distillation.
        eval_func: `student -> metrics`; gets the student in eval mode. Built-in metrics that it does not return are
            measured: latency, speedup, parameters, flops, size_mb.
        loss_func: `(outputs, targets) -> loss`, for students that return no loss of their own.
        search_dir: the search directory; made where it does not exist.
        advisor: an `Advisor`, a subclass, a function `(history, *, seed) -> architecture`, a function
            `seed -> sampler` that makes an Optuna sampler, or a registered name; overrides `search_algorithm`.
        device: "auto" is a GPU where there is one.
        callbacks: functions `(search, trial)`, called after each trial; `search.stop()` ends the search there.
        show_progress_bar: bars on a terminal, plain lines elsewhere.
        keep: which trained students stay on disk: those on the Pareto front, all, or none.
        max_retries: how often an interrupted trial is begun again before it counts as failed.
        max_consecutive_failures: so many failed trials in a row stop the search.
        teacher_cache_gb: the most disk that the teacher's features may take, in GiB.
        activation_budget_gb: the most memory for captured inputs and the teacher's features, in GiB; what does not fit
            goes to disk.
        activation_disk_gb: the most disk for captured inputs, in GiB; what does not fit is computed when needed.
        example_batch: what latency and FLOPs are measured with; the first training batch if not given.
        history_from: directories of earlier searches from which the advisor learns: complete trials in this search's
            space, with all its metrics. None of their architectures is proposed again, and none is ever the best.
        init: `"teacher"` lets students begin inside the teacher instead of with the weights that `model_builder` gives
            them, with the settings that the configuration has; or settings of it, which override those.

    Raises:
        ConfigurationError: the set-up is wrong; all mistakes at once.

    Examples:
        >>> import tempfile
        >>> space = {"width": [2, 4, 8]}
        >>> config = {"search": {"search_space": space, "metrics": ["score", "parameters"], "max_trials": 3}}
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     agent = AutoDistillation(
        ...         lambda architecture: nn.Linear(architecture["width"], 1),
        ...         config,
        ...         train_func=lambda student: student,
        ...         eval_func=lambda student: {"score": -abs(student.in_features - 4)},
        ...         search_dir=directory,
        ...         show_progress_bar=False,
        ...     )
        ...     _ = agent.search_loop()
        ...     [(trial.architecture["width"], trial.metrics["score"]) for trial in agent.search_result.pareto_front]
        [(2, -2.0), (4, 0.0)]
    """

    def __init__(
        self,
        model_builder: ModelBuilder,
        config: AutoDistillationConfig | Mapping[str, Any] | str | Path,
        *,
        teacher_model: nn.Module | None = None,
        train_dataloader: Iterable[Any] | None = None,
        train_func: TrainFunction | None = None,
        eval_func: EvalFunction | None = None,
        loss_func: Callable[[Any, Any], torch.Tensor] = nn.functional.cross_entropy,
        search_dir: str | Path = "autodistillation",
        advisor: Any = None,
        device: str | torch.device = "auto",
        callbacks: Sequence[Callback] = (),
        show_progress_bar: bool = True,
        keep: Literal["pareto", "all", "none"] = "pareto",
        max_retries: int = 3,
        max_consecutive_failures: int = 3,
        teacher_cache_gb: float = 10.0,
        activation_budget_gb: float = 4.0,
        activation_disk_gb: float = 50.0,
        example_batch: Any = None,
        history_from: Sequence[str | Path] = (),
        init: InitializationConfig | Mapping[str, Any] | Literal["teacher"] | None = None,
    ) -> None:
        problems = argument_problems(
            Given(model_builder, train_func, eval_func, loss_func, teacher_model, train_dataloader, example_batch),
            callbacks,
            keep,
            {"max_retries": (max_retries, 0), "max_consecutive_failures": (max_consecutive_failures, 1)},
            {
                "teacher_cache_gb": teacher_cache_gb,
                "activation_budget_gb": activation_budget_gb,
                "activation_disk_gb": activation_disk_gb,
            },
        )
        if problems:
            raise ConfigurationError(problems)
        self.model_builder = model_builder
        self.config = AutoDistillationConfig.load(config).starting_from(init)
        self._search = self.config.the_search()
        self.search_space: SearchSpace = self._search.search_space
        self.advisor: Advisor = as_advisor(advisor or self._search.search_algorithm, self.search_space)
        self.train_func = train_func
        self.eval_func = eval_func
        self.search_dir = Path(search_dir)
        self.callbacks = list(callbacks)
        self._processes = current_processes()  # first, since it chooses this process's GPU
        self.device = resolve_device(device)
        self.teacher_model = teacher_model.to(self.device) if teacher_model is not None else None
        self._train_dataloader = train_dataloader
        self._loss_func = loss_func
        self._show_progress_bar = show_progress_bar
        self._keep = keep
        self._max_retries = max_retries
        self._max_consecutive_failures = max_consecutive_failures
        self._teacher_cache_gb = teacher_cache_gb
        self._activation_budget_gb = activation_budget_gb
        self._activation_disk_gb = activation_disk_gb
        self._example_batch = example_batch
        self._history_from = list(history_from)
        self._queue: list[Architecture] = []
        self._untrained_bounds = UntrainedBounds(self._search.metrics)
        self._built: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._checked = False
        self._stopped = False

    def search_loop(
        self, n_trials: int | None = None, timeout: float | None = None, patience: int | None = None
    ) -> Architecture | None:
        """Run trials until the directory holds `max_trials`; resume if it holds this search already.

        Where `accelerate launch` started several processes, each calls this; process 0 leads, and alone works on the
        directory, evaluates and calls callbacks.

        Args:
            n_trials: run so many more instead, whatever `max_trials` says.
            timeout: begin no trial after so many seconds.
            patience: begin no trial when the Pareto front (the best, where there is one goal) has not changed for so
                many.

        Returns:
            The best architecture; None where no trial is feasible.

        Raises:
            ConfigurationError: the set-up is wrong; all mistakes at once, before anything runs.
            SearchDirectoryError: the directory holds another search, or cannot be used.
            SearchStoppedError: too many trials failed in a row; or process 0 stopped, in the others.
            AdvisorError: the advisor repeated itself or left the space.
        """
        with self._processes.together():
            self._check_setup(counts_trials=n_trials is None)
            if patience is not None and patience < 1:
                raise ConfigurationError(f"patience must be at least 1 trial, but got {patience!r}.")
        if not self._processes.is_main:
            return self._follow()
        try:
            self._lead(n_trials, timeout, patience)
        except Exception as error:
            self._processes.broadcast({"stopped": f"{type(error).__name__}: {error}"})
            raise
        best: Architecture | None = self._processes.broadcast({"best": self.best_model_arch})["best"]
        return best

    def _follow(self) -> Architecture | None:
        """Train alongside process 0 whatever it tells, until it ends the search; it records what fails."""
        runner = self._runner
        while "train" in (message := self._processes.broadcast()):
            with contextlib.suppress(Exception):
                runner.train(message["train"], self.search_space.key(message["train"]))
        if "stopped" in message:
            raise SearchStoppedError(f"all processes stop where process 0 does, and it did: {message['stopped']}")
        best: Architecture | None = message["best"]
        return best

    def _lead(self, n_trials: int | None, timeout: float | None, patience: int | None) -> None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._stopped = False
        with SearchDirectory.open(self.search_dir, self._description(), self.search_space) as directory:
            self._checked = bool(self.search_result.completed)
            progress = make_progress(self._show_progress_bar)
            try:
                self._run_trials(directory, progress, n_trials, deadline, math.inf if patience is None else patience)
            finally:
                progress.close()

    def stop(self) -> None:
        """End the search after the current trial; for callbacks."""
        self._stopped = True

    def _run_trials(
        self, directory: SearchDirectory, progress: Progress, n_trials: int | None, deadline: float, patience: float
    ) -> None:
        done = len(self.search_result.finished)
        total = self._search.max_trials if n_trials is None else done + n_trials
        if done:
            logger.info("resuming the search in %s, which holds %d finished trials", directory.path, done)
        progress.search_started(total, done)
        failures = 0
        while len(self.search_result.finished) < total and time.monotonic() < deadline and not self._stopped:
            if self.search_result.unchanged_for >= patience:
                logger.info("the search ends: the front has not changed for %d trials (patience)", patience)
                break
            try:
                trial = self._next_trial(directory)
            except SpaceExhaustedError as exhausted:
                logger.warning("the search ends before %d trials: %s", total, exhausted)
                break
            error = self._run_trial(directory, trial, progress)
            failures = 0 if error is None else failures + 1
            if failures >= self._max_consecutive_failures:
                raise SearchStoppedError(
                    f"the search stops when {failures} trials fail in a row (max_consecutive_failures), "
                    f"and they did; the last with {type(error).__name__}: {error} "
                    f"Mend the cause, then resume {directory.path}."
                ) from error
        progress.search_finished(self.search_result)
        if self.search_result.best is None:
            logger.warning("no trial in %s is feasible: %r", directory.path, self.search_result)

    def _next_trial(self, directory: SearchDirectory) -> Trial:
        """An interrupted trial begun again, or a new one of the advisor's choice."""
        for trial in directory.interrupted():
            if trial.attempts <= self._max_retries:
                self._check(trial.architecture)
                return directory.take_over(trial)
            directory.record(
                trial.fail(f"it was interrupted {trial.attempts} times, and max_retries is {self._max_retries}")
            )
        architecture = self.model_arch_proposition()
        self._check(architecture)
        return directory.claim(architecture)

    def _check(self, architecture: Architecture) -> None:
        """Before the first trial: the distillation settings against the first student that can be built and run."""
        self._checked = self._checked or self._runner.check(architecture)

    def model_arch_proposition(self) -> Architecture:
        """The architecture of the next trial: one that was enqueued, or what the advisor proposes.

        With the built-in distillation, a proposal whose student breaks a bound on `parameters`, `flops` or `size_mb`
        before it is trained is passed over: to the advisor it is one that failed.

        Raises:
            SpaceExhaustedError: every architecture of the space has had its trial.
            AdvisorError: the advisor proposed one that has had its trial, or is not in the space.
        """
        trials = self.search_result
        seed = derive_seed(self._search.seed, "advisor", len(trials))
        taken = {self.search_space.key(trial.architecture): trial.number for trial in trials}
        for queued in self._queue:
            if self.search_space.key(queued) not in taken:
                return queued
        history = self._history
        while True:
            proposed = self._advised(history, seed, taken)
            if self.train_func is not None or self._untrained_bounds.keeps(
                self.search_space.key(proposed), partial(self._runner.build, proposed), self._example
            ):
                return proposed
            history.append(Observation(proposed, "failed"))

    def _advised(self, history: Sequence[Observation], seed: int, taken: Mapping[str, int]) -> Architecture:
        suggested = self.advisor.suggest(history, seed=seed)
        advisor = type(self.advisor).__name__
        try:
            proposed = self.search_space.validate(suggested)
        except SearchSpaceError as error:
            raise AdvisorError(f"an advisor must propose from the space, but {advisor} did not: {error}") from error
        number = taken.get(self.search_space.key(proposed))
        if number is not None:
            raise AdvisorError(
                f"an advisor must propose an architecture that no trial has had, but {advisor} "
                f"proposed that of trial {number} again: {proposed}."
            )
        return proposed

    @property
    def _history(self) -> list[Observation]:
        metrics = self._search.metrics
        own = [observation(trial, metrics) for trial in self.search_result]
        tried = [seen.architecture for seen in own]
        earlier = earlier_observations(self._history_from, self.search_space, metrics)
        return [*(seen for seen in earlier if seen.architecture not in tried), *own]

    def enqueue_trial(self, architecture: Mapping[str, Any]) -> None:
        """Have an architecture tried before any that the advisor proposes.

        The queue lives in this object. A resumed program may fill it again: what has had its trial is passed over.

        Raises:
            SearchSpaceError: the architecture does not belong to the space.
        """
        self._queue.append(self.search_space.validate(architecture))

    def add_trial(self, architecture: Mapping[str, Any], metrics: Mapping[str, float]) -> Trial:
        """Record a trial that was run elsewhere, as complete; it has no student.

        It counts towards `max_trials`, and may be the best.

        Raises:
            ConfigurationError: a metric of the search is missing, or not finite.
            SearchSpaceError: the architecture does not belong to the space.
            SearchDirectoryError: a trial has this architecture, or the directory cannot be used.
        """
        values = measured_elsewhere(metrics, self._search.metrics)
        with SearchDirectory.open(self.search_dir, self._description(), self.search_space) as directory:
            trial = directory.claim(self.search_space.validate(architecture)).complete(values, {"added": True})
            directory.record(trial)
        return trial

    def importance(self) -> dict[str, dict[str, float]]:
        """For each goal of the search, the part of its variance that each dimension explains; the largest first.

        By Optuna's functional analysis of variance.

        Raises:
            AdvisorError: fewer than two trials are complete.
        """
        goals = [metric.name for metric in self._search.metrics if not metric.measured]
        return dict(zip(goals, importance(self.search_space, self._history), strict=True))

    def predict(self, architecture: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each goal of the search that a Gaussian process expects.

        Raises:
            AdvisorError: fewer than two trials are complete.
            SearchSpaceError: the architecture does not belong to the space.
        """
        goals = [metric for metric in self._search.metrics if not metric.measured]
        expected = predict(self.search_space, self._history, architecture)
        return {goal.name: (goal.loss(mean), std) for goal, (mean, std) in zip(goals, expected, strict=True)}

    def train_evaluate(self, architecture: Architecture) -> dict[str, float]:
        """Build, train and measure one student, as a trial does, without recording it; every process calls it.

        Returns:
            Its metrics.
        """
        runner, metrics = self._runner, {}
        with self._processes.together():
            self._check_setup(counts_trials=False)
            architecture = self.search_space.validate(architecture)
            key = self.search_space.key(architecture)
        with self._processes.together():
            if self._processes.is_main:
                outcome = runner.run(architecture, key)
                runner.check_metrics(outcome)
                metrics = outcome.metrics
            else:
                runner.train(architecture, key)
        shared: dict[str, float] = self._processes.broadcast(metrics)
        return shared

    def _run_trial(self, directory: SearchDirectory, trial: Trial, progress: Progress) -> Exception | None:
        """Run one trial and record it; the error where it failed."""
        progress.trial_started(trial)
        runner, failure = self._runner, None
        folder = directory.trial_directory(trial.number)
        report = TrialReport(progress, folder)
        try:
            key = self.search_space.key(trial.architecture)
            self._processes.broadcast({"train": trial.architecture})
            outcome = runner.run(trial.architecture, key, report, folder / CHECKPOINT)
        except Exception as error:
            failure = error
            trial = trial.fail("".join(traceback.format_exception(error)))
            logger.warning("trial %d failed: %s: %s", trial.number, type(error).__name__, error)
            directory.record(trial)
        except BaseException:
            self._interrupt(directory, trial)
            raise
        else:
            try:
                runner.check_metrics(outcome)
            except ConfigurationError:
                self._interrupt(directory, trial)
                raise
            trial = self._complete(directory, trial, outcome)
        shutil.rmtree(folder / CHECKPOINT, ignore_errors=True)
        progress.trial_finished(trial)
        for callback in self.callbacks:
            callback(self, trial)
        return failure

    def _interrupt(self, directory: SearchDirectory, trial: Trial) -> None:
        """Leave a trial to be begun again; an orderly interruption counts as no attempt."""
        directory.record(replace(trial, attempts=trial.attempts - 1))

    def _complete(self, directory: SearchDirectory, trial: Trial, outcome: Outcome) -> Trial:
        """Save the student before its trial counts as complete, then remove those that are no longer wanted."""
        trial = trial.complete(outcome.metrics, outcome.details)
        result = SearchResult([*directory.trials()[: trial.number], trial], self._search.metrics)
        wanted = {"all": result.completed, "pareto": result.pareto_front, "none": []}[self._keep]
        if trial in wanted:
            save_student(outcome.student, trial.architecture, directory.student_directory(trial.number))
        directory.record(trial)
        for other in result.completed:
            if other not in wanted:
                remove_student(directory.student_directory(other.number))
        return trial

    @property
    def search_result(self) -> SearchResult:
        """All trials of the search directory, in order."""
        if not (self.search_dir / SEARCH_FILE).exists():
            return SearchResult([], self._search.metrics)
        return SearchResult.load(self.search_dir)

    @property
    def best_model_arch(self) -> Architecture | None:
        """The best architecture so far; None while no trial is feasible."""
        best = self.search_result.best
        return None if best is None else best.architecture

    @property
    def best_model_archs(self) -> list[Architecture]:
        """The architectures of the Pareto front."""
        return [trial.architecture for trial in self.search_result.pareto_front]

    def best_model(self) -> nn.Module:
        """The best trained student, in eval mode on the device.

        Raises:
            ConfigurationError: there is none, or students are not kept.
        """
        best = self.search_result.best
        if best is None:
            raise ConfigurationError(
                f"best_model needs a feasible trial, but {self.search_dir} holds none; "
                "run search_loop, or relax the bounds."
            )
        return self.load_model(best)

    def load_model(self, trial: Trial) -> nn.Module:
        """The trained student of a trial, in eval mode on the device.

        Raises:
            ConfigurationError: it was not kept.
        """
        directory = student_directory(self.search_dir, trial.number)
        if not directory.exists():
            raise ConfigurationError(
                f"a student must have been kept to be loaded, but that of trial {trial.number} was not "
                f"(keep={self._keep!r}); search with keep='all', or take one of the Pareto front."
            )
        return load_student(self._runner.build(trial.architecture), directory)

    @property
    def _runner(self) -> TrialRunner:
        search = self._search
        return TrialRunner(
            self.model_builder,
            self.train_func or self._distiller,
            self.eval_func,
            search.metrics,
            search.seed,
            self.device,
            self.teacher_model,
            self._example,
            self._processes,
            self._built,
        )

    @cached_property
    def _distiller(self) -> Distiller:
        assert self.teacher_model is not None
        assert self._train_dataloader is not None
        return Distiller(
            self.teacher_model,
            self.config,
            self._train_dataloader,
            self.device,
            self.search_dir / TEACHER_CACHE if self._processes.is_main else None,
            self._teacher_cache_gb,
            self._activation_budget_gb,
            self._activation_disk_gb,
            self._loss_func,
            self._processes,
        )

    @cached_property
    def _example(self) -> Batch | None:
        if self._example_batch is not None:
            return Batch(self._example_batch)
        if self._train_dataloader is None:
            return None
        return DataStream(self._train_dataloader, self._search.seed).flash_set(1)[0]

    def _check_setup(self, *, counts_trials: bool) -> None:
        """Everything that can be known to be wrong before a trial runs, at once."""
        given = Given(
            self.model_builder,
            self.train_func,
            self.eval_func,
            self._loss_func,
            self.teacher_model,
            self._train_dataloader,
            self._example_batch,
        )
        problems = list(set_up_problems(self.config, given, counts_trials=counts_trials))
        if problems:
            raise ConfigurationError(problems)

    def _description(self) -> dict[str, Any]:
        return describe_search(
            self.config,
            advisor=type(self.advisor).__name__,
            distiller=self._distiller if self.train_func is None else None,
            teacher=self.teacher_model,
            device=self.device,
            processes=self._processes.count,
        )
