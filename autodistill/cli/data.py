"""Data for the command line: tables and images from disk or from the hub, through the library `datasets`."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autodistill.config.command_line import DataConfig
from autodistill.errors import ConfigurationError
from search_spaces.checks import did_you_mean

if TYPE_CHECKING:
    from datasets import Dataset

_READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".csv": ("csv", {"keep_default_na": False}),  # "NA" and "null" are texts
    ".tsv": ("csv", {"sep": "\t", "keep_default_na": False}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".txt": ("text", {}),
    ".parquet": ("parquet", {}),
}
"""The reader of `datasets.load_dataset` and its options, by the suffix of a file."""

_SAVED = ("dataset_info.json", "dataset_dict.json")  # files that `save_to_disk` writes
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_SPLIT_SEED = 0  # of the held-out share: the same in every search, whatever its seed


def load_data(config: DataConfig, columns: Sequence[str], optional: Sequence[str] = ()) -> tuple[Dataset, Dataset]:
    """The training data and the held-out data, with the column names of the task.

    Args:
        config: the location of the data.
        columns: the columns that the task needs.
        optional: further columns that it can use.

    Raises:
        ConfigurationError: the data do not exist, cannot be read, or lack columns; all missing columns in one error.
    """
    tables = {"train": _load(config.train, config.train_split, config.name)}
    if isinstance(config.validation, str):
        tables["test"] = _load(config.validation, config.validation_split, config.name)
    problems = [*_unknown_roles(config.columns, [*columns, *optional]), *_shared_columns(config, [*columns, *optional])]
    sources = [config.train, str(config.validation)]
    for source, table in zip(sources, tables.values(), strict=False):
        problems += _missing(config, source, table, columns) or _unfit(source, _named(table, config, columns, optional))
    if problems:
        raise ConfigurationError(list(dict.fromkeys(problems)))
    if not isinstance(config.validation, str):
        tables = _split(tables["train"], config.validation, config.train)
    named = (_named(tables[part], config, columns, optional) for part in ("train", "test"))
    train, test = (_as_stored(_as_texts(table)) for table in named)
    unreadable = [problem for table in (train, test) for problem in _unreadable(table)]
    if unreadable:
        raise ConfigurationError(unreadable[:5])
    return train, test


def _split(table: Dataset, share: float, source: str) -> dict[str, Dataset]:
    """The training data and a held-out share, with at least one row each."""
    if len(table) < 2:
        raise ConfigurationError(
            f"a share of data.train is held out, so it must have at least two rows, but {source} has {len(table)}; "
            "add rows, or set data.validation."
        )
    held_out = min(math.ceil(share * len(table)), len(table) - 1)
    return dict(table.train_test_split(test_size=held_out, seed=_SPLIT_SEED))


def _load(source: str, split: str, name: str | None) -> Dataset:
    """One data set, or the split of one."""
    datasets = _library()
    path = Path(source)
    options: dict[str, Any] = {}
    try:
        if any((path / file).exists() for file in _SAVED):
            return _choose_split(datasets.load_from_disk(source), source, split)
        if path.is_dir():
            reader, options, split = "imagefolder", {"data_dir": source}, "train"
        elif path.is_file():
            if path.suffix.lower() not in _READERS:
                raise ConfigurationError(
                    f"a file of data ends in {', '.join(_READERS)}, but got {source}; convert it, or save a data set."
                )
            if path.stat().st_size == 0:
                raise ConfigurationError(f"data must have rows, but {source} is empty.")
            reader, fixed = _READERS[path.suffix.lower()]
            options, split = {**fixed, "data_files": source}, "train"
        elif path.suffix.lower() in _READERS or not _HUB_ID.fullmatch(source):
            raise ConfigurationError(f"data.train and data.validation must exist, but {source} does not.")
        else:
            reader, options = source, {"name": name}
        return datasets.load_dataset(reader, split=split, **options)
    except (OSError, ValueError, datasets.exceptions.DatasetGenerationError) as error:
        if isinstance(error, ConfigurationError):
            raise
        cause = error.__cause__ or error
        if "corresponds to no data" in str(cause):
            raise ConfigurationError(f"data must have rows, but {source} has none.") from error
        raise ConfigurationError(f"the data in {source} must be readable, but: {cause}") from error


def _library() -> Any:
    try:
        import datasets
    except ImportError as error:
        raise ConfigurationError(
            "data are read by the library datasets, which is not installed: pip install 'autodistill-nas[data]'"
        ) from error
    datasets.disable_progress_bars()
    return datasets


def _choose_split(saved: Any, source: str, split: str) -> Dataset:
    if hasattr(saved, "column_names") and isinstance(saved.column_names, list):
        return saved
    if split not in saved:
        raise ConfigurationError(f"{source} has the splits {', '.join(saved)}, but not {split!r}; name one of them.")
    return saved[split]


def _unknown_roles(columns: dict[str, str], known: Sequence[str]) -> list[str]:
    return [
        f"data.columns.{role}: is no column of the task; {did_you_mean(role, known)}"
        for role in columns
        if role not in known
    ]


def _shared_columns(config: DataConfig, roles: Sequence[str]) -> list[str]:
    names = [config.columns.get(role, role) for role in roles if role in config.columns]
    return [
        f"data.columns: each column of the task must be a different column of the data, but {name!r} serves several."
        for name in dict.fromkeys(names)
        if sum(config.columns.get(role, role) == name for role in roles) > 1
    ]


_TEXTS, _LISTS = ("text", "text_pair"), ("tokens", "tags")


def _unfit(source: str, table: Dataset) -> list[str]:
    """A sentence for each column whose values are not of the kind that the task takes."""
    problems = [] if len(table) else [f"data must have rows, but {source} has none."]
    for role, feature in table.features.items():
        kind = "a list" if hasattr(feature, "feature") else "an image" if _is_image(feature) else "a value"
        expected = "a list" if role in _LISTS else "an image" if role == "image" else "a value"
        if kind != expected:
            problems.append(f"data.columns.{role}: must hold {expected} in each row, but {source} has {kind}.")
        elif table.data.column(role).null_count:
            problems.append(f"data.columns.{role}: must hold {expected} in each row, but {source} has rows without.")
    if not problems and {*_LISTS} <= {*table.features}:
        rows = enumerate(zip(*(table[role] for role in _LISTS), strict=True))
        problems += [
            f"data.columns.tags: must hold a tag for each token, but row {row} of {source} does not."
            for row, (tokens, tags) in rows
            if len(tokens) != len(tags)
        ][:1]
    return problems


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def _as_stored(table: Dataset) -> Dataset:
    """Images as they are stored, to be decoded by `read_image`."""
    if "image" in table.features:
        table = table.cast_column("image", _library().Image(decode=False))
    return table


def _unreadable(table: Dataset) -> Iterator[str]:
    """A sentence for each file whose beginning is not that of an image; the rest of a file is read with its batch."""
    for stored in table["image"] if "image" in table.features else ():
        if stored["bytes"] is None:
            try:
                read_image(stored, decode=False)
            except ConfigurationError as error:
                yield from error.problems


def read_image(stored: Mapping[str, Any], *, decode: bool = True) -> Any:
    """An image in RGB.

    Args:
        stored: the content of its file as `bytes`, or its `path`.
        decode: False reads only the beginning of the file, and returns None.

    Raises:
        ConfigurationError: the file is no image, or damaged.
    """
    from PIL import Image

    source = stored["path"] if stored["bytes"] is None else io.BytesIO(stored["bytes"])
    try:
        with Image.open(source) as image:
            return image.convert("RGB") if decode else None
    except (OSError, SyntaxError, ValueError) as error:
        raise ConfigurationError(
            f"the images of the data must be readable, but {stored['path'] or 'one without a file name'} is not: "
            f"{error}; remove or replace it."
        ) from error


def _as_texts(table: Dataset) -> Dataset:
    """Convert numbers in columns of texts, as a csv file may have them, to texts."""
    for role in _TEXTS:
        if role in table.features and table.features[role].dtype != "string":
            table = table.cast_column(role, _library().Value("string"))
    return table


def _missing(config: DataConfig, source: str, table: Dataset, columns: Sequence[str]) -> list[str]:
    existing = table.column_names
    return [
        f"data.columns.{role}: the task needs a column {name!r}, but {source} has {', '.join(existing) or 'none'}; "
        f"write which one it is, as in `columns: {{{role}: {existing[0] if existing else 'name'}}}`."
        for role in columns
        if (name := config.columns.get(role, role)) not in existing
    ]


def _named(table: Dataset, config: DataConfig, columns: Sequence[str], optional: Sequence[str]) -> Dataset:
    """The table with only the columns of the task, under the task's names."""
    names = {role: config.columns.get(role, role) for role in (*columns, *optional)}
    used = {role: name for role, name in names.items() if name in table.column_names}
    table = table.select_columns(list(dict.fromkeys(used.values())))
    return table.rename_columns({name: role for role, name in used.items() if name != role})


def label_numbers(table: Dataset, column: str, teacher: Mapping[str, int], source: str) -> dict[Any, int]:
    """The teacher's number of every label in a column, or in the lists of a column.

    A name is looked up in the teacher's labels; an integer is the number itself.

    Args:
        table: the data.
        column: the name of a column of labels, or of lists of labels.
        teacher: the labels of the teacher, `config.label2id`.
        source: the origin of the data, for the error.

    Raises:
        ConfigurationError: labels that the teacher does not know.
    """
    feature = table.features[column]
    items = getattr(feature, "feature", None)  # for a column of lists
    values = table.unique(column) if items is None else dict.fromkeys(value for row in table[column] for value in row)
    names = getattr(items or feature, "names", None)  # for numbered classes, such as folders of images
    unnamed = all(label.startswith("LABEL_") for label in teacher)  # as transformers numbers them
    numbers, unknown = {}, []
    for value in values:
        name = names[value] if names and isinstance(value, int) else value
        counted = value if isinstance(value, int) and (unnamed or not names) else None
        number = teacher.get(str(name), counted)
        if number is None or not 0 <= int(number) < len(teacher):
            unknown.append(name)
        else:
            numbers[value] = int(number)
    if unknown:
        shown = ", ".join(map(repr, unknown[:5])) + (", …" if len(unknown) > 5 else "")
        known = ", ".join(map(repr, list(teacher)[:5])) + (", …" if len(teacher) > 5 else "")
        raise ConfigurationError(
            f"the labels must be those of the teacher, which has {len(teacher)} ({known}, or numbers from 0), but "
            f"{source} has {shown} in column {column!r}; rename them, or train the teacher on them."
        )
    return numbers
