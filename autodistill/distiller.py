"""The built-in training: flash distillation, then regular distillation."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.config.elastic import FINISHING_RATE
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.data_stream import DataStream
from autodistill.distillation.activation_store import GIB, Budget
from autodistill.distillation.automatic_mapping import Anatomy, anatomy_of_teacher, mapped_blocks, run_order
from autodistill.distillation.engine import Engine
from autodistill.distillation.flash import FlashDistillation
from autodistill.distillation.flash_set import FlashSet, draw_flash_set
from autodistill.distillation.plan import Plan, regular_mappings
from autodistill.distillation.regular import RegularDistillation, RegularTask
from autodistill.distillation.resolve_plan import Phases, resolve
from autodistill.distillation.sample_outputs import FOLDER as SAMPLES
from autodistill.distillation.sample_outputs import SampleOutputs
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.distillation.teacher_fed import TeacherFedDistillation
from autodistill.elastic.band import ElasticTask
from autodistill.elastic.training import ElasticTraining
from autodistill.environment import resolve_device
from autodistill.errors import attempt, raise_problems
from autodistill.initialization.initializer import TeacherInitializer, read_by_starts
from autodistill.json_files import encode_json
from autodistill.models.attention import eager_attention
from autodistill.models.blocks import block_rows, outside_of
from autodistill.models.taps import AUTO, INPUT, Tap, process_name
from autodistill.processes import ALONE, Processes
from autodistill.random_data import is_randomly_augmented
from autodistill.tensors import content_hash
from autodistill.training import StageRecord, Trained, TrainedBlocks, TrainingContext, TrainingReport
from search_spaces import Architecture

logger = logging.getLogger(__name__)

ELASTIC_CRITERION = {
    "layer_mappings_for_knowledge_transfer",
    "loss_types",
    "loss_weights",
    "add_origin_loss",
    "temperature",
    "top_k",
    "exact",
}
"""The settings of regular distillation that an elastic student shares."""


@dataclass(frozen=True)
class Storage:
    """How much memory and disk distillation may use.

    Args:
        directory: for the teacher's features; None for memory only.
        teacher_cache_gb: the maximum size of the directory, in GiB.
        activation_budget_gb: the maximum memory for captured inputs and the teacher's features, in GiB.
        activation_disk_gb: the maximum disk space for captured inputs that do not fit in memory, in GiB.
        read_only: nothing is written to the directories, nor removed from them.
        elastic: the directory of the elastic student; None for memory only.
    """

    directory: Path | None = None
    teacher_cache_gb: float = 10.0
    activation_budget_gb: float = 4.0
    activation_disk_gb: float = 50.0
    read_only: bool = False
    elastic: Path | None = None


@dataclass
class Distiller:
    """Distils a teacher into any number of students, with the same data in the same order for each.

    Args:
        teacher: on `device`.
        config: the settings of the two phases.
        train_dataloader: read again for every student.
        device: where training happens, or its name; "auto" is a GPU if there is one.
        storage: how much may be kept in memory and on disk.
        loss_func: `(outputs, targets) -> loss`, for students that do not compute a loss themselves.
        processes: process 0 distils block by block, then all of them distil the whole student together.
        regular_engine: creates the engine of a student's regular distillation.
        build: `architecture -> student` on the device, for elastic students.

    Examples:
        >>> config = AutoDistillationConfig.load({
        ...     "search": {"search_space": {"width": [4]}, "metrics": ["loss"]},
        ...     "regular_distillation": {"train_steps": 2},
        ... })
        >>> data = [(torch.randn(8, 3), torch.randint(0, 2, (8,))) for _ in range(2)]
        >>> distiller = Distiller(nn.Linear(3, 2), config, data, torch.device("cpu"))
        >>> trained = distiller.train(nn.Linear(3, 2), TrainingContext(seed=0))
        >>> [record.stage for record in trained.stages]
        ['regular distillation']
    """

    teacher: nn.Module
    config: AutoDistillationConfig
    train_dataloader: Iterable[Any]
    device: torch.device | str
    storage: Storage = Storage()
    loss_func: Callable[[Any, Any], torch.Tensor] = nn.functional.cross_entropy
    processes: Processes = ALONE
    regular_engine: Callable[[RegularTask], Engine] = RegularDistillation
    build: Callable[[Architecture], nn.Module] | None = None

    keeps_size = True
    _announced_eager: bool = field(default=False, init=False, repr=False)
    _drawn: Sequence[Batch] = field(default=(), init=False, repr=False)  # the flash set of the process that sent this
    _files: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)  # of the elastic student

    def __post_init__(self) -> None:
        self._device = resolve_device(self.device)

    def for_another_process(self, *, with_files: bool) -> Distiller:
        """A copy that holds the flash set instead of reading the data for it, and no features of the teacher.

        Args:
            with_files: with the elastic student, if it was written.
        """
        sent = copy.copy(self)
        for name, member in vars(Distiller).items():
            if isinstance(member, cached_property):
                vars(sent).pop(name, None)
        if self.phases.flash is not None:
            sent._drawn = self.flash_set.batches
        folder = self.storage.elastic
        if with_files and folder is not None and folder.exists():
            sent._files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        if not isinstance(self.device, str):
            sent.device = self.device.type
        return sent

    def place(self, folder: Path | None) -> None:
        """Put the teacher on the device of this process, and keep files in a folder of its own."""
        self._device = resolve_device(self.device)
        self.teacher.to(self._device)
        if folder is not None:
            elastic = folder / "elastic"
            elastic.mkdir()
            for name, content in self._files.items():
                (elastic / name).write_bytes(content)
            self.storage = replace(self.storage, directory=folder / "teacher_cache", elastic=elastic)
        self._files = {}

    def check(self, student: nn.Module) -> None:
        """Resolve the settings against a student, before anything is trained.

        Args:
            student: on `device`; it runs on the first batch.

        Raises:
            ConfigurationError: the settings do not fit this student; all mistakes in one error.
        """
        if self.config.elastic is not None:
            self._check_slices(student)
            return
        plan = self.resolve(student)
        if self.config.search is None or self.config.search.promote is None:
            return
        untrained = self._untrained_by_flash(student, plan)
        if untrained:
            logger.warning(
                "promote compares students after flash distillation, which leaves %s as model_builder made them: if "
                "they are random and eval_func needs them, it compares by chance. Train them with a block "
                "(block_names), or start students inside the teacher (init='teacher').",
                ", ".join(untrained),
            )

    def _check_slices(self, student: nn.Module) -> None:
        """Resolve the settings against one student, and against those that the elastic students are made from."""
        problems: list[str] = []
        attempt(problems, lambda: self.resolve(student))
        attempt(problems, lambda: self.elastic.check() if self.elastic is not None else None)
        raise_problems(problems)

    def prepare(self, report: TrainingReport) -> None:
        """Train the elastic student, if one is configured and it is not trained yet."""
        if self.elastic is not None:
            self.elastic.train(report)

    def train(self, student: nn.Module, context: TrainingContext) -> Trained:
        """Distil the teacher into a student, in place; if there are several processes, all of them call it.

        Args:
            student: on `device`.
            context: its seed is that of dropout; matchers and data order derive from the search's seed. The caller
                removes the checkpoints at the end.

        Returns:
            The same student, with a record for each stage.

        Raises:
            ConfigurationError: the settings do not fit this student; all mistakes in one error.
            NonFiniteError: the loss became NaN or infinite.
        """
        with self.processes.together():
            plan = self.resolve(student)
        if plan.eager and not self._announced_eager:
            self._announced_eager = True
            names = " and ".join("the teacher" if model is self.teacher else "students" for model in plan.eager)
            logger.info("attention probabilities are mapped: %s use eager attention in distillation", names)
        with eager_attention(*plan.eager):
            return Trained(student, tuple(self._run(plan, student, context)))

    def _run(self, plan: Plan, student: nn.Module, context: TrainingContext) -> list[StageRecord]:
        """Run the phases of a plan."""
        records: list[StageRecord] = []
        with self.processes.together():
            if self.elastic is not None:
                self.elastic.write(student, plan.regular_criterion)
            else:
                self.initialize(student, plan)
            if plan.flash:
                records += self.flash_engine(student, plan, context.checkpoint_directory).run(context)
        criterion = plan.regular_criterion
        matchers = criterion.parameters() if criterion is not None else ()
        self.processes.broadcast_tensors([*student.parameters(), *student.buffers(), *matchers])
        if plan.regular is not None and criterion is not None and not context.flash_only:
            steps = self.config.checkpoint_steps
            task = RegularTask(
                student, plan.regular, criterion, self.stream, self.cache, self._device, steps, self.processes
            )
            records += self.regular_engine(task).run(context)
        return records

    def train_blocks(self, student: nn.Module, seed: int, stages: Sequence[int]) -> TrainedBlocks:
        """In a worker: train some teacher-fed blocks of a student, as `train` does with all of them.

        Args:
            student: as it is built.
            seed: of the training of the student.
            stages: the positions of the blocks among the stages of the plan.
        """
        plan = self.resolve(student)
        with eager_attention(*plan.eager):
            self.initialize(student, plan)
            engine = self.flash_engine(student, plan, None)
            assert isinstance(engine, TeacherFedDistillation)
            losses = engine.train_stages(TrainingContext(seed), stages)
        tensors = {name: tensor.detach().cpu() for name, tensor in engine.block_state(stages).items()}
        return TrainedBlocks(stages, tensors, losses)

    def describe(self) -> dict[str, Any]:
        """The settings, and a hash of the flash set by which a resumed search detects other batches."""
        sections = {"flash_distillation", "regular_distillation"}
        sections |= {name for name in ("init", "elastic") if getattr(self.config, name) is not None}
        settings = self.config.model_dump(mode="json", include=sections)
        if self.phases.regular is not None:
            settings["regular_distillation"] = self.phases.regular.model_dump(mode="json")
        settings["loss_func"] = process_name(self.loss_func)
        hashes = [batch.hash for batch in self.flash_set.batches]
        return {"distillation": settings, "environment": {"flash_set": content_hash(hashes)}}

    def resolve(self, student: nn.Module, *, checks_start: bool = True) -> Plan:
        """The stages for a student in order, with new criteria.

        Args:
            student: on `device`.
            checks_start: False leaves out the start inside the teacher, which looks at many batches.

        Raises:
            ConfigurationError: the settings do not fit this student; all mistakes in one error.
        """
        return resolve(
            self.phases,
            student,
            self.flash_set,
            anatomy=self._anatomy,
            subspaces=self.initializer if checks_start else None,
            loss_func=self.loss_func,
        )

    def _describe_elastic(self) -> str:
        """All settings on which a trained elastic student depends: not how its slices are trained afterwards."""
        regular = self.config.regular_distillation or RegularDistillationConfig()
        sections = self.config.model_dump(mode="json", include={"elastic", "init"})
        criterion = regular.model_dump(mode="json", include=ELASTIC_CRITERION)
        return encode_json({**sections, "criterion": criterion, "loss_func": process_name(self.loss_func)})

    def resolve_whole(self, student: nn.Module) -> Plan:
        """The plan of a student that is trained as a whole, also if no regular distillation is configured."""
        regular = self.config.regular_distillation or RegularDistillationConfig()
        phases = replace(self.phases, flash=None, regular=regular)
        return resolve(phases, student, self.flash_set, loss_func=self.loss_func)

    def initialize(self, student: nn.Module, plan: Plan) -> None:
        """Write the first weights of a student and of its plan's matchers from the teacher, if so configured."""
        if self.initializer is not None:
            start = self.initializer.start(student, plan.teacher_taps)
            criteria = [*plan.flash_criteria, *([plan.regular_criterion] if plan.regular_criterion is not None else [])]
            for criterion in criteria:
                self.initializer.start_matchers(start, student, criterion)

    def flash_engine(
        self, student: nn.Module, plan: Plan, directory: Path | None, flash_set: FlashSet | None = None
    ) -> Engine:
        """The engine of a student's flash distillation.

        Args:
            student: on `device`.
            plan: of the student.
            directory: of its checkpoints, which receives captured inputs that do not fit in memory; None for none.
            flash_set: another one than that of the search.
        """
        flash_set = (flash_set or self.flash_set).with_later_taps(plan.teacher_taps)
        if plan.is_teacher_fed:
            return TeacherFedDistillation(
                student, plan.flash, plan.flash_criteria, flash_set, projection=plan.projection
            )
        spilled = directory / "activations" if directory is not None else None
        # The captured inputs receive one half of the memory, the teacher's features the other.
        budget = Budget(self.storage.activation_budget_gb / 2, self.storage.activation_disk_gb, spilled)
        exact = self.phases.flash is None or self.phases.flash.exact
        return FlashDistillation(student, plan.flash, plan.flash_criteria, flash_set, budget=budget, exact=exact)

    def _untrained_by_flash(self, student: nn.Module, plan: Plan) -> list[str]:
        """The paths of the modules whose weights flash distillation leaves as `model_builder` made them.

        There are none if students start inside the teacher: these weights are the teacher's.
        """
        if self.config.init is not None:
            return []
        blocks = [block for stage in plan.flash for block in stage.blocks]
        return [] if "" in blocks else outside_of(student, blocks)

    @property
    def flash_steps(self) -> int:
        """The number of batches that the steps of a block read."""
        settings = self.phases.flash
        if settings is None:
            return 1
        per_block = settings.train_steps
        longest = max(per_block) if isinstance(per_block, tuple) else per_block
        return longest * settings.gradient_accumulation_steps

    @property
    def regular_batches(self) -> int:
        """The number of batches that the regular distillation of a student reads, in all processes together."""
        settings = self.phases.regular
        if settings is None:
            return 0
        return settings.train_steps * settings.gradient_accumulation_steps * self.processes.count

    @property
    def elastic_batches(self) -> int:
        """The number of batches that the training of the elastic student reads."""
        settings = self.config.elastic
        return 0 if settings is None else settings.train_steps * settings.samples_per_step

    @cached_property
    def phases(self) -> Phases:
        """All phases in process 0; the other processes receive its student, and run regular distillation only."""
        phases = Phases.of(self.config, leads=self.processes.is_main)
        regular = phases.regular
        if self.config.elastic is None or regular is None or "learning_rate" in regular.model_fields_set:
            return phases
        return replace(phases, regular=regular.with_changes(learning_rate=FINISHING_RATE))

    @cached_property
    def _anatomy(self) -> Anatomy | None:
        flash = self.phases.flash
        return None if flash is None else anatomy_of_teacher(flash, self.cache, self.flash_set.batch(0))

    @cached_property
    def initializer(self) -> TeacherInitializer | None:
        """Starts the students inside the teacher; None if they keep the weights with which they were built."""
        settings = self.phases.init
        if settings is None:
            return None
        batches = list(self.flash_set.batches[: settings.batches])
        if len(batches) < settings.batches:
            more = self._first_batches(settings.batches)[len(batches) :]
            self.cache.expect(more, ())
            batches += more
        storage = self.storage
        return TeacherInitializer(
            settings,
            self.teacher,
            batches,
            self.cache,
            storage.directory,
            self.loss_func,
            read_only=storage.read_only,
        )

    @cached_property
    def elastic(self) -> ElasticTraining | None:
        """The training of the elastic student; None if every student is trained on its own."""
        config, search, initializer = self.config, self.config.search, self.initializer
        if config.elastic is None or search is None or config.init is None or initializer is None or self.build is None:
            return None
        task = ElasticTask(
            config.elastic,
            self._describe_elastic(),
            search.search_space,
            self.build,
            config.init,
            initializer,
            self.resolve_whole,
            self.stream,
            self.cache,
            self._device,
            self.config.seed,
            None if self.storage.read_only else self.storage.elastic,
            self.config.checkpoint_steps,
        )
        return ElasticTraining(task)

    @cached_property
    def stream(self) -> DataStream:
        """The training data, in the same order for every student."""
        return DataStream(self.train_dataloader, self.config.seed)

    @cached_property
    def flash_set(self) -> FlashSet:
        """The batches of flash distillation, drawn once: as many as its steps read, within its limit in bytes.

        It is one batch if this process runs no flash distillation.
        """
        settings = self.phases.flash
        if settings is None:
            first = self._first_batches(1)
            self.cache.expect(first, ())
            self._run_on_first(first[0], ())
            return FlashSet(first, self.cache)
        batches = self._drawn or itertools.islice(self.stream.epoch(0), self.flash_steps)
        drawn = (batch.to(self._device) for batch in batches)
        return draw_flash_set(drawn, self.cache, self._requested_of_first, settings.flash_set_gb)

    def _first_batches(self, count: int) -> list[Batch]:
        return [batch.to(self._device) for batch in self.stream.flash_set(count)]

    def _requested_of_first(self, batch: Batch) -> list[Tap]:
        """The layers of `requested_in_flash`, after one forward that computes all that is requested of this batch."""
        taps = self.requested_in_flash(batch)
        self._run_on_first(batch, taps)
        return taps

    def _run_on_first(self, batch: Batch, taps: Sequence[Tap]) -> None:
        """Compute these features of the first batch, with all that other parts of a search will request of it.

        What is not known yet, as it depends on a student, is computed later.
        """
        phases = self.phases
        with contextlib.suppress(Exception):  # raised with all other mistakes when a student is checked
            later = [] if phases.init is None else read_by_starts(phases.init, self.cache)
            if phases.regular is not None and not callable(phases.regular.layer_mappings_for_knowledge_transfer):
                mappings = regular_mappings(phases.regular, self.teacher, self.teacher)
                later += [mapping.teacher for mapping in mappings]
            self.cache.features(batch, [*taps, *(tap for tap in later if not tap.selects_a_part)])

    def requested_in_flash(self, batch: Batch) -> list[Tap]:
        """The layers of the teacher that students of the search may request in flash distillation.

        With the automatic mapping, students of other depths request other blocks.
        """
        settings = self.config.flash_distillation
        assert settings is not None
        mappings = settings.layer_mappings_for_knowledge_transfer
        if mappings is not None or settings.on_predictions:
            blocks = mappings if isinstance(mappings, tuple) else ()
            return list(dict.fromkeys(mapping.teacher for block in blocks for mapping in block))
        rows = block_rows(self.teacher)
        if len(rows) > 1:  # a tower may not run
            paths = [block for row in rows for block in row]
            find = partial(run_order, self.teacher, paths, batch)
            running = set(self.cache.fact("run order", batch, map(Tap, paths), find))
            rows = [row for row in rows if running.issuperset(row)]
        if len(rows) == 1:
            search = self.config.search
            mapped = rows[0] if search is None else mapped_blocks(rows[0], search.search_space)
            return [Tap(rows[0][0], INPUT), *(Tap(block, AUTO) for block in mapped)]
        return [tap for row in rows for tap in (Tap(row[0], INPUT), *(Tap(block, AUTO) for block in row))]

    @cached_property
    def cache(self) -> TeacherCache:
        """The teacher's features."""
        flash, memory_gb = self.config.flash_distillation, self.storage.activation_budget_gb / 2
        return TeacherCache(
            self.teacher,
            self.storage.directory,
            disk_gb=self.storage.teacher_cache_gb,
            memory_gb=memory_gb * 3 / 4,
            mixed_precision=self.mixed_precision,
            exact=flash is None or flash.exact,
            outputs=self._outputs(memory_gb / 4),
            read_only=self.storage.read_only,
        )

    @property
    def mixed_precision(self) -> str:
        """The precision in which the teacher runs: `"no"`, `"bf16"` or `"fp16"`."""
        config = self.config
        phases = (config.flash_distillation, config.regular_distillation, config.elastic)
        return next((phase.mixed_precision for phase in phases if phase is not None), "no")

    def _outputs(self, memory_gb: float) -> SampleOutputs | None:
        """Where the teacher's outputs in regular distillation are kept by sample; None if they are kept by batch."""
        regular = self.phases.regular
        if regular is None and self.phases.init is not None and self.config.elastic is not None:
            regular = RegularDistillationConfig()  # of which the elastic student has the loss
        if regular is None or regular.exact:
            return None
        if is_randomly_augmented(self.train_dataloader):
            logger.info(
                "the training data are augmented randomly: no sample occurs twice, so that the teacher runs for each "
                "batch of regular distillation; its outputs are kept for the next student, which reads the same batches"
            )
            return None
        folder, several = self.storage.directory, self.processes.count > 1
        return SampleOutputs(
            None if folder is None else folder / SAMPLES,
            memory_bytes=int(memory_gb * GIB),
            disk_bytes=0 if self.storage.read_only else int(self.storage.teacher_cache_gb * GIB),
            write_through=several,
        )
