"""What a search leaves on disk, as far as it must not depend on what happened meanwhile."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from safetensors import safe_open

from autodistill import SearchResult, Trial, TrialState

_PASSING = ("teacher_cache", "search.lock", "owner.json", "trial.json")
"""Files that may differ: of the cache, of the process, and with times; of the last, `decided` has the rest."""


_START = re.compile(r"/checkpoint/\d+/")
"""The checkpoints of a start: how often a trial was started depends on what happened."""

Outcome = tuple[list[Any], dict[str, Any]]


def decided(directory: Path) -> Outcome:
    """The trials without times and attempts, and what is in all files: weights, losses, checkpoints of paused trials.

    Leftovers of a killed process are among the files.
    """
    trials = [
        (trial.number, trial.architecture, trial.state, trial.metrics, trial.after_flash, trial.details, trial.added)
        for trial in SearchResult.load(directory)
    ]
    files = {
        _START.sub("/checkpoint/", str(path.relative_to(directory))): _content(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file() and not any(part in _PASSING for part in path.relative_to(directory).parts)
    }
    return trials, files


def _content(path: Path) -> Any:
    """The bytes of a file; of one of tensors their bytes, as the order of what describes them is random."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, framework="np") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        return file.metadata(), {name: (str(t.dtype), t.shape, t.tobytes()) for name, t in tensors.items()}


def differences(directory: Path, expected: Outcome) -> list[str]:
    """What differs from the expected outcome, and what a killed process left, in words."""
    trials, files = decided(directory)
    found = [f"trial {left[0]}" for left, right in zip(trials, expected[0], strict=False) if left != right]
    if len(trials) != len(expected[0]):
        found.append(f"{len(trials)} trials instead of {len(expected[0])}")
    names = sorted(files.keys() | expected[1].keys())
    found += [name for name in names if files.get(name) != expected[1].get(name)]
    return found + leftovers(directory)


def leftovers(directory: Path) -> list[str]:
    """Unfinished files, and checkpoints of trials that are finished."""
    unfinished = [str(path.relative_to(directory)) for path in directory.rglob("*") if ".tmp" in path.name]
    finished = [
        trial for trial in SearchResult.load(directory) if trial.state in (TrialState.COMPLETE, TrialState.FAILED)
    ]
    return unfinished + [f"checkpoint of trial {t.number}" for t in finished if _has_checkpoint(t)]


def _has_checkpoint(trial: Trial) -> bool:
    return trial.directory is not None and (trial.directory / "checkpoint").exists()


def recorded(directory: Path) -> list[Trial]:
    """The trials whose results are recorded, complete or paused; none before there is a search."""
    if not (directory / "search.json").exists():
        return []
    return [trial for trial in SearchResult.load(directory) if trial.is_measured]


def is_kept(before: Trial, after: Trial | None) -> bool:
    """Whether a recorded result is the same, times included, so that it was not run again; paused trials may go on."""
    if before.state is TrialState.COMPLETE:
        return after == before
    return after is not None and (after.architecture, after.after_flash) == (before.architecture, before.after_flash)
