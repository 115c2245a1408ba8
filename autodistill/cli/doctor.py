"""The command `autodistill doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from autodistill import doctor as checks
from autodistill.cli.console import print_line, print_table
from autodistill.cli.search_directory import Directory
from autodistill.doctor import Finding
from autodistill.report.printable import printable


def doctor(
    directory: Directory,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what can be rebuilt.")] = False,
) -> None:
    """Check every file of a search directory, explain what is wrong, and repair what can be rebuilt."""
    findings = checks.repair(directory) if repair else checks.examine(directory)
    if findings:
        print_table(_table(findings))
    print_line(_conclusion(directory, findings))
    if any(finding.is_open for finding in findings):
        raise typer.Exit(1)


def _table(findings: Sequence[Finding]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for heading in ("", "file", "finding", "cost", "remedy"):
        table.add_column(heading, overflow="fold")
    for finding in findings:
        kind = "note" if finding.harmless else "problem"
        cells = (kind, finding.file.as_posix(), finding.problem, finding.cost, finding.outcome)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    return table


def _conclusion(directory: Path, findings: Sequence[Finding]) -> str:
    problems = [finding for finding in findings if not finding.harmless]
    repaired = sum(finding.repaired for finding in problems)
    repairable = sum(finding.can_be_repaired for finding in problems)
    line = f"{directory} has {_count(len(problems), 'problem')}" if problems else f"{directory} is in order"
    if repairable:
        line += f", of which --repair repairs {repairable}"
    if repaired:
        left = len(problems) - repaired
        line += f", {repaired} repaired and {left} left" if left else ", all repaired"
    notes = len(findings) - len(problems)
    return f"{line}; {_count(notes, 'note')}." if notes else f"{line}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
