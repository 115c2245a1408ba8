"""The search: propose an architecture, build and distil the student, measure it, write it down, and again."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from advisors import Advisor, Observation, SpaceExhaustedError, as_advisor
from autodistill.config import AutoDistillationConfig
from autodistill.data import Batch, DataStream
from autodistill.display import Progress, make_progress
from autodistill.distillation.schedule import Distiller
from autodistill.distillation.teacher_cache import model_fingerprint
from autodistill.environment import describe_environment, resolve_device
from autodistill.errors import ConfigurationError, SearchStoppedError
from autodistill.metrics import BUILT_IN, losses, violations
from autodistill.processes import current_processes
from autodistill.randomness import derive_seed
from autodistill.search_directory import SearchDirectory
from autodistill.students import load_student, remove_student, save_student
from autodistill.trial import SEARCH_FILE, TEACHER_CACHE, SearchResult, Trial, TrialState
from autodistill.trial_report import TrialReport
from autodistill.trial_runner import EvalFunction, ModelBuilder, Outcome, TrainFunction, TrialRunner
from search_spaces import Architecture, SearchSpace

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
        teacher_model: needed by the built-in training and by the metric `speedup`.
        train_dataloader: gives batches again and again: mappings (keyword arguments) or pairs `(inputs, targets)`.
        train_func: `student -> trained student`; in place of the built-in distillation.
        eval_func: `student -> metrics`; gets the student in eval mode. Built-in metrics that it does not return are
            measured: latency, speedup, parameters, flops, size_mb.
        loss_func: `(outputs, targets) -> loss`, for students that return no loss of their own.
        search_dir: the search directory; made where it does not exist.
        advisor: an `Advisor`, a subclass, a function `(history, *, seed) -> architecture`, or a registered name;
            overrides `search_algorithm`.
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
    ) -> None:
        self.model_builder = model_builder
        self.config = AutoDistillationConfig.load(config)
        self.search_space: SearchSpace = self.config.search.search_space
        self.advisor: Advisor = as_advisor(advisor or self.config.search.search_algorithm, self.search_space)
        self.train_func = train_func
        self.eval_func = eval_func
        self.search_dir = Path(search_dir)
        self._processes = current_processes()  # first, since it chooses this process's GPU
        self.device = resolve_device(device)
        self.teacher_model = teacher_model.to(self.device) if teacher_model is not None else None
        self.callbacks = list(callbacks)
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
        self._directory: SearchDirectory | None = None
        self._stopped = False

    def search_loop(self, n_trials: int | None = None, timeout: float | None = None) -> Architecture | None:
        """Run trials until the directory holds `max_trials`; resume if it holds this search already.

        Where `accelerate launch` started several processes, each calls this; process 0 leads, and alone works on the
        directory, evaluates and calls callbacks.

        Args:
            n_trials: run so many more instead, whatever `max_trials` says.
            timeout: begin no trial after so many seconds.

        Returns:
            The best architecture; None where no trial is feasible.

        Raises:
            ConfigurationError: the set-up is wrong; all mistakes at once, before anything runs.
            SearchDirectoryError: the directory holds another search, or cannot be used.
            SearchStoppedError: too many trials failed in a row; or process 0 stopped, in the others.
        """
        with self._processes.together():
            self._check_setup()
        if not self._processes.is_main:
            return self._follow()
        try:
            self._lead(n_trials, timeout)
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

    def _lead(self, n_trials: int | None, timeout: float | None) -> None:
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        self._stopped = False
        with SearchDirectory.open(self.search_dir, self._description(), self.search_space) as directory:
            progress = make_progress(self._show_progress_bar)
            try:
                if not self.search_result.finished:
                    self._runner.check(self.model_arch_proposition())
                self._run_trials(directory, progress, n_trials, deadline)
            finally:
                progress.close()

    def stop(self) -> None:
        """End the search after the current trial; for callbacks."""
        self._stopped = True

    def _run_trials(
        self, directory: SearchDirectory, progress: Progress, n_trials: int | None, deadline: float
    ) -> None:
        done = len(self.search_result.finished)
        total = self.config.search.max_trials if n_trials is None else done + n_trials
        if done:
            logger.info("resuming the search in %s, which holds %d finished trials", directory.path, done)
        progress.search_started(total, done)
        failures = 0
        while len(self.search_result.finished) < total and time.monotonic() < deadline and not self._stopped:
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

    def _next_trial(self, directory: SearchDirectory) -> Trial:
        """An interrupted trial begun again, or a new one of the advisor's choice."""
        for trial in directory.interrupted():
            if trial.attempts <= self._max_retries:
                return directory.take_over(trial)
            directory.record(
                trial.fail(f"it was interrupted {trial.attempts} times, and max_retries is {self._max_retries}")
            )
        architecture = self.model_arch_proposition()
        return directory.claim(architecture)

    def model_arch_proposition(self) -> Architecture:
        """The architecture that the advisor proposes for the next trial.

        Raises:
            SpaceExhaustedError: every architecture of the space has had its trial.
            ConfigurationError: the advisor proposed one that has had its trial.
        """
        trials = self.search_result
        seed = derive_seed(self.config.search.seed, "advisor", len(trials))
        proposed = self.search_space.validate(self.advisor.suggest([self._observation(t) for t in trials], seed=seed))
        taken = {self.search_space.key(trial.architecture): trial.number for trial in trials}
        number = taken.get(self.search_space.key(proposed))
        if number is not None:
            raise ConfigurationError(
                f"an advisor must propose an architecture that no trial has had, but {type(self.advisor).__name__} "
                f"proposed that of trial {number} again: {proposed}."
            )
        return proposed

    def _observation(self, trial: Trial) -> Observation:
        if trial.state is not TrialState.COMPLETE:
            return Observation(trial.architecture, trial.state.value)
        metrics = self.config.search.metrics
        return Observation(
            trial.architecture,
            trial.state.value,
            objectives=losses(metrics, trial.metrics),
            violations=violations(metrics, trial.metrics),
        )

    def train_evaluate(self, architecture: Architecture) -> dict[str, float]:
        """Build, train and measure one student, as a trial does, without recording it; every process calls it.

        Returns:
            Its metrics.
        """
        runner, metrics = self._runner, {}
        with self._processes.together():
            self._check_setup()
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
        result = SearchResult([*directory.trials()[: trial.number], trial], self.config.search.metrics)
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
            return SearchResult([], self.config.search.metrics)
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
        directory = self.search_dir.absolute() / "trials" / f"{trial.number:06d}" / "student"
        if not directory.exists():
            raise ConfigurationError(
                f"a student must have been kept to be loaded, but that of trial {trial.number} was not "
                f"(keep={self._keep!r}); search with keep='all', or take one of the Pareto front."
            )
        return load_student(self._runner.build(trial.architecture), directory)

    @property
    def _runner(self) -> TrialRunner:
        search = self.config.search
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
        return DataStream(self._train_dataloader, self.config.search.seed).flash_set(1)[0]

    def _check_setup(self) -> None:
        """Everything that can be known to be wrong before a trial runs, at once."""
        problems = [*self._missing_parts(), *self._space_problems()]
        if problems:
            raise ConfigurationError(problems)

    def _missing_parts(self) -> list[str]:
        names = [metric.name for metric in self.config.search.metrics]
        problems = []
        own = [name for name in names if name not in BUILT_IN]
        if self.eval_func is None and own:
            problems.append(
                f"eval_func must return {', '.join(map(repr, own))}, but there is no eval_func; give one, or search "
                f"for built-in metrics only ({', '.join(BUILT_IN)})."
            )
        if self.train_func is None:
            for name, part in (("teacher_model", self.teacher_model), ("train_dataloader", self._train_dataloader)):
                if part is None:
                    problems.append(
                        f"the built-in distillation needs {name}, but there is none; give it, or a train_func."
                    )
        if "speedup" in names and self.teacher_model is None:
            problems.append(
                "the metric 'speedup' compares with the teacher, but there is no teacher_model; use 'latency'."
            )
        if (
            {"latency", "speedup", "flops"} & set(names)
            and self._train_dataloader is None
            and self._example_batch is None
        ):
            problems.append("measuring latency or flops needs a batch: give example_batch or train_dataloader.")
        return problems

    def _space_problems(self) -> list[str]:
        self.search_space.ensure_feasible()
        size, max_trials = self.search_space.size, self.config.search.max_trials
        if size is not None and max_trials > size:
            return [
                f"max_trials must not exceed the number of architectures, but {max_trials} > {size}; set it to {size}."
            ]
        return []

    def _description(self) -> dict[str, Any]:
        """What the search is; a resumed one is compared with it."""
        search = self.config.search
        environment = describe_environment(self.device)
        built_in = self.train_func is None
        if built_in:
            environment["flash_set"] = self._distiller.flash_set_hash
        phases = {"flash_distillation", "regular_distillation"}
        return {
            "space": search.search_space.to_json(),
            "advisor": type(self.advisor).__name__,
            "metrics": [metric.to_json() for metric in search.metrics],
            "max_trials": search.max_trials,
            "seed": search.seed,
            "distillation": self.config.model_dump(mode="json", include=phases) if built_in else "train_func",
            "teacher": model_fingerprint(self.teacher_model) if self.teacher_model is not None else None,
            "processes": self._processes.count,
            "environment": environment,
        }
