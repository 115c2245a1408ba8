"""The command `autodistill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.console import say
from autodistill.cli.search_directory import Directory, find_trial
from autodistill.export.folder import export_folder
from autodistill.report.terminal import describe_architecture


def export(
    directory: Directory,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    trial: Annotated[int | None, typer.Option(help="The number of a trial; the best if not given.")] = None,
) -> None:
    """Write a trained student with its tokenizer into a folder that transformers loads."""
    found = find_trial(directory, trial)
    export_folder(directory, found, out)
    say(f"trial {found.number} ({describe_architecture(found)}) is exported to {out}.")
