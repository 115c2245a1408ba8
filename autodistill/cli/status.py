"""The commands that show the contents of a search directory: `autodistill status`, `trials` and `show`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from autodistill.cli.console import print_line, print_table
from autodistill.cli.search_directory import Directory, find_trial
from autodistill.forecast import format_seconds
from autodistill.report.printable import printable
from autodistill.report.terminal import describe_architecture, describe_outcome, describe_result, format_number
from autodistill.search.description import read_description
from autodistill.search.lock import is_held
from autodistill.search.owner import Owner
from autodistill.search.pace import Pace
from autodistill.search.result import SearchResult
from autodistill.search.trial import TrialState, now

_TIME = "%Y-%m-%d %H:%M"


def status(directory: Directory) -> None:
    """Show the states of a search's trials, whether a process is at work, the rate, the expected end and the best."""
    result = SearchResult.load(directory)
    print_line(describe_result(result))
    at_work, owner = is_held(directory), Owner.of(directory)
    if at_work:
        print_line("a process is at work" if owner is None else f"{owner} is at work since {owner.since:{_TIME}} UTC")
    else:
        print_line("no process is at work")
    for line in _progress(result, Pace.of(result, read_description(directory)), at_work=at_work):
        print_line(line)
    if result.best is not None:
        print_line(describe_outcome(result.best))
        print_line(f"  {describe_architecture(result.best)}")


def _progress(result: SearchResult, pace: Pace, *, at_work: bool) -> Iterator[str]:
    """The running trials, how many trials are done, how fast, and how long the others take; a line each."""
    for trial in result:
        if trial.state is TrialState.RUNNING and at_work:
            since = "an unknown time" if trial.started_at is None else f"{trial.started_at:{_TIME}} UTC"
            yield f"trial {trial.number} has been running since {since}"
        elif trial.state is TrialState.RUNNING:
            yield f"trial {trial.number} was interrupted, and continues when the search is resumed"
    facts = [f"{pace.done} {'trials' if pace.total is None else f'of {pace.total} trials'} are done"]
    if pace.trials_per_hour is not None:
        facts.append(f"about {format_number(pace.trials_per_hour)} an hour")
    if pace.remaining:
        end = pace.end(now()) if at_work else None
        work = f"about {format_seconds(pace.remaining)} of work remain"
        facts.append(work if end is None else f"the expected end is {end:{_TIME}} UTC")
    yield "; ".join(facts)


def trials(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List all trials, paused ones with their metrics of the first rung."""
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
