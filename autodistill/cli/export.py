"""The command `autodistill export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.console import print_line
from autodistill.cli.search_directory import Directory, find_trial
from autodistill.export.huggingface_folder import export_folder
from autodistill.report.terminal import describe_architecture


def export(
    directory: Directory,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    trial: Annotated[int | None, typer.Option(help="The number of a trial; by default the best.")] = None,
) -> None:
    """Write a trained student with its tokenizer into a folder that transformers loads."""
    found = find_trial(directory, trial)
    export_folder(directory, found, out)
    print_line(f"trial {found.number} ({describe_architecture(found)}) is exported to {out}.")
