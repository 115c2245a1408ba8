"""The description of a search: its file, and whether a search may continue the one that is described there.

A search continues an earlier one if everything that makes results comparable is equal. These fields may change:

- `advisor`, `max_trials` and `promote`: any number of trials by any advisor, and any share of them trained to the end;
- `space`: it may become wider, but must keep its dimensions and contain the architectures that were tried;
- `environment`: versions, threads and machine; a difference is logged as a warning, since it may change results.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.files import problem_of
from autodistill.json_files import read_record, write_record
from autodistill.metrics.metric import Metric, metric_problems
from autodistill.search.layout import SEARCH_BACKUP, SEARCH_FILE, TRIALS

logger = logging.getLogger(__name__)


SCHEMA_VERSION = 1

FREE_FIELDS = frozenset({"advisor", "max_trials", "promote", "space", "environment"})


_ABSENT = object()


_SHOWN_CHARACTERS = 80


def read_description(search_dir: Path) -> dict[str, Any]:
    """The description of a search that its directory holds, from the copy if the file is damaged.

    Raises:
        SearchDirectoryError: there is none, both are damaged, or it is of another version.
    """
    damages = []
    for file in (search_dir / SEARCH_FILE, search_dir / SEARCH_BACKUP):
        try:
            description = _read(file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, ValueError) as error:
            damages.append((file, error))
            continue
        if description["schema_version"] != SCHEMA_VERSION:
            raise SearchDirectoryError(
                f"this version reads search directories of schema {SCHEMA_VERSION}, but {file} has schema "
                f"{description['schema_version']}; resume it with the version that made it."
            )
        return description
    if damages:
        raise _damaged(*damages[0])
    raise no_search_in(search_dir)


def no_search_in(path: Path) -> SearchDirectoryError:
    """The error for a path without a search."""
    if not path.exists():
        return SearchDirectoryError(f"a search directory must exist, but {path} does not.")
    if not path.is_dir():
        return SearchDirectoryError(f"a search directory must be a directory, but {path} is a file.")
    lost = f"; its trials are there: restore the {SEARCH_FILE} of that search" if (path / TRIALS).exists() else ""
    return SearchDirectoryError(f"a search directory holds a {SEARCH_FILE}, but {path} has none{lost}.")


def described_metrics(description: Mapping[str, Any], search_dir: Path) -> tuple[Metric, ...]:
    """The metrics in a description of a search, which was read from its directory.

    Raises:
        SearchDirectoryError: it is damaged.
    """
    try:
        metrics = tuple(map(Metric.of, description["metrics"]))
        if problems := metric_problems(metrics):
            raise ConfigurationError(problems)
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(search_dir / SEARCH_FILE, error) from error
    return metrics


def _damaged(file: Path, error: Exception) -> SearchDirectoryError:
    return SearchDirectoryError(
        f"{file} must describe the search, but is damaged ({error}); restore it, or take another search_dir."
    )


def write_description(search_dir: Path, description: Mapping[str, Any]) -> None:
    """Write the description and its copy, as far as they are not already there.

    Raises:
        OSError: they cannot be written.
    """
    for name in (SEARCH_FILE, SEARCH_BACKUP):
        file = search_dir / name
        try:
            if _read(file) == description:
                continue
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            logger.warning("%s is damaged (%s): it is restored", file, error)
        write_record(file, description)


def problem_in(file: Path) -> str | None:
    """What is wrong with a description or its copy; None if nothing is.

    Raises:
        OSError: the file cannot be read.
    """
    return problem_of(_read, file)


def _read(file: Path) -> dict[str, Any]:
    description = read_record(file)
    if not isinstance(description, dict) or "schema_version" not in description:
        raise ValueError("it has no schema_version")
    return description


def compare_descriptions(recorded: Mapping[str, Any], requested: Mapping[str, Any], directory: Path) -> None:
    """Check that a search is resumed with its own settings; log a warning if the environment differs.

    Raises:
        SearchDirectoryError: a field that is not free differs; the message names every such field with both values.
    """
    fixed = list(_differences(_without_free(recorded), _without_free(requested)))
    if fixed:
        raise SearchDirectoryError(
            f"{directory} holds another search: its results would not be comparable. "
            "Restore these settings, or take another search_dir:" + "".join(f"\n  - {line}" for line in fixed)
        )
    for line in _differences(recorded.get("environment", {}), requested.get("environment", {}), "environment"):
        logger.warning(
            "%s was started in another environment, so results may differ from those of one run: %s", directory, line
        )


def _without_free(description: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in description.items() if field not in FREE_FIELDS}


def _differences(recorded: Any, requested: Any, path: str = "") -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(requested, Mapping):
        for key in dict.fromkeys((*recorded, *requested)):
            field = f"{path}.{key}" if path else str(key)
            yield from _differences(recorded.get(key, _ABSENT), requested.get(key, _ABSENT), field)
    elif isinstance(recorded, list) and isinstance(requested, list) and len(recorded) == len(requested):
        for position, (old, new) in enumerate(zip(recorded, requested, strict=True)):
            yield from _differences(old, new, f"{path}[{position}]")
    elif recorded != requested or isinstance(recorded, bool) != isinstance(requested, bool):  # 1 == 1.0 == True
        yield f"{path} was {_shown(recorded)}, but is now {_shown(requested)}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
