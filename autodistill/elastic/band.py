"""The training of one elastic student: every step trains slices of it towards the teacher's cached outputs."""

from __future__ import annotations

import json
import logging
import shutil
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config.elastic import ElasticConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.config.phase import PhaseConfig
from autodistill.config.temperature import temperature_at
from autodistill.data_stream import DataStream
from autodistill.distillation.checkpoints import Checkpoints, LoopCheckpoint, under
from autodistill.distillation.plan import Plan
from autodistill.distillation.regular import RegularTask
from autodistill.distillation.step_loop import StepLoop
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.elastic.building import without_random_weights
from autodistill.elastic.space import Build, ElasticSpace, Kind, structure
from autodistill.elastic.student import ElasticStudent, Slice
from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.initialization.from_teacher import TeacherStart
from autodistill.initialization.initializer import TeacherInitializer
from autodistill.initialization.pairing import Order
from autodistill.losses.criterion import Criterion, TrainingStep
from autodistill.models.attention import eager_attention
from autodistill.models.families import require_family
from autodistill.models.modes import plain_forward
from autodistill.models.taps import TapRecorder
from autodistill.seeds import derive_seed
from autodistill.tensors import content_hash
from autodistill.training import TrainingReport
from search_spaces import Architecture, SearchSpace

logger = logging.getLogger(__name__)

CHECKPOINT = "checkpoint"

_MADE_OF = "made_of"
"""The key of a file's record for a hash of all that the weights depend on."""

_KEPT = 256
"""How many slices are kept, without weights, for the next time that they are drawn."""


@dataclass(frozen=True)
class ElasticTask:
    """What the training of elastic students depends on.

    Args:
        settings: of the training.
        described: all settings on which the trained weights depend, as a text.
        space: the architectures.
        build: `architecture -> student` on the device.
        start: the settings of the start inside the teacher.
        initializer: writes students from the teacher.
        resolve: returns the plan of a student's distillation, whose regular stage and criterion are used.
        stream: the training data.
        cache: the teacher's outputs.
        device: of the training.
        seed: of the search.
        directory: of the trained elastic students and their checkpoints; None keeps none.
        checkpoint_steps: steps between two checkpoints.
    """

    settings: ElasticConfig
    described: str
    space: SearchSpace
    build: Build
    start: InitializationConfig
    initializer: TeacherInitializer
    resolve: Callable[[nn.Module], Plan]
    stream: DataStream
    cache: TeacherCache
    device: torch.device
    seed: int
    directory: Path | None = None
    checkpoint_steps: int = 200


@dataclass(frozen=True)
class Band:
    """A width, and the steps of the training of its elastic student."""

    width: int
    steps: int

    @property
    def name(self) -> str:
        """The name of its files."""
        return f"width-{self.width}"

    def is_trained(self, directory: Path | None) -> bool:
        """Whether its elastic student is in a directory."""
        return directory is not None and (directory / f"{self.name}.safetensors").exists()


@dataclass(frozen=True)
class _Drawn:
    """A slice, the plan of the students of its kind, and whether it needs eager attention."""

    slice: Slice
    plan: Plan
    eager: bool

    @property
    def criterion(self) -> Criterion:
        assert self.plan.regular_criterion is not None
        return self.plan.regular_criterion


class BandTraining:
    """Trains the elastic student of a band.

    Args:
        task: what it depends on.
        space: the architectures as slices.
        band: the width and the steps.
        wider: the trained band before it, as a slice of which it starts; None for the widest.

    Attributes:
        matchers: the feature matchers, which students of one width share.
    """

    def __init__(self, task: ElasticTask, space: ElasticSpace, band: Band, wider: BandTraining | None) -> None:
        self.band = band
        self.matchers = nn.ModuleDict()
        self._task, self._space, self._wider = task, space, wider
        self._drawn: OrderedDict[str, _Drawn] = OrderedDict()
        self._plans: dict[Kind, Plan] = {}
        self._eager: set[Kind] = set()  # the kinds whose students need eager attention
        self._start: TeacherStart | None = None  # of the largest student, unless it was read
        self._student: ElasticStudent | None = None

    @property
    def student(self) -> ElasticStudent:
        """The trained elastic student."""
        assert self._student is not None
        return self._student

    @property
    def _seed(self) -> int:
        return derive_seed(self._task.seed, "elastic", self.band.name)

    def train(self, report: TrainingReport) -> None:
        """Train the elastic student, or read it if it is trained.

        Raises:
            SearchDirectoryError: the directory holds one of other settings.
            NonFiniteError: the loss became NaN or infinite.
        """
        self._student = self._read()
        if self._student is None:
            elastic = self._untrained()
            self._prepare_matchers(elastic)
            self._run(elastic, report)
            self._write(elastic)
            self._student = elastic

    # --- the elastic student before its training ---

    def _untrained(self) -> ElasticStudent:
        """The elastic student as it starts: as a slice of the wider one, or inside the teacher, with fitted norms."""
        width, initializer = self.band.width, self._task.initializer
        largest = self._task.build(self._space.widths[width]).eval()
        self._start = self._written(largest)
        if self._wider is not None:
            self._wider.student.write(largest)
            self._correct_gains(largest, self._correction(width) / self._correction(self._wider.band.width))
        initializer.fit(largest, self._start, writers=self._wider is None)
        return ElasticStudent(largest, **self._space.options).to(self._task.device)

    def _correct_gains(self, student: nn.Module, factor: float) -> None:
        """Correct the gains of norms, which are those of a wider student, for the directions that are missing here."""
        _, base, table = require_family(student, self._task.start.family, "student")
        with torch.no_grad():
            for name, parameter in base.named_parameters():
                if parameter.shape == (self.band.width,) and name.endswith("weight"):
                    parameter.copy_((parameter + table.gain_offset) * factor - table.gain_offset)

    def _correction(self, width: int) -> float:
        """c, the factor of the gains of students of a width; see `autodistill.initialization.from_teacher`."""
        subspace = self._task.initializer.subspace(structure(self._task.build, self._space.widths[width]))
        return float((subspace.explained * subspace.teacher_width / width) ** 0.5)

    def _written(self, student: nn.Module) -> TeacherStart:
        """Write the teacher's projection; all widths have the scale of the widest."""
        order: Order = "importance and channels" if self._space.resizes_heads else "importance"
        return self._task.initializer.write(student, scale_of=max(self._space.widths), order=order)

    def _build(self, architecture: Architecture) -> nn.Module:
        with without_random_weights():
            return self._task.build(architecture).eval()

    # --- criteria ---

    def _plan(self, student: nn.Module, elastic: ElasticStudent) -> Plan:
        """The plan of a student, whose matchers are those of all students of its width.

        Args:
            student: as it is built.
            elastic: the elastic student.
        """
        kind = self._space.kind(student)
        if kind not in self._plans:
            elastic.write(student)
            plan = self._task.resolve(student)
            criterion = plan.regular_criterion
            assert criterion is not None
            self._start_matchers(student, elastic, criterion)
            for index, matcher in enumerate(criterion.feature_matchers):
                name = matcher_name(kind[0], index, matcher)
                if name not in self.matchers:
                    self.matchers[name] = matcher
                criterion.feature_matchers[index] = self.matchers[name]
            if any(model is student for model in plan.eager):
                self._eager.add(kind)
            self._plans[kind] = replace(plan, eager=tuple(model for model in plan.eager if model is not student))
        return self._plans[kind]

    def _start_matchers(self, student: nn.Module, elastic: ElasticStudent, criterion: Criterion) -> None:
        """Initialize matchers with the map back to the teacher's stream; those of a trained student are read later."""
        start = self._start
        if start is not None:
            layers = tuple(start.layers[layer] for layer in elastic.nested(student).layers)
            start = replace(start, layers=layers)
            self._task.initializer.start_matchers(start, student, criterion)

    def _prepare_matchers(self, elastic: ElasticStudent) -> None:
        """Make the matchers of all depths, if there are any, before the optimizer receives them."""
        space, width = self._space, self.band.width
        criterion = self._plan(self._build(space.widths[width]), elastic).regular_criterion
        if criterion is not None and len(criterion.feature_matchers):
            for architecture in space.variations(width):
                self._plan(self._build(architecture), elastic)

    # --- training ---

    def _run(self, elastic: ElasticStudent, report: TrainingReport) -> None:
        task, settings, steps = self._task, self._task.settings, self.band.steps
        stage = f"elastic distillation, width {self.band.width}"
        report.stage(stage, steps)
        loop = StepLoop(stage, _of_loop(settings), steps, derive_seed(self._seed, "steps"), task.device, report.step)
        if task.directory is not None:
            task.directory.mkdir(parents=True, exist_ok=True)
        checkpoints = Checkpoints(None if task.directory is None else task.directory / CHECKPOINT)
        modules = {"student": elastic, "matchers": self.matchers}
        checkpoint = LoopCheckpoint(
            checkpoints, self.band.name, modules, task.checkpoint_steps, task.cache.flush, steps
        )
        parameters = [parameter for parameter in elastic.parameters() if parameter.requires_grad]
        plan = next(iter(self._plans.values()))
        with eager_attention(*plan.eager):  # the teacher, if its attention probabilities are mapped
            losses = loop.run(parameters, list(self.matchers.parameters()), self._losses(elastic), checkpoint)
        self._drawn.clear()
        report.finished(stage, losses)

    def _losses(self, elastic: ElasticStudent) -> Callable[[int, int], torch.Tensor]:
        task, samples = self._task, self._task.settings.samples_per_step
        read = self._reader()

        def loss_at(step: int, number: int) -> torch.Tensor:
            drawn = self._slice(self.architecture(step, number % samples), elastic)
            stage = drawn.plan.regular
            assert stage is not None
            batch = read(number)
            _ = batch.sample_keys  # computed where the batch is, before it is moved
            batch = batch.to(task.device)
            teacher = task.cache.outputs(batch, stage.teacher_taps, stage.top_k)
            model = drawn.slice.train().model
            output: list[Any] = []
            with (
                eager_attention(*([model] if drawn.eager else [])),
                plain_forward(model),
                TapRecorder(model, stage.student_taps, owner="student") as recorder,
            ):
                features = recorder.run(lambda: output.append(batch.call(drawn.slice)))
            temperature = temperature_at(stage.settings.temperature, step / self.band.steps)
            return drawn.criterion.step_loss(features, teacher, TrainingStep(batch, temperature, output[0]))

        return loss_at

    def _reader(self) -> Callable[[int], Batch]:
        """A function that returns batch number k of the stream; the cache catches up with those before the first."""
        task = self._task
        plan = next(iter(self._plans.values()))
        assert plan.regular is not None
        assert plan.regular_criterion is not None
        regular = RegularTask(nn.Module(), plan.regular, plan.regular_criterion, task.stream, task.cache, task.device)
        return regular.reader()

    def architecture(self, step: int, position: int) -> Architecture:
        """The architecture that a step trains at a position among its samples."""
        rng = np.random.default_rng(derive_seed(self._seed, "architecture", step, position))
        return self._space.draw(rng, self.band.width, self._task.settings.small_share)

    def _slice(self, architecture: Architecture, elastic: ElasticStudent) -> _Drawn:
        key = self._task.space.key(architecture)
        if key not in self._drawn:
            student = self._drawn_student(architecture)
            plan = self._plan(student, elastic)
            eager = self._space.kind(student) in self._eager
            self._drawn[key] = _Drawn(elastic.slice(student), plan, eager)
            if len(self._drawn) > _KEPT:
                self._drawn.popitem(last=False)
        self._drawn.move_to_end(key)
        return self._drawn[key]

    def _drawn_student(self, architecture: Architecture) -> nn.Module:
        try:
            return self._build(architecture)
        except Exception as error:
            raise ConfigurationError(
                "model_builder must be able to build every architecture of the space of elastic students, but for "
                f"{architecture} it raised {type(error).__name__}: {error}; exclude it by a constraint."
            ) from error

    # --- files ---

    @cached_property
    def _made_of(self) -> str:
        """A hash of all that the trained weights depend on, apart from the other widths and smaller students."""
        task = self._task
        largest = structure(task.build, self._space.widths[self.band.width])
        shapes = {name: list(parameter.shape) for name, parameter in largest.named_parameters()}
        return content_hash((task.described, task.seed, task.cache.fingerprint, json.dumps(shapes, sort_keys=True)))

    def _write(self, elastic: ElasticStudent) -> None:
        directory = self._task.directory
        if directory is None:
            return
        tensors = {f"student/{name}": tensor for name, tensor in elastic.state_dict().items()}
        tensors |= {f"matchers/{name}": tensor for name, tensor in self.matchers.state_dict().items()}
        Checkpoints(directory).save(self.band.name, tensors, {_MADE_OF: self._made_of})
        shutil.rmtree(directory / CHECKPOINT, ignore_errors=True)

    def _read(self) -> ElasticStudent | None:
        """The trained elastic student, if there is one."""
        directory = self._task.directory
        saved = Checkpoints(directory).load(self.band.name)
        if saved is None:
            return None
        tensors, record = saved
        if record.get(_MADE_OF) != self._made_of:
            path = f"{directory}/{self.band.name}.safetensors"
            raise SearchDirectoryError(
                "an elastic student is used for the settings and the largest architecture with which it was trained, "
                f"but {path} was trained with others; take another search_dir, or keep the largest values in the space."
            )
        space, width = self._space, self.band.width
        elastic = ElasticStudent(self._build(space.widths[width]), **space.options)
        elastic.load_state_dict(under(tensors, "student"))
        if any(name.startswith("matchers/") for name in tensors):
            self._prepare_matchers(elastic)
            self.matchers.load_state_dict(under(tensors, "matchers"), strict=False)
        return elastic.to(self._task.device)


def _of_loop(settings: ElasticConfig) -> PhaseConfig:
    """The settings as those of the step loop."""
    names = [name for name in PhaseConfig.model_fields if name in ElasticConfig.model_fields]
    values = {name: getattr(settings, name) for name in names}
    return PhaseConfig(**{**values, "gradient_accumulation_steps": settings.samples_per_step})


def matcher_name(width: int, index: int, matcher: nn.Module) -> str:
    """The name of a matcher: students of one width share those of one shape."""
    shapes = "_".join("x".join(map(str, parameter.shape)) for parameter in matcher.parameters())
    return f"{width}|{index}|{shapes}"
