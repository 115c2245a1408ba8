"""From a file to a search: the models, the data and the metrics that a task and a configuration stand for."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import transformers
from safetensors import SafetensorError
from torch import nn
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer, PreTrainedConfig

from autodistill.auto_distillation import AutoDistillation
from autodistill.cli.data import label_numbers, load_data
from autodistill.cli.sentence_encoder import SentenceEncoder
from autodistill.cli.tasks import TASKS, Encoder, Scores, Task
from autodistill.config import AutoDistillationConfig
from autodistill.config.command_line import CommandConfig
from autodistill.data import Batch, DataStream
from autodistill.errors import ConfigurationError
from autodistill.files import replacing
from autodistill.integrations.huggingface.model_builder import TransformersBuilder
from autodistill.metrics.built_in import BUILT_IN
from autodistill.report.mapping_table import MappingRow, explain_mapping
from autodistill.search.trial import Trial
from search_spaces import Architecture
from search_spaces.checks import did_you_mean

PREPROCESSOR = "preprocessor"
"""The folder of a search directory with the tokenizer or image processor, for export."""

_SHARED = (  # what a student's configuration takes from the teacher: both read the same batches
    "vocab_size",
    "type_vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "max_position_embeddings",
    "image_size",
    "num_channels",
    "id2label",
    "label2id",
    "problem_type",
)
_NO_LIMIT = 10**6  # tokenizers without a longest text say some huge number


@dataclass(frozen=True)
class HeldOut:
    """The held-out batches, the same and in the same order every time."""

    loader: DataLoader[Any]

    def __iter__(self) -> Iterator[Batch]:
        return DataStream(self.loader, seed=0).epoch(0)

    def describe(self) -> list[Any]:
        """What tells them from others: how many batches there are, and what is in the first."""
        return [len(self.loader), next(iter(self)).hash]


class TaskSearch(AutoDistillation):
    """A search that is one only with the same task, data and student.

    Args:
        described: what is recorded of them.
    """

    def __init__(self, *arguments: Any, described: dict[str, Any], **options: Any) -> None:
        self._described = described
        super().__init__(*arguments, **options)

    def describe(self) -> dict[str, Any]:
        return super().describe() | self._described


class SearchSetup:
    """What a configuration stands for, made when it is asked for.

    Args:
        config: of the command line.

    Raises:
        ConfigurationError: everything asked for raises it where the configuration and what it names do not fit.
    """

    def __init__(self, config: CommandConfig) -> None:
        self.config = config
        self.task: Task = TASKS[config.task]
        problems = list(_metric_problems(config, self.task))
        if problems:
            raise ConfigurationError(problems)

    @cached_property
    def teacher(self) -> nn.Module:
        """The teacher, in eval mode."""
        source = self.config.teacher
        if self._embeds:
            return cast(nn.Module, self._load(SentenceEncoder, "teacher", source)).eval()
        # anything but safetensors would be a pickle
        loaded = self._load(self._auto, "teacher", source, use_safetensors=True, output_loading_info=True)
        teacher: nn.Module = loaded[0]
        missing = sorted(loaded[1]["missing_keys"])
        if missing:
            raise ConfigurationError(
                f"teacher: must be trained for {self.config.task}, but {source!r} has no weights for "
                f"{', '.join(map(repr, missing[:3]))}{', …' if len(missing) > 3 else ''}; train it on the task first."
            )
        return teacher.eval()

    @cached_property
    def preprocessor(self) -> Any:
        """Its tokenizer or image processor."""
        kind = AutoImageProcessor if "image" in self.task.columns else AutoTokenizer
        preprocessor = self._load(kind, "teacher", self.config.teacher)
        if kind is AutoTokenizer and len(preprocessor) <= len(preprocessor.all_special_ids):  # of a folder without one
            raise ConfigurationError(
                f"teacher: must come with its tokenizer, but {self.config.teacher!r} has none that knows a word; save "
                "it there with tokenizer.save_pretrained."
            )
        if getattr(preprocessor, "pad_token", "") is None:
            preprocessor.pad_token = preprocessor.eos_token
        return preprocessor

    @property
    def teacher_config(self) -> PreTrainedConfig:
        """The configuration of the teacher's transformers model."""
        config: PreTrainedConfig = self._transformer(self.teacher).config
        return config

    @cached_property
    def student_config(self) -> PreTrainedConfig:
        """What students' configurations are made from."""
        given = self.config.student
        if given is None:
            return copy.deepcopy(self.teacher_config)
        known_type = given in transformers.CONFIG_MAPPING and not Path(given).exists()
        config = AutoConfig.for_model(given) if known_type else self._load(AutoConfig, "student", given)
        for name in _SHARED:
            if hasattr(config, name) and hasattr(self.teacher_config, name):
                setattr(config, name, copy.deepcopy(getattr(self.teacher_config, name)))
        made: PreTrainedConfig = config
        return made

    def build(self, architecture: Architecture) -> nn.Module:
        """A student; one that embeds sentences is projected to the width of the teacher's embeddings."""
        student: Any = self._builder(architecture)
        if not self._embeds:
            return cast(nn.Module, student)
        teacher: Any = self.teacher
        projection = nn.Linear(student.config.hidden_size, teacher.width)
        return SentenceEncoder(student, pooling=teacher.pooling, projection=projection, normalize=teacher.normalize)

    @cached_property
    def loaders(self) -> tuple[DataLoader[Any], HeldOut]:
        """Shuffled batches to learn from, and held-out ones."""
        data, task = self.config.data, self.task
        train, validation = load_data(data, task.columns, task.optional)
        labels: dict[Any, int] = {}
        if task.label_column:
            for source, table in ((data.train, train), (str(data.validation), validation)):
                labels |= label_numbers(table, task.label_column, cast(Any, self.teacher_config).label2id, source)
        encoder = Encoder(self.preprocessor, self._inputs, self._max_length, labels)

        def loader(table: Any, shuffle: bool) -> DataLoader[Any]:
            encoded = table.with_transform(partial(task.encode, encoder))
            return DataLoader(encoded, data.batch_size, shuffle=shuffle, collate_fn=self._collate)

        return loader(train, True), HeldOut(loader(validation, False))

    @cached_property
    def scores(self) -> Scores:
        """`model -> metrics` on the held-out data."""
        return self.task.scores(self.teacher, self.loaders[1])

    @cached_property
    def settings(self) -> AutoDistillationConfig:
        """The search and the distillation, the space without what cannot be built."""
        given = self.config.auto_distillation
        search = given.the_search()
        space = self._builder.feasible(search.search_space)
        reason = self._builder.start_blocker(self._transformer(self.teacher), space) if given.init else None
        if reason is not None:
            raise ConfigurationError(f"auto_distillation.init: students cannot start inside the teacher; {reason}")
        return given.with_changes(search=search.with_changes(search_space=space))

    def example(self) -> tuple[Architecture, list[MappingRow]]:
        """An architecture of the space, and what would be distilled into what in its student."""
        space = self.settings.the_search().search_space
        architecture = next(space.enumerate()) if space.is_finite else space.sample(np.random.default_rng(0))
        batch = next(DataStream(self.loaders[0], self.settings.seed).epoch(0))
        return architecture, explain_mapping(self.settings, self.build(architecture).eval(), self.teacher, batch)

    def search(self, search_dir: Path, *, show_progress_bar: bool = True) -> AutoDistillation:
        """The search in a directory, where it also leaves what an exported student is used with."""
        return TaskSearch(
            self.build,
            self.settings,
            teacher_model=self.teacher,
            train_dataloader=self.loaders[0],
            eval_func=self.scores,
            search_dir=search_dir,
            device=self.config.device,
            show_progress_bar=show_progress_bar,
            callbacks=[self.keep_preprocessor],
            described={
                "task": self.config.task,
                "student": self._builder.to_json(),
                "held_out": self.loaders[1].describe(),
            },
        )

    def keep_preprocessor(self, search: AutoDistillation, trial: Trial | None = None) -> None:
        """Save the tokenizer or image processor in the search directory, unless it is there."""
        folder = search.search_dir / PREPROCESSOR
        if folder.exists():
            return
        with replacing(folder) as temporary:
            self.preprocessor.save_pretrained(temporary)

    @property
    def _auto(self) -> Any:
        return getattr(transformers, self.task.auto_class)

    @property
    def _embeds(self) -> bool:
        return self.config.task == "sentence-embedding"

    @cached_property
    def _builder(self) -> TransformersBuilder:
        return TransformersBuilder(self._auto, self.student_config)

    @cached_property
    def _collate(self) -> Any:
        collator = self.task.collator(self.preprocessor)
        return lambda features: dict(collator(features))

    @property
    def _inputs(self) -> list[str]:
        """The features of the preprocessor that teacher and student take."""
        config = self.student_config
        with torch.device("meta"):
            student = self._auto.from_config(config)
        accepted = [inspect.signature(model.forward).parameters for model in (self._transformer(self.teacher), student)]
        names: list[str] = self.preprocessor.model_input_names
        return [name for name in names if all(name in parameters for parameters in accepted)]

    @property
    def _max_length(self) -> int:
        limits = [self.config.data.max_length, getattr(self.preprocessor, "model_max_length", _NO_LIMIT)]
        for config in (self.teacher_config, self.student_config):
            limits.append(getattr(config, "max_position_embeddings", _NO_LIMIT))
        return min(limits)

    def _transformer(self, model: Any) -> Any:
        """The transformers model, of which a sentence encoder is made."""
        return model.model if self._embeds else model

    def _load(self, kind: Any, role: str, source: str, **options: Any) -> Any:
        try:
            return kind.from_pretrained(source, **options)
        except ConfigurationError:
            raise
        except (OSError, ValueError, SafetensorError) as error:
            raise ConfigurationError(
                f"{role}: {kind.__name__} must be able to load {source!r}, from a folder or the hub, but says: "
                f"{str(error).splitlines()[0]}"
            ) from error


def _metric_problems(config: CommandConfig, task: Task) -> Iterator[str]:
    known = [task.metric, *BUILT_IN]
    for metric in config.auto_distillation.the_search().metrics:
        if metric.name not in known:
            yield (
                f"auto_distillation.search.metrics: {metric.name!r} is not measured in {config.task}; "
                f"{did_you_mean(metric.name, known)}"
            )
