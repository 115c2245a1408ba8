"""The commands that show the contents of a search directory: `autodistill status`, `trials` and `show`."""

from __future__ import annotations

import json
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from autodistill.cli.console import print_line, print_table
from autodistill.cli.search_directory import Directory, find_trial
from autodistill.report.printable import printable
from autodistill.report.terminal import describe_architecture, describe_outcome, describe_result, format_number
from autodistill.search.result import SearchResult
from autodistill.search.trial import TrialState


def status(directory: Directory) -> None:
    """Show the progress of a search in one line, and its best trial."""
    result = SearchResult.load(directory)
    print_line(describe_result(result))
    running = [trial for trial in result if trial.state is TrialState.RUNNING]
    for trial in running:
        since = "an unknown time" if trial.started_at is None else f"{trial.started_at:%Y-%m-%d %H:%M} UTC"
        print_line(f"trial {trial.number} has been running since {since}, or was interrupted")
    if result.best is not None:
        print_line(describe_outcome(result.best))
        print_line(f"  {describe_architecture(result.best)}")


def trials(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List all trials, paused ones with their metrics after flash distillation."""
    result = SearchResult.load(directory)
    if as_json:
        for trial in result:
            print(json.dumps(trial.to_json()))
        return
    dimensions = list(dict.fromkeys(name for trial in result for name in trial.architecture))
    measured = [trial.metrics or trial.after_flash for trial in result]
    metrics = list(dict.fromkeys(name for values in measured for name in values))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("trial", "state", *dimensions, *metrics, "seconds"):
        table.add_column(Text(printable(heading)), justify="right", overflow="fold")
    for trial, known in zip(result, measured, strict=True):
        choices = (str(trial.architecture.get(name, "")) for name in dimensions)
        values = (format_number(known[name]) if name in known else "" for name in metrics)
        seconds = "" if trial.duration is None else f"{trial.duration:.1f}"
        cells = (str(trial.number), trial.state.value, *choices, *values, seconds)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    print_table(table)


def show(
    directory: Directory, number: Annotated[int, typer.Argument(metavar="N", help="The number of the trial.")]
) -> None:
    """Show everything that is recorded of one trial."""
    trial = find_trial(directory, number)
    record = {name: value for name, value in trial.to_json().items() if name != "error"}
    print(json.dumps(record, indent=2))  # in ASCII, with escapes
    if trial.error is not None:
        print(printable(trial.error, lines=True))
