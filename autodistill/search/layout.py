"""Where everything is in a search directory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass

SEARCH_FILE = "search.json"


TRIAL_FILE = "trial.json"


TRIALS = "trials"


TEACHER_CACHE = "teacher_cache"


def trial_name(number: int) -> str:
    """The name of a trial's folder.

    Examples:
        >>> trial_name(12)
        '000012'
    """
    return f"{number:06d}"


def student_directory(search_dir: Path, number: int) -> Path:
    """Where the trained student of a trial is kept."""
    return search_dir / TRIALS / trial_name(number) / "student"


def trial_directories(search_dir: Path) -> list[Path]:
    """The folders of trials in a search directory, by number."""
    folders = [path for path in (search_dir / TRIALS).glob("*") if path.name.isdecimal() and path.is_dir()]
    return sorted(folders, key=lambda path: int(path.name))
