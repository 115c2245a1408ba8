"""Whether a search may continue an earlier one: the comparison of their descriptions.

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

from autodistill.errors import SearchDirectoryError

logger = logging.getLogger(__name__)


FREE_FIELDS = frozenset({"advisor", "max_trials", "promote", "space", "environment"})


_ABSENT = object()


_SHOWN_CHARACTERS = 80


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
