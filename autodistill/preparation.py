"""What may precede a search: the prediction of its cost, and a pass of the teacher that fills its cache."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterator, Sequence, Sized
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.data_stream import DataStream
from autodistill.distillation.activation_store import GIB
from autodistill.distillation.flash_set import FlashSet
from autodistill.distillation.plan import Plan
from autodistill.distillation.predicted_cost import (
    DataView,
    FlashReads,
    RegularReads,
    count_samples,
    mean,
    memory_of,
    predict_teacher_work,
    shortened,
    step_seconds,
    timed,
)
from autodistill.distillation.regular import RegularDistillation, RegularTask
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.distiller import Distiller
from autodistill.environment import resolve_device
from autodistill.forecast import Forecast, TeacherWork, format_bytes
from autodistill.models.attention import eager_attention
from autodistill.models.taps import Tap
from autodistill.padding import recurrence_problem
from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed
from autodistill.training import TrainingContext
from search_spaces import Architecture


class Preparation:
    """Predicts what the students of a distiller will cost, and computes beforehand what they request of the teacher.

    Args:
        distiller: its results do not depend on whether it was prepared.

    Examples:
        >>> from autodistill.config import AutoDistillationConfig
        >>> search = {"search_space": {"width": [4]}, "metrics": ["loss"]}
        >>> config = AutoDistillationConfig.load({"search": search, "regular_distillation": {"train_steps": 2}})
        >>> data = [(torch.randn(8, 3), torch.randint(0, 2, (8,))) for _ in range(2)]
        >>> preparation = Preparation(Distiller(nn.Linear(3, 2), config, data, "cpu"))
        >>> preparation.forecast([nn.Linear(3, 2)], trials=5).teacher.samples
        16
    """

    def __init__(self, distiller: Distiller) -> None:
        self._distiller = distiller
        self._config = distiller.config
        self._storage = distiller.storage
        self._device = resolve_device(distiller.device)

    @property
    def _cache(self) -> TeacherCache:
        return self._distiller.cache

    @property
    def _flash_set(self) -> FlashSet:
        return self._distiller.flash_set

    def fill_cache(self, student: nn.Module, part: int = 0, parts: int = 1) -> None:
        """Store what the teacher computes in a search: hidden states of the flash set, and outputs by sample.

        Every value is computed in the batch in which a search would compute it, so that a search finds what it would
        have computed itself: to the bit, if the processes use as many threads as it does.

        Args:
            student: of any architecture, on `device`; it is not changed.
            part: of the work, from 0: the batches whose number is `part` modulo `parts`. Other processes do the others.
            parts: their number. With one part, the decomposition of the teacher's stream is stored too, if students
                start inside the teacher.

        Raises:
            ConfigurationError: the settings do not fit the student.
        """
        student = copy.deepcopy(student)
        plan = self._distiller.resolve(student) if parts == 1 else self._distiller.resolve(student, checks_start=False)
        hidden = self._hidden_states(plan)
        whole = self._whole(student, plan)
        outputs = [] if whole.regular is None else whole.regular.teacher_taps
        with isolated_random_state(derive_seed(self._config.seed, "fill")), eager_attention(*plan.eager):
            for number, batch, new in self._batches_to_fill(outputs):
                if number % parts == part:
                    in_flash_set = number < self._flash_set_size
                    self._cache.fill(batch.to(self._device), hidden if in_flash_set else [], outputs, new)
            if parts == 1:
                self._distiller.initialize(student, plan)
        self._cache.flush()

    def _batches_to_fill(self, outputs: Sequence[Tap]) -> Iterator[tuple[int, Batch, list[int]]]:
        """The batches that a student reads, with their numbers, and the indices of samples that are in none before."""
        count, number = max(self._flash_set_size, self._whole_batches if outputs else 0), 0
        seen: set[bytes] = set()
        recur = recurrence_problem(self._flash_set.batches) is None
        for epoch in itertools.count():
            read = 0
            for batch in itertools.islice(self._distiller.stream.epoch(epoch), count - number):
                first = {key: index for index, key in reversed(list(enumerate(batch.sample_keys or ())))}
                yield number, batch, sorted(index for key, index in first.items() if key not in seen)
                seen.update(first)
                number, read = number + 1, read + batch.size
            everything = recur and read == count_samples(self._distiller.train_dataloader)
            if number == count or (everything and self._cache.keeps_by_sample(self._flash_set.batch(0), outputs)):
                return

    @property
    def _whole_batches(self) -> int:
        """The number of batches that are read where students are trained as a whole."""
        return max(self._distiller.regular_batches, self._distiller.elastic_batches)

    def _whole(self, student: nn.Module, plan: Plan) -> Plan:
        """The plan of a student with a regular stage if an elastic student is trained, which has that of its slices."""
        trains = plan.regular is None and self._config.elastic is not None
        return self._distiller.resolve_whole(student) if trains else plan

    @property
    def _flash_set_size(self) -> int:
        return 0 if self._distiller.phases.flash is None else len(self._flash_set.batches)

    def _hidden_states(self, plan: Plan) -> list[Tap]:
        """The layers of the teacher that flash distillation of this and of other students may request."""
        if self._distiller.phases.flash is None:
            return []
        reduced = {tap for stage in plan.flash if stage.top_k is not None for tap in stage.top_k.taps}
        mapped = (
            tap
            for stage in plan.flash
            for tap in stage.teacher_taps
            if stage.top_k is None or tap not in stage.top_k.taps
        )
        requested = (tap for tap in self._distiller.requested_in_flash(self._flash_set.batch(0)) if tap not in reduced)
        return list(dict.fromkeys([*requested, *mapped]))

    def forecast(self, students: Sequence[nn.Module], trials: int | None = None) -> Forecast:
        """Predict the cost of a search from one batch, without any effect on its results.

        The teacher and the students run a few times on a batch of typical size.

        Args:
            students: one or more, on `device`; copies of them are trained for a few steps. The time of a trial is the
                mean over them.
            trials: that remain to be run; None if their number is not known.

        Raises:
            ConfigurationError: the settings do not fit a student.
        """
        with isolated_random_state(derive_seed(self._config.seed, "forecast")):
            copies = [copy.deepcopy(student) for student in students]
            plans = [self._whole(one, self._distiller.resolve(one, checks_start=False)) for one in copies]
            scratch = self._scratch
            data = DataView.of(self._distiller.train_dataloader, self._distiller.stream, self._flash_set)
            teacher = self._teacher_work(plans[0], data, scratch)
            seconds = [
                self._seconds(student, plan, FlashSet([data.typical], scratch))
                for student, plan in zip(copies, plans, strict=True)
            ]
        self._cache.run.samples += scratch.run.samples
        self._cache.run.forwards += scratch.run.forwards
        kept = min(teacher.disk_bytes, self._storage.activation_budget_gb / 2 * GIB)
        processes = self._distiller.processes.count
        return Forecast(
            data.samples,
            data.padding,
            teacher,
            memory_of(self._distiller.teacher, students, kept),
            flash_seconds=mean(flash for flash, _ in seconds),
            regular_seconds=mean(regular for _, regular in seconds) * self._distiller.regular_batches / processes,
            elastic_seconds=mean(regular for _, regular in seconds) * self._elastic_batches_due,
            trials=trials,
            promoted=(self._config.search.promote if self._config.search is not None else None) or 1.0,
            limits=tuple(self._limits(plans[0], teacher)),
        )

    @property
    def _elastic_batches_due(self) -> int:
        """The number of batches on which an elastic student is still to be trained."""
        elastic, settings = self._distiller.elastic, self._config.elastic
        if elastic is None or settings is None:
            return 0
        return elastic.steps_due(self._storage.elastic) * settings.samples_per_step

    def _teacher_work(self, plan: Plan, data: DataView, scratch: TeacherCache) -> TeacherWork:
        flash, regular = FlashReads(), RegularReads()
        if self._distiller.phases.flash is not None:
            flash = FlashReads(self._flash_set.batches, self._hidden_states(plan))
        if plan.regular is not None:
            count = self._whole_batches
            if self._distiller.phases.init is not None:
                count = max(count, self._distiller.phases.init.batches)
            regular = RegularReads(count, plan.regular.teacher_taps)
        start = FlashReads()
        if self._distiller.initializer is not None:
            start = FlashReads.first(self._flash_set.batches, *self._distiller.initializer.reads())
        with eager_attention(*plan.eager):
            return predict_teacher_work(data, self._cache, scratch, flash, regular, start)

    def _seconds(self, student: nn.Module, plan: Plan, flash_set: FlashSet) -> tuple[float, float]:
        """The seconds of flash distillation, and of a batch of regular distillation, of a student, which is trained."""
        context, flash, regular = TrainingContext(seed=0), 0.0, 0.0
        batch = flash_set.batch(0)
        with eager_attention(*plan.eager):
            if plan.regular is not None and plan.regular_criterion is not None:
                stage, stream = plan.regular, DataStream([batch.content], self._config.seed)
                task = RegularTask(student, stage, plan.regular_criterion, stream, flash_set.cache, self._device)
                regular = step_seconds(
                    lambda steps: RegularDistillation(replace(task, stage=shortened(stage, steps))).run(context),
                    self._device,
                )
            if plan.flash:
                flash = self._flash_seconds(student, plan, flash_set)
        return flash, regular

    def _flash_seconds(self, student: nn.Module, plan: Plan, flash_set: FlashSet) -> float:
        """The seconds of all steps of all blocks, and of the forwards that capture the blocks' inputs."""
        batch = flash_set.batch(0)
        with torch.no_grad():
            forward = timed(lambda: batch.call(student.eval()), self._device)
        steps = mean(stage.steps for stage in plan.flash) * plan.flash[0].settings.gradient_accumulation_steps
        if plan.is_teacher_fed and plan.projection is None and self._distiller.phases.init is not None:
            return steps * 3 * forward  # a backward pass takes twice the time of a forward pass

        def run(count: int) -> object:
            shorter = replace(plan, flash=tuple(shortened(stage, count) for stage in plan.flash))
            return self._distiller.flash_engine(student, shorter, None, flash_set).run(TrainingContext(seed=0))

        return steps * step_seconds(run, self._device) + forward * len(self._flash_set.batches)

    def _limits(self, plan: Plan, teacher: TeacherWork) -> Iterator[str]:
        """What is limited, with the remedy."""
        limit = self._storage.teacher_cache_gb * GIB
        if self._storage.directory is not None and teacher.disk_bytes > limit:
            needed = math.ceil(1.1 * teacher.disk_bytes / GIB)
            yield (
                f"the teacher's features need {format_bytes(teacher.disk_bytes)}, but teacher_cache_gb is "
                f"{self._storage.teacher_cache_gb:g}: the teacher runs again for the rest in every trial; set "
                f"teacher_cache_gb={needed}, or lower flash_set_gb"
            )
        flash, loader = self._distiller.phases.flash, self._distiller.train_dataloader
        if flash is not None and isinstance(loader, Sized):
            drawn, wanted = len(self._flash_set.batches), min(self._distiller.flash_steps, len(loader))
            if drawn < wanted:
                yield (
                    f"flash_set_gb ({flash.flash_set_gb:g}) limits the flash set to {drawn} of {wanted} batches; "
                    f"flash_set_gb: {1.1 * flash.flash_set_gb * wanted / drawn:.2g} holds them all"
                )
        if plan.regular is not None:
            problem = recurrence_problem(self._flash_set.batches)
            if problem is not None and self._cache.keeps_by_sample(self._flash_set.batch(0), plan.regular.teacher_taps):
                yield f"the teacher runs again for many samples: {problem}"
            for reason in self._cache.blockers(plan.regular.teacher_taps):
                yield f"the teacher runs again for each batch of regular distillation, since {reason}"

    @property
    def _scratch(self) -> TeacherCache:
        """A cache in memory that nothing but a forecast reads."""
        flash, precision = self._config.flash_distillation, self._distiller.mixed_precision
        return TeacherCache(self._distiller.teacher, mixed_precision=precision, exact=flash is None or flash.exact)


def fill_part(spec: Any, architecture: Architecture, part: int, parts: int) -> None:
    """In a worker: compute a part of what all students of a search request of the teacher, and store it.

    Args:
        spec: the settings of the search, whose training is a `Distiller`.
        architecture: of any student.
        part: of the work, from 0.
        parts: their number.
    """
    with spec.framework.isolated(verified=True):
        Preparation(spec.training).fill_cache(spec.framework.build(architecture), part, parts)
