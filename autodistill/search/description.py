"""Whether a search may go on where another left off: the comparison of their descriptions.

Two searches are one if everything that makes results comparable is equal. These fields are free to change:

- `advisor`, `max_trials` and `promote`: any number of trials by any advisor, and any share of them trained to the end;
- `space`: it may become wider, but keeps its dimensions and the architectures that were tried;
- `environment`: versions, threads and machine; a difference is worth a warning, since results may differ by it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from autodistill.errors import SearchDirectoryError

logger = logging.getLogger(__name__)


FREE_FIELDS = frozenset({"advisor", "max_trials", "promote", "space", "environment"})


_ABSENT = object()


_SHOWN_CHARACTERS = 80


def compare_descriptions(recorded: Mapping[str, Any], given: Mapping[str, Any], directory: Path) -> None:
    """Let a search be resumed only as what it was; warn of another environment.

    Raises:
        SearchDirectoryError: a field that is not free differs; the message names every such field with both values.
    """
    fixed = list(_differences(_without_free(recorded), _without_free(given)))
    if fixed:
        raise SearchDirectoryError(
            f"{directory} holds another search: its results would not be comparable. "
            "Restore these settings, or take another search_dir:" + "".join(f"\n  - {line}" for line in fixed)
        )
    for line in _differences(recorded.get("environment", {}), given.get("environment", {}), "environment"):
        logger.warning("%s was begun elsewhere, so results may differ from those of one run: %s", directory, line)


def _without_free(description: Mapping[str, Any]) -> dict[str, Any]:
    return {field: value for field, value in description.items() if field not in FREE_FIELDS}


def _differences(recorded: Any, given: Any, path: str = "") -> Iterator[str]:
    if isinstance(recorded, Mapping) and isinstance(given, Mapping):
        for key in dict.fromkeys((*recorded, *given)):
            field = f"{path}.{key}" if path else str(key)
            yield from _differences(recorded.get(key, _ABSENT), given.get(key, _ABSENT), field)
    elif isinstance(recorded, list) and isinstance(given, list) and len(recorded) == len(given):
        for position, (old, new) in enumerate(zip(recorded, given, strict=True)):
            yield from _differences(old, new, f"{path}[{position}]")
    elif recorded != given or isinstance(recorded, bool) != isinstance(given, bool):  # 1 == 1.0 == True
        yield f"{path} was {_shown(recorded)}, but is now {_shown(given)}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "absent"
    text = json.dumps(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"
