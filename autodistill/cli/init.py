"""The command `autodistill init`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from autodistill.cli.console import print_line
from autodistill.cli.template import Choices, configuration_text
from autodistill.config.command_line import TaskName
from autodistill.errors import ConfigurationError
from autodistill.files import replacing


def init(
    task: Annotated[TaskName, typer.Argument(help="The task of the models.")],
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("autodistill.yaml"),
    teacher: Annotated[str | None, typer.Option(help="A folder, or a model of the hub.")] = None,
    student: Annotated[str | None, typer.Option(help="A family other than the teacher's: distilbert.")] = None,
    train: Annotated[str | None, typer.Option(help="A file, a folder, or a data set of the hub.")] = None,
    validation: Annotated[str | None, typer.Option(help="Held-out data; else a tenth of --train.")] = None,
    elastic: Annotated[bool, typer.Option("--elastic", help="One training for all sizes.")] = False,
) -> None:
    """Write a commented configuration for a task, with a space that fits the teacher's size."""
    if output.exists():
        raise ConfigurationError(f"init writes a new file, but {output} exists; name another with --output.")
    text = configuration_text(task, output, Choices(teacher, student, train, validation, elastic))
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    print_line(f"{output} is written: check it, then run `autodistill search {output} --search-dir runs/{task}`.")
