"""Printing for the commands: sentences, and tables that are not wrapped if the output is no terminal."""

from __future__ import annotations

import sys
from typing import IO, cast

from rich.console import Console
from rich.table import Table

from autodistill.report.output import LastingOutput
from autodistill.report.printable import printable

_WIDE = 300  # characters


def _console(*, stderr: bool = False) -> Console:
    return Console(file=cast(IO[str], LastingOutput(sys.stderr if stderr else sys.stdout)))


def print_line(line: str, *, stderr: bool = False) -> None:
    """Print a sentence in one line, or several with a line each, without wrapping; control characters are escaped."""
    _console(stderr=stderr).print(
        printable(line, lines=True), markup=False, emoji=False, highlight=False, soft_wrap=True
    )


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal."""
    console = _console()
    if not console.is_terminal:  # no width at which to wrap lines
        console.width = _WIDE
    console.print(table)
