"""Makes a search from a configuration file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from autodistill.auto_distillation import AutoDistillation
from autodistill.cli.batches import TaskBatches
from autodistill.cli.models import TaskModels
from autodistill.cli.tasks import TASKS, Scores, Task
from autodistill.config import AutoDistillationConfig
from autodistill.config.command_line import CommandConfig
from autodistill.data_stream import DataStream
from autodistill.errors import ConfigurationError
from autodistill.export.preprocessor import keep_preprocessor
from autodistill.forecast import Forecast
from autodistill.metrics.built_in import BUILT_IN
from autodistill.padding import report_padding
from autodistill.report.mapping_table import MappingRow, explain_mapping
from autodistill.search.trial import Trial
from search_spaces import Architecture
from search_spaces.checks import did_you_mean


class TaskSearch(AutoDistillation):
    """A search that also records its task, data and student: a resumed search must have the same.

    Args:
        described: their description.
    """

    def __init__(self, *arguments: Any, described: dict[str, Any], **options: Any) -> None:
        self._described = described
        super().__init__(*arguments, **options)

    def describe(self) -> dict[str, Any]:
        return super().describe() | self._described


class SearchSetup:
    """The models, the data, the metrics and the settings of a configuration; each is created when it is first used.

    Args:
        config: the configuration of the command line.

    Raises:
        ConfigurationError: a metric is not measured in the task. Every attribute raises it if the models or data that
            the configuration names do not fit.
    """

    def __init__(self, config: CommandConfig) -> None:
        problems = list(_metric_problems(config, TASKS[config.task]))
        if problems:
            raise ConfigurationError(problems)
        self.config = config
        self.models = TaskModels(config)
        self.batches = TaskBatches(self.models)

    @cached_property
    def scores(self) -> Scores:
        """`model -> metrics` on the held-out data."""
        return self.models.task.scores(self.models.teacher, self.batches.held_out)

    @cached_property
    def settings(self) -> AutoDistillationConfig:
        """The settings of search and distillation; the space excludes students that cannot be built."""
        configured = self.config.auto_distillation
        search = configured.the_search()
        space = self.models.builder.feasible(search.search_space)
        if configured.init:
            self.models.ensure_inside_teacher(space)
        return configured.with_changes(search=search.with_changes(search_space=space))

    def example(self) -> tuple[Architecture, list[MappingRow]]:
        """An architecture of the space, and the layer mappings by which its student would be distilled."""
        space = self.settings.the_search().search_space
        architecture = next(space.enumerate()) if space.is_finite else space.sample(np.random.default_rng(0))
        batch = next(DataStream(self.batches.training, self.settings.seed).epoch(0))
        student = self.models.build(architecture).eval()
        return architecture, explain_mapping(self.settings, student, self.models.teacher, batch)

    def forecast(self) -> Forecast:
        """What a new search would cost."""
        with tempfile.TemporaryDirectory() as unused:
            return self.search(Path(unused), show_progress_bar=False).forecast()

    def report_padding(self) -> float:
        """Log and return the share of padding in the first batches for training, with what reduces it."""
        grouped = self.config.data.group_by_length
        remedy = None if grouped else "set data.group_by_length: true, so that batches hold texts of similar length"
        return report_padding(DataStream(self.batches.training, self.settings.seed), remedy)

    def search(self, search_dir: Path, *, show_progress_bar: bool = True) -> AutoDistillation:
        """The search in a directory, where it also saves the preprocessor of exported students."""
        self.report_padding()
        return TaskSearch(
            self.models.build,
            self.settings,
            teacher_model=self.models.teacher,
            train_dataloader=self.batches.training,
            eval_func=self.scores,
            search_dir=search_dir,
            device=self.config.device,
            teacher_cache=self.config.teacher_cache,
            storage=self.config.storage,
            show_progress_bar=show_progress_bar,
            callbacks=[self.keep_preprocessor],
            described={
                "task": self.config.task,
                "student": self.models.builder.to_json(),
                "held_out": self.batches.held_out.describe(),
            },
        )

    def keep_preprocessor(self, search: AutoDistillation, trial: Trial | None = None) -> None:
        """Save the tokenizer or image processor in the search directory, unless it is there."""
        keep_preprocessor(search.search_dir, self.models.preprocessor)


def _metric_problems(config: CommandConfig, task: Task) -> Iterator[str]:
    known = [task.metric, *BUILT_IN]
    for metric in config.auto_distillation.the_search().metrics:
        if metric.name not in known:
            yield (
                f"auto_distillation.search.metrics: {metric.name!r} is not measured in {config.task}; "
                f"{did_you_mean(metric.name, known)}"
            )
