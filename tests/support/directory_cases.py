"""A search over fifty depths and two widths: its description, and a directory opened with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autodistill.search.directory import SearchDirectory
from search_spaces import IntRange, SearchSpace

SPACE = SearchSpace({"layers": IntRange(1, 50), "width": [16, 32]})


DESCRIPTION: dict[str, Any] = {
    "metrics": [{"name": "accuracy", "at_most": None}],
    "seed": 0,
    "teacher": "c0ffee",
    "distillation": {"flash": {"train_steps": [20, 20], "temperature": 4.0}, "regular": None},
    "advisor": "BO",
    "max_trials": 8,
    "space": SPACE.to_json(),
    "environment": {"torch": "2.13.0", "threads": 2},
}


def architecture(layers: int, width: int = 16) -> dict[str, Any]:
    return {"layers": layers, "width": width}


def opened(path: Path, within: SearchSpace = SPACE, **changes: Any) -> SearchDirectory:
    return SearchDirectory.open(path, DESCRIPTION | changes, within)


def with_a_finished_trial(path: Path) -> None:
    """Create a search directory with a finished trial."""
    with opened(path) as directory:
        directory.record(directory.begin(architecture(1)).complete({"accuracy": 0.5}))


def files(path: Path) -> dict[str, str]:
    """The text of every file below a directory, except the lock and its owner."""
    return {
        str(file.relative_to(path)): file.read_text()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name not in ("search.lock", "owner.json")
    }
