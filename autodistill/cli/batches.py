"""The batches of a configuration: shuffled batches for training, and held-out batches for evaluation."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, cast

from torch.utils.data import DataLoader, RandomSampler, Sampler
from transformers.trainer_pt_utils import LengthGroupedSampler

from autodistill.batch import Batch
from autodistill.cli.data import label_numbers, load_data
from autodistill.cli.models import TaskModels
from autodistill.cli.tasks import Encoder, Features, Rows
from autodistill.data_stream import DataStream
from autodistill.padding import ShuffledGroups

if TYPE_CHECKING:
    from datasets import Dataset

_TOKENS = "input_ids"
_SMALL = ("attention_mask", "token_type_ids")  # features whose values are small numbers


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

        def loader(table: Dataset, sampler: Sampler[int] | None = None) -> DataLoader[Any]:
            return DataLoader(
                cast(Any, table),
                data.batch_size,
                sampler=sampler,
                collate_fn=lambda features: dict(collator(features)),
            )

        training, held_out = (_encoded(table, partial(task.encode, encoder)) for table in (train, validation))
        return loader(training, self._shuffled(training)), HeldOut(loader(held_out))

    def _shuffled(self, encoded: Dataset) -> Sampler[int]:
        """The samples in random order; texts so that those of a batch are of similar length."""
        size = self.models.config.data.batch_size
        if _TOKENS not in encoded.column_names or not self.models.config.data.group_by_length:
            return RandomSampler(cast(Any, encoded))
        chunks = encoded.data.column(_TOKENS).chunks
        lengths = [length for chunk in chunks for length in chunk.value_lengths().to_pylist()]
        return ShuffledGroups(LengthGroupedSampler(size, lengths=lengths), size)


def _encoded(table: Dataset, encode: Callable[[Rows], Features]) -> Dataset:
    """The features of all rows: those of texts are computed once, now; those of images, which are large, when read."""
    if "image" in table.column_names:
        return table.with_transform(encode)
    return table.map(
        encode,
        batched=True,
        features=_features(encode(table[:1])),
        remove_columns=table.column_names,
        keep_in_memory=True,
        load_from_cache_file=False,
        new_fingerprint="encoded",  # instead of a hash of the tokenizer: nothing is cached
    )


def _features(rows: Features) -> Any:
    """The type in memory of each feature; it cannot be inferred from texts without tokens."""
    from datasets import Features, List, Value

    types = {name: Value("int8" if name in _SMALL else "int32") for name in rows}
    return Features({name: List(types[name]) if isinstance(rows[name][0], list) else types[name] for name in rows})
