"""The batches of a configuration: shuffled batches for training, and held-out batches for evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

from torch.utils.data import DataLoader

from autodistill.batch import Batch
from autodistill.cli.data import label_numbers, load_data
from autodistill.cli.models import TaskModels
from autodistill.cli.tasks import Encoder
from autodistill.data_stream import DataStream


@dataclass(frozen=True)
class HeldOut:
    """The held-out batches, the same and in the same order every time."""

    loader: DataLoader[Any]

    def __iter__(self) -> Iterator[Batch]:
        return DataStream(self.loader, seed=0).epoch(0)

    def describe(self) -> list[Any]:
        """What identifies them: the number of batches, and the contents of the first."""
        return [len(self.loader), next(iter(self)).hash]


class TaskBatches:
    """The data of one configuration, read and encoded for its models when they are first used.

    Args:
        models: the models that read the batches; their configuration names the data.

    Raises:
        ConfigurationError: `training` and `held_out` raise it if the data cannot be read or do not fit.
    """

    def __init__(self, models: TaskModels) -> None:
        self.models = models

    @property
    def training(self) -> DataLoader[Any]:
        """Shuffled batches for training."""
        return self._loaders[0]

    @property
    def held_out(self) -> HeldOut:
        """Held-out batches for evaluation."""
        return self._loaders[1]

    @cached_property
    def _loaders(self) -> tuple[DataLoader[Any], HeldOut]:
        models, data, task = self.models, self.models.config.data, self.models.task
        train, validation = load_data(data, task.columns, task.optional)
        labels: dict[Any, int] = {}
        if task.label_column:
            for source, table in ((data.train, train), (str(data.validation), validation)):
                labels |= label_numbers(table, task.label_column, cast(Any, models.teacher_config).label2id, source)
        encoder = Encoder(models.preprocessor, models.inputs, models.max_length, labels)
        collator = task.collator(models.preprocessor)

        def loader(table: Any, shuffle: bool) -> DataLoader[Any]:
            encoded = table.with_transform(partial(task.encode, encoder))
            return DataLoader(
                encoded, data.batch_size, shuffle=shuffle, collate_fn=lambda features: dict(collator(features))
            )

        return loader(train, True), HeldOut(loader(validation, False))
