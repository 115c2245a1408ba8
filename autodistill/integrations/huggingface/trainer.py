"""Searches with transformers' `Trainer`: its model, data and arguments are all that is needed."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import nn
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import has_length

from autodistill.auto_distillation import AutoDistillation, TrainFunction
from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.data_stream import DataStream
from autodistill.errors import ConfigurationError
from autodistill.frameworks.pytorch import EvalFunction, ModelBuilder
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.integrations.huggingface.trainer_checks import trainer_problems
from autodistill.integrations.huggingface.trainer_distillation import TrainerRun
from autodistill.integrations.huggingface.trainer_search import TrainerSearch
from autodistill.padding import ShuffledGroups
from autodistill.processes import current_processes
from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed
from autodistill.teacher import Teacher, load_teacher, teacher_problems
from autodistill.training import StageRecord
from search_spaces import Architecture

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object

logger = logging.getLogger(__name__)


DEFAULT_METRICS = ("eval_loss", "parameters")


SPEEDS = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


_OF_THE_PROCESS = {"accelerator", "gather_function"}
"""The attributes of a trainer that `create_accelerator_and_postprocess` makes."""


class AutoDistillationMixin(_Base):
    """Adds searches for students to a subclass of `Trainer`: `class MyTrainer(AutoDistillationMixin, Trainer)`.

    Attributes:
        autodistillation_config: a mapping, the path of a YAML file or an `AutoDistillationConfig`. Metrics are those of
            `compute_metrics`, with or without the prefix `eval_`, `eval_loss`, and the built-in ones; by default
            `eval_loss` and `parameters`.
        autodistillation_search: the `AutoDistillation` of the last call, for `search_result` and `best_model()`.
    """

    autodistillation_config: AutoDistillationConfig | Mapping[str, Any] | str | Path | None = None
    autodistillation_search: AutoDistillation | None = None
    _run: TrainerRun | None = None
    _makes_stream = False

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if Trainer in cls.__mro__ and cls.__mro__.index(Trainer) < cls.__mro__.index(AutoDistillationMixin):
            raise TypeError(
                "the mixin must precede the trainer that it extends, but the bases of "
                f"{cls.__name__} are {', '.join(base.__name__ for base in cls.__bases__)}; put it first."
            )

    def __getstate__(self) -> dict[str, Any]:
        """For a worker: without the accelerator, which belongs to this process."""
        return {name: value for name, value in vars(self).items() if name not in _OF_THE_PROCESS}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        trainer = cast(Any, self)
        trainer.create_accelerator_and_postprocess()

    def autodistillation(
        self,
        teacher_model: Teacher,
        model_builder: ModelBuilder | None = None,
        model_cls: Any = None,
        train_func: TrainFunction | None = None,
        eval_func: EvalFunction | None = None,
        *,
        search_dir: str | Path | None = None,
        init: Any = "auto",
        elastic: Any = None,
        n_trials: int | None = None,
        timeout: float | None = None,
        executor: Any = None,
        workers: int | None = None,
        **options: Any,
    ) -> Architecture | None:
        """Search for students of a teacher, and resume a search that was interrupted.

        Flash distillation reads the trainer's training data; regular distillation is a run of the trainer, with its
        learning rate, precision, callbacks and integrations, for `train_steps` updates if the configuration sets
        them, else for as long as the trainer's arguments set. The trainer's model is unchanged when this returns.

        Args:
            teacher_model: the teacher, or a function without parameters that loads it.
            model_builder: `architecture -> student`; by default, `TransformersBuilder` changes the configuration of
                the trainer's model.
            model_cls: the class of the students that it builds; by default the class of the trainer's model.
            train_func: `student -> trained student`, instead of the built-in distillation.
            eval_func: `student -> metrics`, instead of the trainer's evaluation.
            search_dir: the search directory; by default `autodistillation` in the trainer's `output_dir`.
            init: `"teacher"` starts students inside the teacher; `"auto"` does so if the built-in model builder makes
                students that allow it (of the teacher's family, no wider, with its vocabulary and labels), and the
                configuration has no `init`; None leaves them as they are built.
            elastic: True trains one elastic student for all architectures, by the step loop of this library in the
                precision of the trainer; the best slices are finished by the trainer. Or a mapping of settings.
            n_trials: run this many more trials, whatever `max_trials` is.
            timeout: start no trial after this many seconds.
            executor: where trials run, several at the same time; see `AutoDistillation.search_loop`.
            workers: trials at the same time.
            options: further keyword arguments of `AutoDistillation`.

        Returns:
            The best architecture; None if no trial is feasible.

        Raises:
            ConfigurationError: the set-up is wrong.
            SearchDirectoryError: the directory holds another search, or cannot be used.
            SearchStoppedError: too many trials failed in a row.
        """
        config = self._configuration(train_func, eval_func, elastic)
        builder = model_builder
        if builder is None:
            builder = TransformersBuilder(model_cls or type(self.model), cast(Any, self.model).config)
            search = config.the_search()
            space = builder.feasible(search.search_space)
            config = config.with_changes(search=search.with_changes(search_space=space))
        source = self._stream_source(config.seed)
        if init == "auto":
            init = None
            can_load = teacher_model is not None and not list(teacher_problems(teacher_model))
            requested = can_load and source is not None and train_func is None and config.init is None
            if requested and isinstance(builder, TransformersBuilder):
                teacher_model = load_teacher(teacher_model)
                init = self._automatic_start(builder, teacher_model, config, source)
        self.autodistillation_search = TrainerSearch(
            builder,
            config,
            teacher_model=teacher_model,
            train_dataloader=source,
            train_func=train_func if train_func is None or eval_func is not None else self._then_evaluate(train_func),
            eval_func=eval_func or (self._last_metrics if self.eval_dataset is not None else None),
            search_dir=search_dir or Path(cast(str, self.args.output_dir)) / "autodistillation",
            init=init,
            **{"device": self.args.device, "show_progress_bar": not self.args.disable_tqdm, **options},
            trainer=self,
        )
        with self.restored():
            return self.autodistillation_search.search_loop(n_trials, timeout, executor=executor, workers=workers)

    def model_builder_builtin(self, model_arch_paras: Architecture, model_cls: Any = None) -> nn.Module:
        """The student of an architecture, as `autodistillation` builds it without a `model_builder`.

        Args:
            model_arch_paras: the architecture.
            model_cls: the class of the student; by default the class of the trainer's model.

        Raises:
            ConfigurationError: the architecture has a key that is no field of the configuration.
        """
        return TransformersBuilder(model_cls or type(self.model), cast(Any, self.model).config)(model_arch_paras)

    # --- the set-up ---

    def _configuration(self, train_func: Any, eval_func: Any, elastic: Any) -> AutoDistillationConfig:
        configured = self.autodistillation_config
        if configured is None:
            raise ConfigurationError("autodistillation needs a configuration: set trainer.autodistillation_config.")
        # First, since flash distillation that is automatic is left out of a search with an elastic student.
        config = AutoDistillationConfig.load(configured).starting_from(None, elastic)
        search = config.the_search()
        if not search.metrics and eval_func is None:
            search = search.with_changes(metrics=DEFAULT_METRICS)
            config = config.with_changes(search=search)
        problems = list(trainer_problems(self, config, train_func, eval_func))
        if problems:
            raise ConfigurationError(problems)
        if self.args.load_best_model_at_end:
            logger.warning("the student of the last update is used: load_best_model_at_end has no effect on it")
        precision = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "no"
        phases = {name: getattr(config, name) for name in ("flash_distillation", "regular_distillation", "elastic")}
        precise = {
            name: phase.with_changes(mixed_precision=precision)
            for name, phase in phases.items()
            if phase is not None and "mixed_precision" not in phase.model_fields_set
        }
        return config.with_changes(**precise)

    def _stream_source(self, seed: int) -> Any:
        """The training data as batches on the CPU; the share of this process if there are several."""
        if self.train_dataset is None:
            return None
        self._makes_stream = True
        try:
            with isolated_random_state(derive_seed(seed, "trainer", "data")):
                loader = super().get_train_dataloader()
        finally:
            self._makes_stream = False
        return getattr(loader, "base_dataloader", loader)

    def _automatic_start(
        self,
        builder: TransformersBuilder,
        teacher: nn.Module,
        config: AutoDistillationConfig,
        source: Any,
    ) -> str | None:
        """`"teacher"` if it is possible; process 0 decides for all."""
        reason = builder.start_blocker(teacher, config.the_search().search_space)
        first = DataStream(source, config.seed).flash_set(1)[0]
        batches = InitializationConfig().batches
        positions = min(len(source), batches) * _positions(first) if has_length(source) else math.inf
        width = getattr(getattr(teacher, "config", None), "hidden_size", 0)
        if reason is None and positions < width:
            reason = (
                f"the first {batches} batches hold fewer tokens ({positions}) than the teacher has channels ({width})"
            )
        reason = current_processes().broadcast(reason)
        logger.info("students start %s", "inside the teacher" if reason is None else f"as they are built: {reason}")
        return "teacher" if reason is None else None

    @contextlib.contextmanager
    def restored(self) -> Iterator[None]:
        """Restore the trainer's model, arguments and state at the end."""
        names = ("model", "model_wrapped", "model_init", "args", "state", "control", "optimizer", "lr_scheduler")
        before = {name: getattr(self, name) for name in names}
        scaled = self.loss_is_scaled_for_ga
        try:
            yield
        finally:
            self._run = None
            for name, value in before.items():
                setattr(self, name, value)
            self.loss_is_scaled_for_ga = scaled
            self.callback_handler.model = self.model

    # --- one student ---

    def _then_evaluate(self, train_func: TrainFunction) -> TrainFunction:
        """Evaluation by the trainer needs all processes, as training does."""

        def train(student: nn.Module) -> nn.Module:
            returned = train_func(student)
            trained = student if returned is None else returned
            self.evaluate_student(trained)
            return trained

        return train

    def evaluate_student(self, student: nn.Module) -> None:
        """Evaluate a student on the trainer's evaluation data, for the search's metrics."""
        self._measured: dict[str, float] = {}
        if self.eval_dataset is None:
            return
        assert self.autodistillation_search is not None
        requested = {metric.name for metric in self.autodistillation_search.config.the_search().metrics}
        self.model = self.model_wrapped = student
        results: dict[str, Any] = self.evaluate()
        for name, value in results.items():
            short = name.removeprefix("eval_")
            if name.startswith("eval_") and not short.endswith(SPEEDS) and isinstance(value, Real):
                self._measured[short if short in requested else name] = float(value)

    def _last_metrics(self, student: nn.Module) -> dict[str, float]:
        return self._measured

    def train_student(self, run: TrainerRun) -> StageRecord:
        """Regular distillation of one student."""
        self._run = run
        before = self.args
        try:
            return run.run()
        finally:
            self._run, self.args, self.__dict__["model_init"] = None, before, None
            if self.model_wrapped is not None:
                self.accelerator.unwrap_model(self.model_wrapped, keep_fp32_wrapper=False)
            self.accelerator.free_memory()

    # --- methods of Trainer that distillation changes ---

    def get_train_dataloader(self) -> Any:
        """The trainer's loader, or the stream that every student is trained on."""
        return super().get_train_dataloader() if self._run is None else self._run.loader

    def _get_train_sampler(self, *arguments: Any) -> Any:
        """The trainer's sampler; in the stream, its groups of similar length are not sorted."""
        sampler: Any = super()._get_train_sampler(*arguments)
        if self._makes_stream and isinstance(sampler, LengthGroupedSampler):
            # neighbouring batches are trained on at the same time by several processes
            return ShuffledGroups(sampler, sampler.batch_size * self.args.world_size)
        return sampler

    def num_examples(self, dataloader: Any) -> int:
        """The number of samples of a loader."""
        samples = getattr(dataloader, "samples", None)
        return super().num_examples(dataloader) if samples is None else samples

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The trainer's optimizer, which trains feature matchers too."""
        optimizer = super().create_optimizer(model)
        if self._run is not None and self._run.matchers:
            optimizer.add_param_group({"params": self._run.matchers, "weight_decay": 0.0})
        return optimizer

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> torch.Tensor:
        """The trainer's step; while a student is distilled, seeded and logged by the run."""
        if self._run is None:
            return super().training_step(model, inputs, num_items_in_batch)
        return self._run.step(lambda: super(AutoDistillationMixin, self).training_step(model, inputs, None))

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """The trainer's loss; while a student is distilled, the criterion."""
        run = self._run
        if run is None or not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

        def forward() -> tuple[torch.Tensor | None, Any]:
            if not run.stage.add_origin_loss and Batch(dict(inputs)).targets is None:
                return None, model(**inputs)
            loss, outputs = super(AutoDistillationMixin, self).compute_loss(model, dict(inputs), True, None)
            return loss, outputs

        loss, outputs = run.loss(inputs, forward)
        return (loss, outputs) if return_outputs else loss

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write the trainer's checkpoint; for a student one of safetensors and JSON, without pickles."""
        if self._run is None:
            super()._save_checkpoint(model, trial)
        else:
            self._run.save()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self._run is None:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self._run is None:
            super()._load_optimizer_and_scheduler(checkpoint)
        elif checkpoint is not None:
            self._run.restore()


class AutoDistillationTrainer(AutoDistillationMixin, Trainer):
    """A `Trainer` that searches for students of a teacher.

    Examples:
        >>> import tempfile
        >>> from transformers import BertConfig, BertForSequenceClassification, PrinterCallback, TrainingArguments
        >>> sizes = dict(num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, vocab_size=9)
        >>> student, teacher = (BertForSequenceClassification(BertConfig(hidden_size=n, **sizes)) for n in (4, 8))
        >>> data = [{"input_ids": [1, 2, 3], "labels": 0}, {"input_ids": [3, 2, 1], "labels": 1}]
        >>> with tempfile.TemporaryDirectory() as directory:
        ...     arguments = TrainingArguments(directory, max_steps=2, report_to=[], disable_tqdm=True, use_cpu=True)
        ...     trainer = AutoDistillationTrainer(student, arguments, train_dataset=data, eval_dataset=data)
        ...     trainer.remove_callback(PrinterCallback)
        ...     trainer.autodistillation_config = {
        ...         "search": {"search_space": {"hidden_size": [4, 8]}, "metrics": ["parameters"], "max_trials": 2},
        ...         "regular_distillation": "auto",
        ...     }
        ...     trainer.autodistillation(teacher)
        {'hidden_size': 4}
    """


def _positions(batch: Batch) -> float:
    """The number of tokens in a batch without padding; infinite for other inputs, such as images with many patches."""
    tokens = batch.content.get("input_ids") if isinstance(batch.content, Mapping) else None
    if not isinstance(tokens, torch.Tensor):
        return math.inf
    return int(batch.padding_mask.sum()) if batch.padding_mask is not None else tokens.numel()
