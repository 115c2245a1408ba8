"""The search: propose an architecture, build and distil the student, measure it, write it down, and again."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from advisors import Advisor, as_advisor
from autodistill.config import AutoDistillationConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.data import Batch, DataStream
from autodistill.distiller import Distiller
from autodistill.environment import resolve_device
from autodistill.errors import ConfigurationError, SearchStoppedError
from autodistill.processes import current_processes
from autodistill.report.terminal import make_progress
from autodistill.results import Results
from autodistill.search.directory import SearchDirectory
from autodistill.search.layout import TEACHER_CACHE
from autodistill.search.loop import Policy, TrialLoop
from autodistill.search.observations import measured_elsewhere
from autodistill.search.proposals import Proposals
from autodistill.search.trial import Trial
from autodistill.search.trial_runner import EvalFunction, ModelBuilder, TrainFunction, TrialRunner
from autodistill.search.untrained_bounds import UNTRAINED, UntrainedBounds
from autodistill.set_up import Given, argument_problems, describe_search, limit_problems, set_up_problems
from search_spaces import Architecture, SearchSpace

logger = logging.getLogger(__name__)

Callback = Callable[["AutoDistillation", Trial], None]


class AutoDistillation(Results):
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
        callbacks: functions `(search, trial)`, called when a trial is complete, failed, or paused (with `promote`);
            `search.stop()` ends the search there.
        show_progress_bar: bars on a terminal, plain lines elsewhere.
        keep: which trained students stay on disk: those on the Pareto front, all, or none.
        max_retries: how often an interrupted trial is begun again before it counts as failed.
        max_consecutive_failures: so many failed trials in a row stop the search.
        teacher_cache_gb: the most disk that the teacher's features may take, in GiB.
        activation_budget_gb: the most memory for captured inputs and the teacher's features, in GiB; what does not fit
            goes to disk.
        activation_disk_gb: the most disk for captured inputs, in GiB; what does not fit is computed when needed.
        example_batch: what latency and FLOPs are measured with; the first training batch if not given.
        history_from: directories of earlier searches from which the advisor learns: trials in this search's space,
            with all its metrics (with `promote`, as they were after flash distillation). None of their architectures is
            proposed again, and none is ever the best.
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
        self.model_builder = model_builder
        self.train_func = train_func
        self.eval_func = eval_func
        self.teacher_model = teacher_model
        self._train_dataloader = train_dataloader
        self._loss_func = loss_func
        self._example_batch = example_batch
        self._history_from = history_from
        self._sizes = {
            "teacher_cache_gb": teacher_cache_gb,
            "activation_budget_gb": activation_budget_gb,
            "activation_disk_gb": activation_disk_gb,
        }
        counts = {"max_retries": (max_retries, 0), "max_consecutive_failures": (max_consecutive_failures, 1)}
        problems = argument_problems(self._given, callbacks, keep, counts, self._sizes)
        if problems:
            raise ConfigurationError(problems)
        self.config = AutoDistillationConfig.load(config).starting_from(init)
        self._search = self.config.the_search()
        self.search_space: SearchSpace = self._search.search_space
        self.advisor: Advisor = as_advisor(
            self._search.search_algorithm if advisor is None else advisor, self.search_space
        )
        self.search_dir = Path(search_dir)
        self.callbacks = list(callbacks)
        self._processes = current_processes()  # first, since it chooses this process's GPU
        self.device = resolve_device(device)
        if self.teacher_model is not None:
            self.teacher_model = self.teacher_model.to(self.device)
        self._show_progress_bar = show_progress_bar
        self._policy = Policy(keep, max_retries, max_consecutive_failures)
        self._proposals = Proposals(self._search, list(history_from))
        self._untrained_bounds = UntrainedBounds(self._search.metrics)
        self._built: weakref.WeakSet[nn.Module] = weakref.WeakSet()
        self._stopped = False

    def search_loop(
        self, n_trials: int | None = None, timeout: float | None = None, patience: int | None = None
    ) -> Architecture | None:
        """Run trials until the directory holds `max_trials`; resume if it holds this search already.

        Where `accelerate launch` started several processes, each calls this; process 0 leads, and alone works on the
        directory, evaluates and calls callbacks.

        Args:
            n_trials: run so many more instead, whatever `max_trials` says.
            timeout: begin no trial after so many seconds, and promote none (but one where nothing is complete).
            patience: propose no architecture when the Pareto front (the best, where there is one goal) has not changed
                for so many trials.

        Returns:
            The best architecture; None where no trial is feasible.

        Raises:
            ConfigurationError: the set-up is wrong; all mistakes at once, before anything runs.
            SearchDirectoryError: the directory holds another search, or cannot be used.
            SearchStoppedError: too many trials failed in a row; or process 0 stopped, in the others.
            AdvisorError: the advisor repeated itself or left the space.
        """
        with self._processes.together():
            self._check_setup(counts_trials=n_trials is None, others=limit_problems(n_trials, timeout, patience))
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
                key = self.search_space.key(message["train"])
                runner.train(message["train"], key, flash_only=message["flash_only"])
        if "stopped" in message:
            raise SearchStoppedError(f"all processes stop where process 0 does, and it did: {message['stopped']}")
        best: Architecture | None = message["best"]
        return best

    def _lead(self, n_trials: int | None, timeout: float | None, patience: int | None) -> None:
        """Run the trials, tell the callbacks of each, and show how it goes."""
        self._stopped = False
        with (
            SearchDirectory.open(self.search_dir, self._description(), self.search_space) as directory,
            contextlib.closing(make_progress(self._show_progress_bar)) as progress,
        ):
            loop = TrialLoop(
                directory,
                self._search,
                self._policy,
                propose=self.model_arch_proposition,
                make_runner=lambda: self._runner,
                progress=progress,
            )
            for trial in loop.run(n_trials, timeout, patience):
                for callback in self.callbacks:
                    callback(self, trial)
                if self._stopped:
                    break
            progress.search_finished(self.search_result)
            if self.search_result.best is None:
                logger.warning("no trial in %s is feasible: %r", directory.path, self.search_result)

    def stop(self) -> None:
        """End the search after the current trial; for callbacks."""
        self._stopped = True

    def model_arch_proposition(self) -> Architecture:
        """The architecture of the next trial: one that was enqueued, or what the advisor proposes.

        A proposal whose student breaks a bound before it is trained is passed over: to the advisor it is one that
        failed. Checked are, with the built-in distillation, the bounds on `parameters`, `flops` and `size_mb`, and
        those of every metric marked `before_training`.

        Raises:
            SpaceExhaustedError: every architecture of the space has had its trial, or breaks a bound untrained.
            AdvisorError: the advisor proposed one of its history again, or one that is not in the space.
            ConfigurationError: the set-up is wrong.
        """
        return self._proposals.next(self.advisor, self.search_result, self._worth_a_trial)

    def _worth_a_trial(self, architecture: Architecture) -> bool:
        return self._untrained_bounds.keeps(
            self.search_space.key(architecture),
            partial(self._runner.build, architecture),
            self._example,
            self.teacher_model,
            UNTRAINED if self.train_func is None else (),  # a training of the user's own may prune
        )

    def enqueue_trial(self, architecture: Mapping[str, Any]) -> None:
        """Have an architecture tried before any that the advisor proposes.

        The queue lives in this object. A resumed program may fill it again: what has had its trial is passed over.

        Raises:
            SearchSpaceError: the architecture does not belong to the space.
        """
        self._proposals.enqueue(architecture)

    def add_trial(self, architecture: Mapping[str, Any], metrics: Mapping[str, float]) -> Trial:
        """Record a trial that was run elsewhere, as complete; it has no student.

        It counts towards `max_trials`, and may be the best.

        Raises:
            ConfigurationError: a metric of the search is missing, or not finite; or the set-up is wrong.
            SearchSpaceError: the architecture does not belong to the space.
            SearchDirectoryError: a trial has this architecture; or the directory cannot be used, also where it is this
                object's `search_loop` that is at work on it (in a callback).
        """
        self._check_setup(counts_trials=False)
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
        return self._proposals.importance(self.search_result)

    def predict(self, architecture: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
        """Mean and standard deviation of each goal of the search that a Gaussian process expects.

        Raises:
            AdvisorError: fewer than two trials are complete.
            SearchSpaceError: the architecture does not belong to the space.
        """
        return self._proposals.predict(self.search_result, architecture)

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
        self._check_setup(counts_trials=False)
        assert self.teacher_model is not None
        assert self._train_dataloader is not None
        return Distiller(
            self.teacher_model,
            self.config,
            self._train_dataloader,
            self.device,
            self.search_dir / TEACHER_CACHE if self._processes.is_main else None,
            **self._sizes,
            loss_func=self._loss_func,
            processes=self._processes,
        )

    @cached_property
    def _example(self) -> Batch | None:
        if self._example_batch is not None:
            return Batch(self._example_batch)
        if self._train_dataloader is None:
            return None
        return DataStream(self._train_dataloader, self._search.seed).flash_set(1)[0]

    def _check_setup(self, *, counts_trials: bool, others: Iterable[str] = ()) -> None:
        """Everything that can be known to be wrong before a trial runs, at once; with what else was found."""
        problems = [*others, *set_up_problems(self.config, self._given, counts_trials=counts_trials)]
        if problems:
            raise ConfigurationError(problems)

    @property
    def _given(self) -> Given:
        return Given(
            self.model_builder,
            self.train_func,
            self.eval_func,
            self._loss_func,
            self.teacher_model,
            self._train_dataloader,
            self._example_batch,
            self._history_from,
        )

    def _description(self) -> dict[str, Any]:
        return describe_search(
            self.config,
            advisor=type(self.advisor).__name__,
            distiller=self._distiller if self.train_func is None else None,
            teacher=self.teacher_model,
            device=self.device,
            processes=self._processes.count,
        )
