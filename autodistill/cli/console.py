"""What the commands print: sentences, and tables that are not broken where there is no terminal."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

_WIDE = 300  # characters


def say(line: str, *, stderr: bool = False) -> None:
    """Print a sentence, in one line however long it is."""
    Console(stderr=stderr).print(line, markup=False, highlight=False, soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table, as wide as the terminal."""
    console = Console()
    if not console.is_terminal:  # there is no edge to break lines at
        console.width = _WIDE
    console.print(table)
