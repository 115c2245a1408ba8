"""The search: propose an architecture, build and distil the student, measure and record it, repeat."""

from __future__ import annotations

import contextlib
import copy
import logging
import math
import secrets
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from advisors.base import Advisor
from advisors.registry import as_advisor
from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.config.auto_distillation import PROMOTED, framework_problem
from autodistill.config.elastic import ElasticConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.data_stream import DataStream
from autodistill.distillation.engine import Engine
from autodistill.distillation.regular import RegularDistillation, RegularTask
from autodistill.distiller import Distiller, Storage
from autodistill.environment import describe_environment, resolve_device
from autodistill.errors import ConfigurationError, SearchStoppedError, attempt, text_of
from autodistill.forecast import Forecast
from autodistill.frameworks.hook_guard import HookGuard
from autodistill.frameworks.pytorch import EvalFunction, ModelBuilder, PyTorchFramework
from autodistill.interrupts import interruptible
from autodistill.machine_faults import stopping_at_faults
from autodistill.metrics.metric import Metric, metrics_returned, with_limits
from autodistill.preparation import Preparation, fill_part
from autodistill.processes import current_processes
from autodistill.remote_files import RemoteFiles
from autodistill.report.terminal import make_progress
from autodistill.scaling import SERIAL, chosen_executor, executor_problems, is_serial, opened
from autodistill.search.block_workers import SpreadBlocks
from autodistill.search.description import read_description
from autodistill.search.directory import SearchDirectory
from autodistill.search.executors import Executor, GroupExecutor, SerialExecutor, follow
from autodistill.search.layout import ELASTIC, TEACHER_CACHE, ensure_no_links, holds_search
from autodistill.search.loop import Limits, Policy, SearchLoop
from autodistill.search.observations import measured_elsewhere
from autodistill.search.promotion import best_slice
from autodistill.search.proposals import Proposals
from autodistill.search.result import SearchResult
from autodistill.search.run_trial import TrialSpec, missing_metrics, run_trial
from autodistill.search.students import find_student
from autodistill.search.trial import Trial, TrialState
from autodistill.search.untrained_bounds import UntrainedBounds
from autodistill.set_up_checks import (
    argument_problems,
    block_problems,
    count_problems,
    duration_problems,
    finish_problems,
    folder_problems,
    limit_problems,
    set_up_problems,
    size_problems,
    slice_problems,
    storage_problems,
)
from autodistill.teacher import Teacher, load_teacher, teacher_problems
from autodistill.training import FunctionTraining, Training
from autodistill.transport import pack, unsendable
from search_spaces import Architecture, SearchSpace

logger = logging.getLogger(__name__)

Callback = Callable[["AutoDistillation", Trial], None]
TrainFunction = Callable[[nn.Module], nn.Module | None]


class AutoDistillation:
    """Finds and delivers small, fast students of a large teacher.

    A search is stored in a directory. `search_loop` starts or resumes it; `search_result` and `best_model_arch` are
    computed from the trials that are recorded there.

    Args:
        model_builder: `architecture -> student`. It is called in the same random state for every trial of a search, so
            that the same architecture is built with the same weights.
        config: a mapping, the path of a YAML file, or an `AutoDistillationConfig`.
        teacher_model: needed by the built-in training and by the metric `speedup`; moved to the device, and put in
            eval mode when it is used. A function without parameters that loads it is called once, when the teacher is
            first needed: not to read results, nor for `best_model()`.
        train_dataloader: an iterable of batches that can be read repeatedly: mappings (keyword arguments) or pairs
            `(inputs, targets)`.
        train_func: `student -> trained student`; replaces the built-in distillation. One that returns None trained the
            student in place.
        eval_func: `student -> metrics`; receives the student in eval mode. Built-in metrics that it does not return are
            measured: latency, speedup, parameters, flops, size_mb. A number is the one metric that is not built in. If
            the configuration has no metrics, an untrained student is evaluated first, to find them.
        loss_func: `(outputs, targets) -> loss`, for students that do not return a loss.
        search_dir: the search directory; created if it does not exist.
        advisor: an `Advisor`, a subclass, a function `(history, *, seed) -> architecture`, a function
            `seed -> sampler` that returns an Optuna sampler, or a registered name; overrides `search_algorithm`.
        device: "auto" is a GPU if there is one, else the CPU.
        callbacks: functions `(search, trial)`, called when a trial is complete, failed, or paused (with `promote`);
            `search.stop()` ends the search.
        show_progress_bar: bars on a terminal, plain lines elsewhere.
        keep: which trained students stay on disk: those on the Pareto front, all, or none, and those of `finish`.
        max_retries: how often an interrupted trial is started again before it counts as failed.
        max_consecutive_failures: this many failed trials in a row stop the search.
        teacher_cache_gb: the limit on disk space for the teacher's features, in GiB.
        activation_budget_gb: the limit on memory for captured inputs and the teacher's features, in GiB; what exceeds
            it is written to disk.
        activation_disk_gb: the limit on disk space for captured inputs, in GiB; the rest is computed when needed.
        example_batch: the batch for latency and FLOPs; the first training batch by default.
        history_from: directories of earlier searches from which the advisor learns: trials in this search's space,
            with all its metrics (with `promote`, those after flash distillation). Their architectures are not proposed
            again, and none of these trials is ever the best.
        init: `"teacher"` starts students inside the teacher instead of with the weights that `model_builder` sets, with
            the settings in the configuration; or a mapping of settings, which override those.
        elastic: True trains one elastic student for all architectures, with the settings in the configuration: a trial
            evaluates a slice of it, which costs seconds, and the best are finished. Or a mapping of settings.
        framework: the library of the models; only `"pytorch"` exists.
        teacher_cache: the directory of the teacher's features; by default one in the search directory. Searches with
            the same teacher may share it, also at the same time: what one has computed, the others find. Values that
            another search computed in other batches equal its own up to rounding.
        trial_timeout: if a trial runs for more than these seconds, a warning with the stacks of all threads is logged,
            once; the trial goes on, since Python cannot interrupt a hook. In a worker of an executor, its process is
            ended, and the trial has failed. None is no limit.
        storage: where checkpoints and students are kept, for workers of other computers: a URL of fsspec, such as
            `"s3://bucket/folder"`, or `RemoteFiles`. None for the search directory, where records always are.

    Raises:
        ConfigurationError: the set-up is invalid; all mistakes in one error.

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
        teacher_model: Teacher | None = None,
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
        elastic: ElasticConfig | Mapping[str, Any] | bool | None = None,
        framework: str = "pytorch",
        teacher_cache: str | Path | None = None,
        trial_timeout: float | None = None,
        storage: str | RemoteFiles | None = None,
    ) -> None:
        self.model_builder = model_builder
        self.train_func = train_func
        self.eval_func = eval_func
        self.loss_func = loss_func
        self._teacher = teacher_model
        self.train_dataloader = train_dataloader
        self.example_batch = example_batch
        self.history_from: Sequence[str | Path] = history_from
        self.teacher_cache: str | Path | None = teacher_cache
        self._sizes: dict[str, Any] = {
            "teacher_cache_gb": teacher_cache_gb,
            "activation_budget_gb": activation_budget_gb,
            "activation_disk_gb": activation_disk_gb,
        }
        counts = {"max_retries": (max_retries, 0), "max_consecutive_failures": (max_consecutive_failures, 1)}
        problems = [
            *argument_problems(self, callbacks, keep),
            *teacher_problems(teacher_model),
            *count_problems(counts),
            *size_problems(self._sizes),
            *folder_problems({"teacher_cache": teacher_cache}),
            *storage_problems(storage),
            *duration_problems({"trial_timeout": trial_timeout}),
        ]
        if problems:
            raise ConfigurationError(problems)
        self.framework = framework
        # Absolute, since a hook may change the working directory.
        self.search_dir = Path(search_dir).absolute()
        self.history_from = [Path(directory).absolute() for directory in history_from]
        self.teacher_cache = None if teacher_cache is None else Path(teacher_cache).absolute()
        self._processes = current_processes()  # first, since it selects the GPU of this process
        self.config = self._with_seed(AutoDistillationConfig.load(config).starting_from(init, elastic))
        search = self.config.the_search()
        self.search_space: SearchSpace = search.search_space
        proposer = as_advisor(search.search_algorithm if advisor is None else advisor, self.search_space)
        self._proposals = Proposals(search, proposer, self.history_from)
        self._bounds = UntrainedBounds()
        self.callbacks = list(callbacks)
        self.device = resolve_device(device)
        self._chooses_device = device == "auto"
        numbered = not self._chooses_device and torch.device(device).index is not None
        self._devices = self.device if numbered else torch.device(self.device.type)  # of workers
        if isinstance(self._teacher, nn.Module):
            self._teacher = self._teacher.to(self.device)
        self._show_progress_bar = show_progress_bar
        promotes_last = self.config.elastic is not None
        self._policy = Policy(keep, max_retries, max_consecutive_failures, trial_timeout, promotes_last)
        self._storage = RemoteFiles(storage) if isinstance(storage, str) else storage
        self._built: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._guard = HookGuard()
        self._directory: SearchDirectory | None = None  # while search_loop holds it
        self._in_use: Distiller | None = None  # what the built-in training was made of
        self._stopped = False

    def __getstate__(self) -> dict[str, Any]:
        """For a worker, to which a hook that refers to the search is sent: without what belongs to this process."""
        kept = {name: value for name, value in vars(self).items() if name != "_built_in_training"}
        return kept | {"_built": None, "_guard": None, "_directory": None, "_in_use": None, "callbacks": []}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state | {"_built": weakref.WeakSet(), "_guard": HookGuard()})

    @property
    def advisor(self) -> Advisor:
        """The advisor, which proposes architectures."""
        return self._proposals.advisor

    @advisor.setter
    def advisor(self, advisor: Any) -> None:
        self._proposals.advisor = as_advisor(advisor, self.search_space)

    @property
    def teacher_model(self) -> nn.Module | None:
        """The teacher, on the device; loaded by the first access if a function was passed that loads it."""
        if self._teacher is not None and not isinstance(self._teacher, nn.Module):
            self._teacher = load_teacher(self._teacher).to(self.device)
        return self._teacher

    @teacher_model.setter
    def teacher_model(self, teacher: Teacher | None) -> None:
        self._teacher = teacher

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher, loaded or not."""
        return self._teacher is not None

    @property
    def process_count(self) -> int:
        """The number of processes that train together."""
        return self._processes.count

    @property
    def teacher_cache_directory(self) -> Path:
        """The directory of the teacher's features: `teacher_cache`, or one in the search directory."""
        return self.search_dir / TEACHER_CACHE if self.teacher_cache is None else Path(self.teacher_cache)

    @property
    def framework(self) -> str:
        """The library of the models; set to anything but `"pytorch"`, it raises `ConfigurationError`."""
        return "pytorch"

    @framework.setter
    def framework(self, framework: str) -> None:
        problem = framework_problem(framework)
        if problem is not None:
            raise ConfigurationError(problem)

    # --- searching ---

    @interruptible()
    def search_loop(
        self,
        n_trials: int | None = None,
        timeout: float | None = None,
        patience: int | None = None,
        *,
        retry_failed: bool = False,
        executor: Any = None,
        workers: int | None = None,
    ) -> Architecture | None:
        """Run trials until the directory holds `max_trials`; resume if it holds this search already.

        If `accelerate launch` started several processes, each calls this; process 0 leads, and only process 0 writes to
        the directory, evaluates and calls callbacks.

        Args:
            n_trials: run this many more trials instead, whatever `max_trials` is.
            timeout: start and promote no trial after this many seconds (except one if no trial is complete).
            patience: propose no architecture when the Pareto front (the best trial if there is one goal) has not
                changed for this many trials.
            retry_failed: first run again the trials that have failed, under their numbers; `n_trials` does not count
                them. Their errors remain in `trial.details["earlier_errors"]`.
            executor: where trials run, several at the same time: `"processes"` on this computer, `"ray"`, settings of
                these (`ExecutorConfig`), or an object with the contract of `concurrent.futures.Executor`. By default
                that of the configuration, or one after another in this process.
            workers: trials at the same time.

        Returns:
            The best architecture; None if no trial is feasible.

        Raises:
            ConfigurationError: the set-up is invalid; all mistakes in one error, before anything runs.
            SearchDirectoryError: the directory holds another search, or cannot be used.
            SearchStoppedError: too many trials failed in a row; or the machine failed (a full disk, a lack of memory
                other than the GPU's, too many open files), which leaves the trial to be resumed; in the other
                processes, process 0 stopped.
            TeacherChangedError: a hook changed the weights of the teacher; the trial is run again on resuming.
            KeyboardInterrupt: on SIGINT, or as `Terminated` on SIGTERM, unless the program handles these itself or this
                is not the main thread. The first signal lets a step of training end and writes a checkpoint.
            AdvisorError: the advisor repeated an architecture or proposed one outside the space.
            NonFiniteError: the loss of an elastic student became NaN or infinite.
        """
        self._guard = HookGuard()  # the teacher may have been changed between two runs
        with self._processes.together():
            problems = limit_problems(n_trials, timeout, patience)
            chosen = attempt(problems, lambda: chosen_executor(executor, workers, self.config.executor)) or SERIAL
            problems += executor_problems(chosen, self._processes.count)
            if self._storage is not None:
                attempt(problems, self._storage.check)
            self._check_setup(counts_trials=n_trials is None, others=problems)
            spec = self._trial_spec()
            if not is_serial(chosen):
                self._check_sending(spec)
        if not self._processes.is_main:
            best: Architecture | None = follow(self._processes, spec)
            return best
        group = GroupExecutor(self._processes) if self._processes.count > 1 else None
        try:
            with opened(chosen, self._devices, self._policy.trial_timeout) as runner:
                best = self._search(spec, group or runner, n_trials, timeout, patience, retry_failed)
        except Exception as error:
            if group is not None:
                group.stop(error)
            raise
        if group is not None:
            group.end(best)
        return best

    def _check_sending(self, spec: TrialSpec) -> None:
        """Raise an error that names what cannot be sent to workers.

        Raises:
            ConfigurationError: something cannot be.
        """
        try:
            pack(spec.for_another_process())
        except Exception as error:  # whatever a part of it raises
            names = ("model_builder", "train_func", "eval_func", "loss_func", "teacher_model", "train_dataloader")
            problems = unsendable({name: getattr(self, name) for name in (*names, "example_batch", "config")})
            raise ConfigurationError(
                problems or f"the settings are sent to workers, but cannot be: {text_of(error)}; run without executor."
            ) from error

    def _search(
        self,
        spec: TrialSpec,
        executor: Executor,
        n_trials: int | None,
        timeout: float | None,
        patience: int | None,
        retry_failed: bool,
    ) -> Architecture | None:
        """Run the trials, call the callbacks after each, and show the progress."""
        self._stopped = False
        with self._looping(spec, executor) as loop:
            trials = self.config.the_search().max_trials if n_trials is None else len(loop.result.tried) + n_trials
            given = {"trials": trials, "seconds": timeout, "patience": patience}
            limits = Limits(**{name: math.inf if limit is None else limit for name, limit in given.items()})  # type: ignore[arg-type]
            if retry_failed:
                for failed in loop.result.failed:
                    loop.directory.reopen(failed)
            if not loop.result.tried:
                self._log_forecast(trials)
                self._fill_by_workers(executor)
            with contextlib.closing(loop.run(limits)) as finished:
                for trial in finished:
                    self._call_back(trial)
                    if self._stopped:
                        loop.stop()
                    elif self.callbacks:  # they may have reassigned hooks
                        loop.spec = replace(self._trial_spec(), report=loop.progress)
            loop.progress.search_finished(loop.result)
            best = loop.result.best
            if best is None:
                logger.warning("no trial in %s is feasible: %r", self.search_dir, loop.result)
            return None if best is None else best.architecture

    def _fill_by_workers(self, executor: Executor) -> None:
        """Divide what the teacher computes for all students among the workers, if they store it on one disk.

        Otherwise each would run the teacher on the samples of its first trial. A mistake in the set-up is raised by the
        first trial.
        """
        training = self._training
        if executor.slots == 1 or not executor.shares_disk or not isinstance(training, Distiller):
            return
        logger.info("%d workers run the teacher on the training data, each on a part", executor.slots)
        architecture = self.search_space.sample(np.random.default_rng(0))
        parts = range(executor.slots)
        calls = [executor.submit(fill_part, self._trial_spec(), architecture, part, len(parts)) for part in parts]
        for call in calls:
            call.exception()

    @contextlib.contextmanager
    def _looping(self, spec: TrialSpec, executor: Executor, proposals: Proposals | None = None) -> Iterator[SearchLoop]:
        """The loop of the search, which holds the directory within the context."""
        bounds = self._bounds if proposals is None else UntrainedBounds()
        with (
            stopping_at_faults(self.search_dir),
            self._open() as directory,
            contextlib.closing(make_progress(self._show_progress_bar)) as progress,
        ):
            spec = replace(spec, report=progress)
            yield SearchLoop(directory, spec, proposals or self._proposals, bounds, executor, self._policy, progress)

    def _call_back(self, trial: Trial) -> None:
        """Call the callbacks; what they change in the trial or in the process does not affect the search."""
        for callback in self.callbacks:
            with self._framework.isolated():
                callback(self, copy.deepcopy(trial))

    @contextlib.contextmanager
    def _open(self) -> Iterator[SearchDirectory]:
        with SearchDirectory.open(self.search_dir, self.describe(), self.search_space, self._storage) as directory:
            self._directory = directory
            try:
                yield directory
            finally:
                self._directory = None

    def _trial_spec(self) -> TrialSpec:
        """The settings that the trials share, from the current hooks and settings."""
        search = self.config.the_search()
        return TrialSpec(
            framework=self._framework,
            training=self._training,
            search_space=self.search_space,
            metrics=search.metrics,
            seed=self.config.seed,
            processes=self._processes,
            promote=search.promote,
            saves_students=self._policy.keep != "none" and not self._ends_with_slices,
            storage=self._storage,
        )

    @property
    def _framework(self) -> PyTorchFramework:
        return self._framework_with(self.teacher_model)

    def _framework_with(self, teacher: nn.Module | None) -> PyTorchFramework:
        return PyTorchFramework(
            self.model_builder,
            self.eval_func,
            self.config.seed,
            self.device,
            teacher,
            self._example,
            self._built,
            self._guard,
            self._chooses_device,
        )

    @property
    def _training(self) -> Training:
        return self._built_in_training if self.train_func is None else FunctionTraining(self.train_func)

    @cached_property
    def _built_in_training(self) -> Training:
        self._check_setup(counts_trials=False)
        return self.make_training()

    def make_training(self, regular_engine: Callable[[RegularTask], Engine] = RegularDistillation) -> Training:
        """The training of students if there is no `train_func`; can be overridden.

        Args:
            regular_engine: makes what runs the regular distillation of a student.
        """
        self._in_use = self._distiller(regular_engine)
        return self._in_use

    def _distiller(
        self, regular_engine: Callable[[RegularTask], Engine] = RegularDistillation, *, read_only: bool = False
    ) -> Distiller:
        assert self.teacher_model is not None
        assert self.train_dataloader is not None
        folder: Path | None = self.teacher_cache_directory
        if self._processes.is_main:
            ensure_no_links(self.search_dir)  # without a search, nothing else has looked there
        elif self.teacher_cache is None:
            folder = None  # the search directory is that of process 0
        return Distiller(
            self.teacher_model,
            self.config,
            self.train_dataloader,
            "auto" if self._chooses_device else self.device,
            Storage(folder, read_only=read_only, elastic=self.search_dir / ELASTIC, **self._sizes),
            loss_func=self.loss_func,
            processes=self._processes,
            regular_engine=regular_engine,
            build=self._framework.build,
        )

    @cached_property
    def _example(self) -> Batch | None:
        if self.example_batch is not None:
            return Batch(self.example_batch)
        if self.train_dataloader is None:
            return None
        return DataStream(self.train_dataloader, self.config.seed).flash_set(1)[0]

    def _recorded(self) -> dict[str, Any]:
        """The description in the search directory; empty if it holds no search."""
        return read_description(self.search_dir) if holds_search(self.search_dir) else {}

    def _with_seed(self, config: AutoDistillationConfig) -> AutoDistillationConfig:
        """The configuration with a seed: the one in the search directory if it has none, else a new one."""
        search = config.search
        if search is None or search.seed is not None:
            return config
        seed = self._processes.broadcast(self._recorded().get("seed", secrets.randbits(32)))
        logger.info("no seed is configured: the search uses %d", seed)
        return config.with_changes(search=search.with_changes(seed=seed))

    def _find_metrics(self) -> None:
        """Configure the metrics if there are none: those in the search directory, or what `eval_func` returns."""
        search = self.config.the_search()
        if search.metrics or self.eval_func is None:
            return
        recorded = self._recorded().get("metrics")
        found = tuple(map(Metric.of, recorded)) if recorded else self._processes.broadcast(self._metrics_returned())
        search = search.with_changes(metrics=found)
        self.config = self.config.with_changes(search=search)
        self._proposals.search = search

    def _metrics_returned(self) -> tuple[Metric, ...]:
        """The metrics that `eval_func` returns for an untrained student."""
        try:
            with self._framework.isolated(verified=True):
                student = self._framework.build(self.search_space.sample(np.random.default_rng(0))).eval()
                metrics = metrics_returned(self._framework.evaluate(student, self.config.seed))
        except SearchStoppedError:
            raise
        except Exception as error:
            raise ConfigurationError(
                "search.metrics names no metric, so that eval_func was called with an untrained student, but it failed "
                f"with {type(error).__name__}: {error}; name the metrics that it returns."
            ) from error
        goals = (f"{metric.name} ({'greater' if metric.greater_is_better else 'less'} is better)" for metric in metrics)
        logger.warning("search.metrics names no metric: the search is for %s", ", ".join(goals))
        return metrics

    def _check_setup(self, *, counts_trials: bool, others: Iterable[str] = ()) -> None:
        """Raise an error with all mistakes that can be found before a trial runs, and with the `others`."""
        self._find_metrics()
        problems = [*others, *set_up_problems(self, counts_trials=counts_trials)]
        if problems:
            raise ConfigurationError(problems)

    def describe(self) -> dict[str, Any]:
        """The settings of the search as JSON, compared when it is resumed; override it to add further ones."""
        search = self.config.the_search()
        described = self._training.describe()
        environment = describe_environment(self.device) | described.pop("environment", {})
        teacher = self.teacher_model
        return {
            "space": self.search_space.to_json(),
            "advisor": type(self.advisor).__name__,
            "metrics": [metric.to_json() for metric in search.metrics],
            "max_trials": search.max_trials,
            "promote": search.promote,
            "seed": self.config.seed,
            **described,
            "teacher": self._framework.fingerprint(teacher) if teacher is not None else None,
            "processes": self._processes.count,
            **({} if self._storage is None else {"storage": self._storage.url}),
            "environment": environment,
        }

    def stop(self) -> None:
        """End the search after the current trial; for callbacks."""
        self._stopped = True

    def model_arch_proposition(self) -> Architecture:
        """The architecture of the next trial: an enqueued one, or the proposal of the advisor.

        A proposal whose student breaks a bound before training is skipped; it enters the advisor's history as failed.
        With the built-in distillation, the bounds on `parameters`, `flops` and `size_mb` are checked, and always those
        of every metric marked `before_training`. `search_loop` does the same without calling this method: to propose
        architectures yourself, pass an advisor.

        Raises:
            SpaceExhaustedError: every architecture of the space has been tried, or breaks a bound before training.
            AdvisorError: the advisor repeated an architecture of its history, or proposed one outside the space.
            ConfigurationError: the set-up is invalid.
        """
        self._find_metrics()
        return self._proposals.next(self.search_result, partial(self._bounds.keeps, self._trial_spec()))

    def enqueue_trial(self, architecture: Mapping[str, Any]) -> None:
        """Enqueue an architecture to be tried before any that the advisor proposes.

        The queue is kept in this object only. A resumed program may fill it again: architectures that were tried are
        skipped.

        Raises:
            SearchSpaceError: the architecture does not belong to the space.
        """
        self._proposals.enqueue(architecture)

    def add_trial(self, architecture: Mapping[str, Any], metrics: Mapping[str, float]) -> Trial:
        """Record a trial that was run elsewhere, as complete; it has no student.

        It counts towards `max_trials`, and can be the best.

        Raises:
            ConfigurationError: a metric of the search is missing or not finite, or the set-up is invalid.
            SearchSpaceError: the architecture does not belong to the space.
            SearchDirectoryError: a trial has this architecture; or the directory cannot be used, for example because
                this object's `search_loop` holds it (in a callback).
        """
        self._check_setup(counts_trials=False)
        values = measured_elsewhere(metrics, self.config.the_search().metrics)
        with self._open() as directory:
            return directory.add(architecture, values)

    def importance(self) -> dict[str, dict[str, float]]:
        """For each goal of the search, the share of its variance that each dimension explains, largest first.

        Computed by Optuna's functional analysis of variance.

        Raises:
            AdvisorError: fewer than two trials are complete.
        """
        return self._proposals.importance(self.search_result)

    def predict(self, architecture: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation that a Gaussian process predicts for each goal of the search.

        Raises:
            AdvisorError: fewer than two trials are complete.
            SearchSpaceError: the architecture does not belong to the space.
        """
        return self._proposals.predict(self.search_result, architecture)

    def train_evaluate(self, architecture: Architecture | None = None) -> dict[str, float]:
        """Build, train and measure one student as in a trial, without recording it; every process must call it.

        Args:
            architecture: of the space; by default the one that `model_arch_proposition` returns.

        Returns:
            Its metrics.
        """
        self._guard = HookGuard()
        with self._processes.together():
            self._check_setup(counts_trials=False)
            proposed = self.model_arch_proposition() if architecture is None else architecture
            trial = Trial(0, self.search_space.validate(proposed))
        with self._processes.together():
            spec = replace(self._trial_spec(), promote=None)
            outcome = run_trial(spec, trial)
            problem = missing_metrics(spec.metrics, outcome) if self._processes.is_main else None
            if problem is not None:
                raise ConfigurationError(problem)
        shared: dict[str, float] = self._processes.broadcast(outcome.metrics)
        return shared

    # --- elastic students ---

    @property
    def _ends_with_slices(self) -> bool:
        """Whether trials end with the slice of the elastic student, which is not stored, as it can be cut out again."""
        return self.config.elastic is not None and self.config.regular_distillation is None

    @interruptible()
    def finish(
        self,
        architecture: Mapping[str, Any],
        train_steps: int | None = None,
        *,
        executor: Any = None,
        workers: int | None = None,
    ) -> Trial:
        """Train the student of an architecture to the end, and keep it, whatever its trial has done before.

        With an elastic student it starts as its slice. One that is trained already is trained again only if
        `train_steps` are given.

        Args:
            architecture: of the space; one that has no trial gets one.
            train_steps: of regular distillation, instead of those that are configured.
            executor: as in `search_loop`: its workers train the blocks of flash distillation at the same time, which
                must be fed by the teacher.
            workers: see `executor`.

        Returns:
            Its trial, which is complete; `load_model` returns the student.

        Raises:
            ConfigurationError: there is a `train_func` or another mistake in the set-up.
            SearchSpaceError: the architecture does not belong to the space.
            SearchDirectoryError: the directory holds another search, or cannot be used.
            SearchStoppedError: the training failed.
        """
        architecture = self.search_space.validate(architecture)
        problems = finish_problems(self, train_steps)
        asked = executor is not None or workers is not None  # the configured one is that of trials
        configured = self.config.executor if asked else None
        chosen = attempt(problems, lambda: chosen_executor(executor, workers, configured)) or SERIAL
        problems += [] if is_serial(chosen) else block_problems(self)
        self._check_built_in("finish", "trains by the built-in distillation", problems)
        spec = replace(self._trial_spec(), training=self._finishing(train_steps), saves_students=True)
        with (
            opened(chosen, self._devices, None) as runner,
            self._looping(spec, SerialExecutor()) as loop,
        ):
            if not is_serial(chosen):
                loop.spec = replace(loop.spec, block_workers=partial(SpreadBlocks, runner, spec))
            trial = loop.finish(architecture, again=train_steps is not None)
            self._call_back(trial)
            return trial

    def _finishing(self, train_steps: int | None) -> Training:
        """The training of a student to the end, with this number of steps of regular distillation."""
        configured = self.config
        elastic = configured.elastic
        precision = "no" if elastic is None else elastic.mixed_precision  # in which the teacher's outputs were computed
        regular = configured.regular_distillation or RegularDistillationConfig(mixed_precision=precision)
        if train_steps is not None:
            regular = regular.with_changes(train_steps=train_steps)
        self.config = configured.with_changes(regular_distillation=regular)
        try:
            return self.make_training()
        finally:
            self.config = configured

    @interruptible()
    def for_limit(self, n_trials: int = 20, train_steps: int | None = None, **limits: float) -> Trial:
        """The best student under new limits, chosen among slices of the elastic student and then finished.

        No student is trained to choose it: a new limit costs minutes, not a search.

        Args:
            n_trials: slices that the advisor proposes under the limits, besides those that were evaluated.
            train_steps: see `finish`.
            limits: by the name of a metric, its largest value, or its least if greater is better: `latency=5.0`.

        Returns:
            Its trial, which is complete; `load_model` returns the student.

        Raises:
            ConfigurationError: there is no elastic student, no student keeps the limits, or a metric is not known.
        """
        self._find_metrics()
        search = self.config.the_search()
        problems = [*slice_problems(self, n_trials, limits), *finish_problems(self, train_steps)]
        self._check_built_in("for_limit", "chooses by the built-in distillation", problems)
        metrics = with_limits(search.metrics, limits)
        proposals = Proposals(search.with_changes(metrics=metrics), self.advisor, self.history_from)
        promote = None if self._ends_with_slices else search.promote or PROMOTED  # trials end with their slices
        spec = replace(self._trial_spec(), metrics=metrics, promote=promote)
        with self._looping(spec, SerialExecutor(), proposals) as loop:
            with contextlib.closing(loop.run(Limits(len(loop.result.tried) + n_trials, promotes=False))) as finished:
                for trial in finished:
                    self._call_back(trial)
            best = best_slice(SearchResult(list(loop.result), metrics))
        if best is None:
            raise ConfigurationError(
                f"a student must keep the limits ({', '.join(f'{name}={limit:g}' for name, limit in limits.items())}), "
                f"but none of the {len(self.search_result)} that were evaluated does; relax them, or search smaller "
                "architectures."
            )
        return self.finish(best.architecture, train_steps)

    def _is_slice(self, trial: Trial) -> bool:
        """Whether the student of a trial is a slice of the elastic student that was not trained on its own."""
        if self.config.elastic is None or trial.added:
            return False
        complete = trial.state is TrialState.COMPLETE and not trial.student
        return trial.state is TrialState.PAUSED or (complete and self._ends_with_slices)

    def _slice(self, architecture: Architecture) -> nn.Module:
        """The student of an architecture as a slice of the trained elastic student."""
        self._guard = HookGuard()
        self._check_setup(counts_trials=False)
        student = self._framework.build(architecture)
        elastic = self._distiller().elastic
        assert elastic is not None
        elastic.write(student)
        return student.eval()

    # --- before searching ---

    def forecast(self, n_trials: int | None = None) -> Forecast:
        """Predict what `search_loop` costs, from one batch of typical size and three students drawn at random.

        The students are trained for a few steps, and discarded. Neither the search directory nor the results of a
        search are changed.

        Args:
            n_trials: the number of trials; by default those that remain until `max_trials`.

        Returns:
            What the teacher computes, disk and memory, the time of a trial and of the search, and what is limited by a
            setting, with the remedy.

        Raises:
            ConfigurationError: there is a `train_func`, whose cost is not known; or the set-up is invalid.

        Examples:
            >>> data = [(torch.randn(8, 3), torch.randint(0, 2, (8,))) for _ in range(2)]
            >>> search = {"search_space": {"width": [2, 4]}, "metrics": ["parameters"], "max_trials": 2, "seed": 0}
            >>> agent = AutoDistillation(
            ...     lambda sizes: nn.Sequential(nn.Linear(3, sizes["width"]), nn.Linear(sizes["width"], 2)),
            ...     {"search": search, "regular_distillation": {"train_steps": 5}},
            ...     teacher_model=nn.Linear(3, 2),
            ...     train_dataloader=data,
            ...     search_dir="not-created",
            ... )
            >>> forecast = agent.forecast()
            >>> forecast.teacher.samples, forecast.trials, Path("not-created").exists()
            (16, 2, False)
        """
        self._check_built_in("forecast", "predicts the built-in distillation")
        if n_trials is None:
            search, space = self.config.the_search(), self.search_space
            total = search.max_trials if search.max_trials is not None else space.size
            n_trials = None if total is None else max(0, total - len(self.search_result.tried))
        return Preparation(self._distiller(read_only=True)).forecast(self._examples(3), n_trials)

    def fill_teacher_cache(self, part: int = 0, parts: int = 1) -> None:
        """Run the teacher on everything that students of the search will request, and store it.

        A `search_loop` that follows runs the teacher only for a few checks. It yields the same students, to the bit if
        both use the same number of threads. What is stored already is not computed again.

        Args:
            part: of the work, from 0: for processes that share it, each with another part. In the end one process must
                call it without parts; it stores what remains.
            parts: their number.

        Raises:
            ConfigurationError: there is a `train_func`, which does not use the cache; or the set-up is invalid.
        """
        parts_problems = count_problems({"part": (part, 0), "parts": (parts, 1)})
        if not parts_problems and part >= parts:
            parts_problems = [f"part must be less than parts, but got {part} of {parts}."]
        self._check_built_in("fill_teacher_cache", "fills the cache of the built-in distillation", parts_problems)
        Preparation(self._distiller()).fill_cache(self._examples(1)[0], part, parts)

    def _log_forecast(self, trials: int | None) -> None:
        """Log what the trials will cost, if anyone reads it; mistakes in the set-up are raised by the first trial."""
        if self._in_use is None or self.train_func is not None or trials == 0 or not logger.isEnabledFor(logging.INFO):
            return
        try:
            forecast = Preparation(self._in_use).forecast(self._examples(1), trials)
        except SearchStoppedError:
            raise
        except Exception:  # whatever a model raises
            logger.debug("the cost of the search cannot be predicted", exc_info=True)
        else:
            logger.info("%s", forecast.describe())

    def _check_built_in(self, name: str, what: str, others: Sequence[str] = ()) -> None:
        if self.train_func is not None:
            others = [*others, f"{name} {what}, but there is a train_func; leave one of them out."]
        self._guard = HookGuard()
        self._check_setup(counts_trials=False, others=others)

    def _examples(self, count: int) -> list[nn.Module]:
        """Students of some architectures of the space, drawn at random."""
        generator = np.random.default_rng(0)
        with self._framework.isolated(verified=True):
            return [self._framework.build(self.search_space.sample(generator)) for _ in range(count)]

    # --- results ---

    @property
    def search_result(self) -> SearchResult:
        """All trials of the search directory, in order."""
        if self._directory is not None:
            return copy.deepcopy(self._directory.result)
        if not holds_search(self.search_dir):
            return SearchResult([], self.config.the_search().metrics)
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
            ConfigurationError: there is no feasible trial, or students are not kept.
            SearchDirectoryError: its files are not those that were saved.
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
            ConfigurationError: it was not kept, or its trial is not complete or was added.
            SearchDirectoryError: its files are not those that were saved.
            SearchSpaceError: its architecture does not belong to the space; who recorded it may be unknown.
        """
        self.search_space.validate(trial.architecture)
        if self._is_slice(trial):
            return self._slice(trial.architecture)
        directory = find_student(self.search_dir, trial, self._storage)
        teacher = self._teacher if isinstance(self._teacher, nn.Module) else None  # it is not loaded for this
        return self._framework_with(teacher).load(trial.architecture, directory)
