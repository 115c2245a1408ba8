"""One trial's work: build the student, train it, measure it."""

from __future__ import annotations

import logging
import math
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.data import Batch
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError, NonFiniteError, TrialError
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.measure import measure
from autodistill.metrics.metric import Metric
from autodistill.processes import ALONE, Processes
from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed
from autodistill.training import TrainingReport
from search_spaces import Architecture

logger = logging.getLogger(__name__)


ModelBuilder = Callable[[Architecture], nn.Module]


TrainFunction = Callable[[nn.Module], nn.Module]


EvalFunction = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True)
class Outcome:
    """What a trial produced: the trained student, its metrics, and how the training and the timing went."""

    student: nn.Module
    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TrialRunner:
    """Runs the work of any trial of a search; everything random in it derives from the search's seed.

    Args:
        model_builder: `architecture -> student`.
        train_func: `student -> trained student`, or a `Distiller`.
        eval_func: `student -> metrics`; None where every metric is built in.
        metrics: what must be known in the end.
        seed: the search's.
        device: where students are trained and measured.
        teacher: timed in turns with the student.
        example: the batch that latency and FLOPs are measured with.
        processes: train together; process 0 alone evaluates.
        built: the students built so far, as long as they live: none may come back.
    """

    model_builder: ModelBuilder
    train_func: TrainFunction | Distiller
    eval_func: EvalFunction | None
    metrics: Sequence[Metric]
    seed: int
    device: torch.device
    teacher: nn.Module | None = None
    example: Batch | None = None
    processes: Processes = ALONE
    built: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet)

    def build(self, architecture: Architecture) -> nn.Module:
        """The student, on the device; built in the same random state in every trial.

        Raises:
            TrialError: `model_builder` returned no model, an earlier one again, or one with the teacher's weights.
        """
        with isolated_random_state(derive_seed(self.seed, "model_builder")):
            student = self.model_builder(dict(architecture))
        if not isinstance(student, nn.Module):
            raise TrialError(f"model_builder must return an nn.Module, but returned {type(student).__name__}.")
        student = student.to(self.device)
        self._check_new(student)
        self.built.add(student)
        return student

    def _check_new(self, student: nn.Module) -> None:
        if student in self.built:
            raise TrialError(
                "model_builder must build a new model each time, but returned one that it had returned before."
            )
        if self.teacher is None:
            return
        teachers = {parameter.data_ptr(): name for name, parameter in self.teacher.named_parameters()}
        for name, parameter in student.named_parameters():
            if parameter.numel() and parameter.data_ptr() in teachers:
                raise TrialError(
                    f"model_builder must return a model of its own weights, but its {name!r} is the teacher's "
                    f"{teachers[parameter.data_ptr()]!r}, which would be trained; use copy.deepcopy."
                )

    def check(self, architecture: Architecture) -> bool:
        """Resolve the distillation settings against a student, before anything is trained.

        Returns:
            Whether there was anything to resolve them against: an architecture that cannot be built or run is left to
            its trial, which records why.

        Raises:
            ConfigurationError: the settings do not fit; all mistakes at once.
        """
        if not isinstance(self.train_func, Distiller):
            return True
        try:
            self.train_func.prepare(self.build(architecture))
        except ConfigurationError:
            raise
        except Exception:
            return False
        return True

    def warn_of_promotion(self, architecture: Architecture) -> None:
        """Tell what flash distillation leaves untrained: metrics right after it may then rank by chance."""
        if not isinstance(self.train_func, Distiller):
            return
        try:
            untrained = self.train_func.as_built_after_flash(self.build(architecture))
        except Exception:  # its trial will tell why
            return
        if untrained:
            logger.warning(
                "promote compares students after flash distillation, which leaves %s as model_builder made them: if "
                "they are random and eval_func needs them, it compares by chance. Train them with a block "
                "(block_names), or start students inside the teacher (init='teacher').",
                ", ".join(untrained),
            )

    def run(
        self,
        architecture: Architecture,
        key: str,
        report: TrainingReport | None = None,
        directory: Path | None = None,
        *,
        flash_only: bool = False,
    ) -> Outcome:
        """Build, train, evaluate.

        Args:
            architecture: of the student.
            key: its hash in the space; the randomness of training derives from it.
            report: tells a progress display.
            directory: where an interrupted training goes on from.
            flash_only: the student is evaluated after flash distillation, and trained no further.

        Raises:
            TrialError: a hook returned what it must not; NonFiniteError for a metric that is NaN or infinite.
        """
        student, details = self.train(architecture, key, report, directory, flash_only=flash_only)
        metrics = self._evaluate(student, self._training_seed(key))
        wanted = [metric.name for metric in self.metrics if metric.name in BUILT_IN and metric.name not in metrics]
        if wanted:
            measurement = measure(student, wanted, example=self.example, teacher=self.teacher)
            metrics |= measurement.metrics
            details |= measurement.details
        return Outcome(student, metrics, details)

    def train(
        self,
        architecture: Architecture,
        key: str,
        report: TrainingReport | None = None,
        directory: Path | None = None,
        *,
        flash_only: bool = False,
    ) -> tuple[nn.Module, dict[str, Any]]:
        """Build and train, in all processes together; the arguments are those of `run`.

        Returns:
            The student in eval mode, and how the training went.

        Raises:
            TrialError: a hook returned what it must not, or another process failed.
        """
        seed = self._training_seed(key)
        details: dict[str, Any] = {}
        with self.processes.together():
            student = self.build(architecture)
            with isolated_random_state(seed):
                if isinstance(self.train_func, Distiller):
                    details["distillation"] = self.train_func(
                        student, seed=seed, report=report, directory=directory, flash_only=flash_only
                    )
                else:
                    student = self.train_func(student)
            if not isinstance(student, nn.Module):
                raise TrialError(f"train_func must return the trained model, but returned {type(student).__name__}.")
        return student.eval(), details

    def _training_seed(self, key: str) -> int:
        return derive_seed(self.seed, "training", key)

    def _evaluate(self, student: nn.Module, seed: int) -> dict[str, float]:
        if self.eval_func is None:
            return {}
        with isolated_random_state(derive_seed(seed, "evaluation")), torch.no_grad():
            returned = self.eval_func(student)
        if not isinstance(returned, Mapping):
            raise TrialError(f"eval_func must return a mapping of metrics, but returned {type(returned).__name__}.")
        metrics = {}
        for name, value in returned.items():
            try:
                metrics[str(name)] = float(value)
            except (TypeError, ValueError) as error:
                raise TrialError(
                    f"a metric must be a number, but eval_func returned {value!r} for {name!r}."
                ) from error
            if not math.isfinite(metrics[str(name)]):
                raise NonFiniteError(f"a metric must be finite, but eval_func returned {value} for {name!r}.")
        return metrics

    def check_metrics(self, outcome: Outcome) -> None:
        """Refuse an outcome that lacks a metric of the search: a mistake in the set-up, not in the trial.

        Raises:
            ConfigurationError: names every missing metric and those there are.
        """
        missing = [metric.name for metric in self.metrics if metric.name not in outcome.metrics]
        if missing:
            raise ConfigurationError(
                f"eval_func must return every metric that is not built in, but {', '.join(map(repr, missing))} is "
                f"missing; it returned {', '.join(map(repr, outcome.metrics)) or 'nothing'}, and the built-in ones are "
                f"{', '.join(BUILT_IN)}."
            )
