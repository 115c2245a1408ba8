"""What the commands that read a search directory share: the argument, and the lookup of trials by number."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autodistill.errors import ConfigurationError
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial

Directory = Annotated[Path, typer.Argument(help="The search directory.", metavar="DIR")]


def find_trial(search_dir: Path, number: int | None) -> Trial:
    """The trial with a number; by default the best trial.

    Raises:
        ConfigurationError: there is no such trial, or no best.
        SearchDirectoryError: the directory holds no search.
    """
    result = SearchResult.load(search_dir)
    if number is None:
        if result.best is None:
            raise ConfigurationError(f"the best trial must be feasible, but {search_dir} holds none: {result!r}.")
        return result.best
    for trial in result:
        if trial.number == number:
            return trial
    numbers = f"those from 0 to {result[-1].number}" if len(result) else "none"
    raise ConfigurationError(f"{search_dir} has no trial {number}; it has {numbers}.")
