"""The file that describes a search for the command line: the task, the models, the data, and the search itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveInt, field_validator

from autodistill.config import AutoDistillationConfig, ModelConfig, read_configuration
from autodistill.config.section import Section
from autodistill.files import directory_problem

TaskName = Literal[
    "text-classification",
    "token-classification",
    "masked-lm",
    "causal-lm",
    "sentence-embedding",
    "image-classification",
]


class DataConfig(Section):
    """The data on which students are trained and evaluated.

    Attributes:
        train: a csv, tsv, jsonl, txt or parquet file, a folder of images (a folder for each label), a folder that
            `Dataset.save_to_disk` wrote, or a data set of the Hugging Face hub.
        validation: another data set, or the share of `train` that is held out.
        name: the configuration of a hub data set that has several.
        train_split: the training split, for a data set with splits.
        validation_split: the validation split, for a data set with splits.
        columns: names of columns in the data that differ from the task's, by the task's name.
        max_length: tokens of a text; longer texts are truncated.
        batch_size: samples in a batch.
        group_by_length: batches for training hold texts of similar length, so that little of them is padding.
    """

    train: str
    validation: str | float = 0.1
    name: str | None = None
    train_split: str = "train"
    validation_split: str = "validation"
    columns: dict[str, str] = Field(default_factory=dict)
    max_length: PositiveInt = 128
    batch_size: PositiveInt = 32
    group_by_length: bool = True

    @field_validator("validation")
    @classmethod
    def _is_a_share(cls, value: str | float) -> str | float:
        if not isinstance(value, str) and not 0 < value < 1:
            raise ValueError(
                f"must be data, or the share of `train` that is held out, between 0 and 1, but got {value}."
            )
        return value


class CommandConfig(Section):
    """The configuration file of `autodistill search`.

    Attributes:
        task: the task of the models.
        teacher: a folder that `save_pretrained` wrote, or a model of the Hugging Face hub.
        student: the model whose configuration students are built from, or a model type such as `distilbert`; the
            teacher if not given.
        data: for training and validation.
        auto_distillation: the search and the distillation.
        device: `auto` is a GPU if available.
        teacher_cache: the directory of the teacher's features, which several searches may share; by default one in the
            search directory.
        storage: where checkpoints and students are kept, as a URL of fsspec such as `s3://bucket/folder`; by default
            in the search directory.
        model: a section of the specification's files, next to `auto_distillation`.

    Examples:
        >>> config = CommandConfig.load({
        ...     "task": "text-classification",
        ...     "teacher": "models/teacher",
        ...     "data": {"train": "reviews.csv"},
        ...     "auto_distillation": {"search": {"search_space": {"hidden_size": [64, 96]}, "metrics": ["accuracy"]}},
        ... })
        >>> config.data.validation, config.auto_distillation.search.max_trials
        (0.1, 10)
    """

    task: TaskName
    teacher: str
    student: str | None = None
    data: DataConfig
    auto_distillation: AutoDistillationConfig
    device: str = "auto"
    teacher_cache: str | None = None
    storage: str | None = None
    model: ModelConfig | None = None

    @field_validator("teacher_cache")
    @classmethod
    def _is_a_directory(cls, value: str | None) -> str | None:
        problem = None if value is None else directory_problem(value)
        if problem is not None:
            raise ValueError(f"{problem}.")
        return value

    @classmethod
    def load(cls, source: Mapping[str, Any] | str | Path) -> CommandConfig:
        """The configuration from a mapping or a YAML file.

        Raises:
            ConfigurationError: the configuration is wrong; all mistakes in one error.
        """
        return read_configuration(cls, source)
