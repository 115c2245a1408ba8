"""Printing for the commands: sentences, and tables that are not wrapped if the output is no terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

_WIDE = 300  # characters


def print_line(line: str, *, stderr: bool = False) -> None:
    """Print a sentence in one line, without wrapping."""
    Console(stderr=stderr).print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal."""
    console = Console()
    if not console.is_terminal:  # no width at which to wrap lines
        console.width = _WIDE
    console.print(table)
