"""The built-in training: flash distillation, then regular distillation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.data import Batch, DataStream
from autodistill.distillation.activation_store import Budget
from autodistill.distillation.automatic_mapping import Anatomy, teacher_anatomy
from autodistill.distillation.boundaries import Projection, fitting_features, outside_stage, teacher_fed_stages
from autodistill.distillation.checkpoints import Checkpoints, SharedCheckpoints
from autodistill.distillation.flash import FlashDistillation
from autodistill.distillation.plan import (
    Plan,
    Stage,
    flash_stages,
    frozen_problems,
    path_problems,
    regular_stage,
)
from autodistill.distillation.prediction_checks import prediction_problems
from autodistill.distillation.regular import RegularDistillation
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.distillation.teacher_fed import TeacherFedDistillation
from autodistill.errors import ConfigurationError
from autodistill.initialization.initializer import TeacherInitializer
from autodistill.losses.criterion import Criterion
from autodistill.losses.intermediate_layers import IntermediateLayersKnowledgeDistillationLoss
from autodistill.losses.knowledge_distillation import KnowledgeDistillationLoss
from autodistill.models.blocks import outside_of, repeated_blocks
from autodistill.models.modes import plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import AUTO, Tap, TapRecorder, process_name
from autodistill.processes import ALONE, Processes
from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed
from autodistill.tensors import content_hash
from autodistill.training import NoReport, StageRecord, Trained, TrainingReport

logger = logging.getLogger(__name__)


@dataclass
class Distiller:
    """Distils a teacher into any number of students, with the same data in the same order for each.

    Args:
        teacher: on `device`.
        config: its two phases.
        train_dataloader: read again for every student.
        device: where training happens.
        cache_directory: where the teacher's features are kept; None for memory only.
        teacher_cache_gb: the most that the directory may hold, in GiB.
        activation_budget_gb: the most memory for captured inputs and the teacher's features, in GiB.
        activation_disk_gb: the most disk for captured inputs that do not fit in memory, in GiB.
        loss_func: `(outputs, targets) -> loss`, for students that compute no loss of their own.
        processes: process 0 distils block by block, then all the whole student together.

    Examples:
        >>> config = AutoDistillationConfig.load({
        ...     "search": {"search_space": {"width": [4]}, "metrics": ["loss"]},
        ...     "regular_distillation": {"train_steps": 2},
        ... })
        >>> data = [(torch.randn(8, 3), torch.randint(0, 2, (8,))) for _ in range(2)]
        >>> distil = Distiller(nn.Linear(3, 2), config, data, torch.device("cpu"))
        >>> [record["stage"] for record in distil(nn.Linear(3, 2), seed=0)]
        ['regular distillation']
    """

    teacher: nn.Module
    config: AutoDistillationConfig
    train_dataloader: Iterable[Any]
    device: torch.device
    cache_directory: Path | None = None
    teacher_cache_gb: float = 10.0
    activation_budget_gb: float = 4.0
    activation_disk_gb: float = 50.0
    loss_func: Callable[[Any, Any], torch.Tensor] = nn.functional.cross_entropy
    processes: Processes = ALONE

    keeps_size = True

    def check(self, student: nn.Module) -> None:
        """Resolve the settings against a student."""
        self.prepare(student)
        search = self.config.search
        if search is not None and search.promote is not None:
            untrained = self.as_built_after_flash(student)
            if untrained:
                logger.warning(
                    "promote compares students after flash distillation, which leaves %s as model_builder made them: if "
                    "they are random and eval_func needs them, it compares by chance. Train them with a block "
                    "(block_names), or start students inside the teacher (init='teacher').",
                    ", ".join(untrained),
                )

    def train(self, student: nn.Module, context: Any) -> Trained:
        """Distil."""
        records = self(
            student,
            seed=context.seed,
            report=context.report,
            directory=context.checkpoint_directory,
            flash_only=context.flash_only,
        )
        return Trained(student, tuple(StageRecord(**r) for r in records))

    def describe(self) -> dict[str, Any]:
        """The settings."""
        sections = {"flash_distillation", "regular_distillation"} | (
            {"init"} if self.config.init is not None else set()
        )
        training = self.config.model_dump(mode="json", include=sections)
        training["loss_func"] = process_name(self.loss_func)
        return {"distillation": training, "environment": {"flash_set": self.flash_set_hash}}

    def __call__(
        self,
        student: nn.Module,
        *,
        seed: int,
        report: TrainingReport | None = None,
        directory: Path | None = None,
        flash_only: bool = False,
    ) -> list[dict[str, Any]]:
        """Distil the teacher into a student, in place.

        Args:
            student: on `device`.
            seed: of dropout; matchers and data order derive from the search's seed.
            report: tells a progress display.
            directory: where an interrupted training goes on from; the caller removes it in the end.
            flash_only: stop before regular distillation; called again with the same directory, it goes on from there
                to the same weights as one call makes.

        Returns:
            For each stage how it ran and its first and last loss.

        Raises:
            ConfigurationError: the settings do not fit this student; all mistakes at once.
            NonFiniteError: the loss became NaN or infinite.
        """
        report = report or NoReport()
        plan, criteria = self.prepare(student)
        self._start(student, plan, criteria)
        flash: Callable[..., FlashDistillation | TeacherFedDistillation]
        if any(stage.input is not None for stage in plan.flash):
            flash = partial(TeacherFedDistillation, projection=self._projection(student, plan))
        else:
            flash = partial(FlashDistillation, budget=self._budget(directory), exact=self._exact)
        records: list[dict[str, Any]] = []
        with self.processes.together():
            if self.processes.is_main:
                records = flash(
                    student,
                    plan.flash,
                    criteria,
                    self.flash_set,
                    self.cache,
                    later_taps=plan.teacher_taps,
                    seed=seed,
                    report=report,
                    checkpoints=Checkpoints(directory),
                ).run()
        matchers = criteria[-1].parameters() if criteria else ()
        self.processes.broadcast_tensors([*student.parameters(), *student.buffers(), *matchers])
        if plan.regular is not None and not flash_only:
            records.append(self.distil_whole(student, plan.regular, criteria[-1], seed, report, directory))
        return records

    def distil_whole(
        self,
        student: nn.Module,
        stage: Stage,
        criterion: Criterion,
        seed: int,
        report: TrainingReport,
        directory: Path | None,
    ) -> dict[str, Any]:
        """Regular distillation, in all processes together; returns how it went."""
        return RegularDistillation(
            student,
            stage,
            criterion,
            self.stream,
            self.cache,
            seed=seed,
            device=self.device,
            report=report,
            checkpoints=SharedCheckpoints(directory, self.processes),
            checkpoint_steps=self.config.checkpoint_steps,
            processes=self.processes,
        ).run()

    def _budget(self, directory: Path | None) -> Budget:
        """The captured inputs get one half of the memory, the teacher's features the other."""
        spilled = directory / "activations" if directory is not None else None
        return Budget(self.activation_budget_gb / 2, self.activation_disk_gb, spilled)

    @property
    def _exact(self) -> bool:
        flash = self.config.flash_distillation
        return flash is None or flash.exact

    def _start(self, student: nn.Module, plan: Plan, criteria: Sequence[Criterion]) -> None:
        """Begin inside the teacher, where that is wished; process 0 gives its student to the others."""
        with self.processes.together():
            if self._initializer is not None and self.processes.is_main:
                start = self._initializer.start(student, plan.teacher_taps)
                for criterion in criteria:
                    self._initializer.start_matchers(start, student, criterion)

    def _projection(self, student: nn.Module, plan: Plan) -> Projection | None:
        """What brings the teacher's hidden states to the student's width: the user's, or that of the subspace."""
        flash = self.config.flash_distillation
        given = flash.projection if flash is not None else None
        if given is not None:
            return lambda hidden, tap: given(hidden)
        if (
            self._initializer is None or not self.processes.is_main
        ):  # process 0 alone distils blocks, and has the batches
            return None
        subspace, boundary = self._initializer.subspace(student, plan.teacher_taps), self._initializer.boundary
        return lambda hidden, tap: subspace.project(hidden, boundary(tap))

    @cached_property
    def _initializer(self) -> TeacherInitializer | None:
        if self.config.init is None:
            return None
        batches = self._first_batches[: self.config.init.batches]
        return TeacherInitializer(
            self.config.init, self.teacher, batches, self.cache, self.cache_directory, self.loss_func
        )

    def prepare(self, student: nn.Module) -> tuple[Plan, list[Criterion]]:
        """Resolve the stages for a student, and create their criteria with the matchers that the features ask for.

        Runs the student once on the first batch; the teacher's features of it are kept.

        Raises:
            ConfigurationError: the settings do not fit; all mistakes at once.
        """
        plan = self.plan(student)
        problems = path_problems(plan, student, self.teacher)
        if problems:
            raise ConfigurationError(problems)
        problems = frozen_problems(plan, student)
        if self._initializer is not None and self.processes.is_main:  # the others hold one batch, and get its student
            self._initializer.check(student, plan.teacher_taps)
        batch = self.flash_set[0]
        student_taps = {tap for stage in plan.stages for tap in stage.student_taps}
        with TapRecorder(student, student_taps, owner="student") as recorder:
            features = recorder.run(lambda: self._look(student, batch))
        projection = self._projection(student, plan) if any(stage.input for stage in plan.flash) else None
        teacher = self.cache.features(batch, plan.teacher_taps)
        criteria: list[Criterion] = []
        for index, stage in enumerate(plan.stages):
            different = list(prediction_problems(stage, student, self.teacher, features, teacher))
            problems += different
            if different:
                continue
            if stage.on_predictions:
                criteria.append(KnowledgeDistillationLoss(1.0, stage.loss_types, stage.loss_weights))
                continue
            criterion = IntermediateLayersKnowledgeDistillationLoss(
                stage.mappings,
                stage.loss_types,
                stage.loss_weights,
                stage.add_origin_loss,
                loss_func=self.loss_func,
            )
            criteria.append(criterion)
            fed = stage in plan.flash and plan.flash[0].input is not None
            if fed and not self.processes.is_main:
                continue
            with isolated_random_state(derive_seed(self.config.seed, "matchers", index)):
                try:
                    targets = fitting_features(stage, features, teacher, projection) if fed else teacher
                    criterion.init_feature_matcher(features, targets)
                except ConfigurationError as error:
                    problems.extend(error.problems)
        if problems:
            raise ConfigurationError(problems)
        return plan, criteria

    def as_built_after_flash(self, student: nn.Module) -> list[str]:
        """The paths of the modules whose weights flash distillation leaves as `model_builder` made them.

        None where students start inside the teacher: these weights are the teacher's.
        """
        if self.config.init is not None:
            return []
        blocks = [block for stage in self.plan(student).flash for block in stage.blocks]
        return [] if "" in blocks else outside_of(student, blocks)

    def plan(self, student: nn.Module) -> Plan:
        """The stages for a student, in their order.

        Raises:
            ConfigurationError: the lists of the configuration do not agree with the student's blocks.
        """
        flash, regular = self.config.flash_distillation, self.config.regular_distillation
        stages: tuple[Stage, ...] = ()
        if flash is not None:
            stages = flash_stages(flash, student, self.teacher, self.flash_set[0], self._anatomy)
        if flash is not None and flash.inputs == "teacher" and not flash.on_predictions:
            stages = teacher_fed_stages(stages, student, self.teacher, self.flash_set[0])
        last = None
        if regular is not None:
            batch = self.flash_set[0]
            last = regular_stage(regular, student, self.teacher, batch, self._look(student, batch))
        if self._initializer is not None and stages and stages[0].input is not None:
            outside = outside_stage(stages, last, student)
            if any(p.requires_grad for path in outside.blocks for p in find_module(student, path).parameters()):
                stages = (*stages, outside)
        return Plan(stages, last)

    @cached_property
    def _anatomy(self) -> Anatomy | None:
        flash = self.config.flash_distillation
        return None if flash is None else teacher_anatomy(flash, self.teacher, self.flash_set[0])

    @torch.no_grad()
    def _look(self, student: nn.Module, batch: Batch) -> Any:
        with plain_forward(student):
            return batch.call(student.eval())

    @cached_property
    def stream(self) -> DataStream:
        """The training data, in the same order for every student."""
        return DataStream(self.train_dataloader, self.config.seed)

    @cached_property
    def flash_set(self) -> list[Batch]:
        """The batches of flash distillation, drawn once; one batch where this process has no flash distillation."""
        return self._first_batches[: max(1, self._flash_steps)]

    @property
    def _flash_steps(self) -> int:
        settings = self.config.flash_distillation
        if settings is None or not self.processes.is_main:
            return 0
        per_block = settings.train_steps
        longest = max(per_block) if isinstance(per_block, tuple) else per_block
        return longest * settings.gradient_accumulation_steps

    @cached_property
    def _first_batches(self) -> list[Batch]:
        """Those that flash distillation trains on, and those that a start inside the teacher looks at."""
        looked_at = self.config.init.batches if self.config.init is not None and self.processes.is_main else 1
        return [batch.to(self.device) for batch in self.stream.flash_set(max(looked_at, self._flash_steps))]

    @property
    def flash_set_hash(self) -> str:
        """A hash of the flash set, by which a resumed search sees whether its loader gives the same batches."""
        return content_hash([batch.hash for batch in self.flash_set])

    @cached_property
    def cache(self) -> TeacherCache:
        """The teacher's features."""
        phases = (self.config.flash_distillation, self.config.regular_distillation)
        precision = next((phase.mixed_precision for phase in phases if phase is not None), "no")
        return TeacherCache(
            self.teacher,
            self.cache_directory,
            disk_gb=self.teacher_cache_gb,
            memory_gb=self.activation_budget_gb / 2,
            mixed_precision=precision,
            exact=self._exact,
            ahead=self._every_teacher_block(),
        )

    def _every_teacher_block(self) -> list[Tap]:
        """With the automatic mapping, a student of another depth asks for other blocks of the teacher."""
        flash = self.config.flash_distillation
        if flash is None or flash.layer_mappings_for_knowledge_transfer is not None:
            return []
        return [Tap(block, AUTO) for block in repeated_blocks(self.teacher)]
