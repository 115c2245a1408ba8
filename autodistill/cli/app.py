"""The commands of `autodistill`: `init`, `search`, `explain`, `status` and those that `COMMANDS` lists besides.

A command is a function with its name, in a module that is imported when the command is called: commands that only read
a search directory do not import torch. The exit status is 0 for success, 1 for failure, 2 for wrong arguments or
configuration, 130 for an interruption, and 143 for a search that SIGTERM ended.
"""

from __future__ import annotations

import importlib
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from autodistill.cli.console import print_line
from autodistill.errors import (
    AdvisorError,
    AutoDistillationError,
    ConfigurationError,
    SearchDirectoryError,
    SearchSpaceError,
)
from autodistill.interrupts import Terminated
from autodistill.machine_faults import describe, machine_fault

FAILED, WRONG, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class Command(NamedTuple):
    """The definition of a command.

    Args:
        module: the module of the function, which has the name of the command.
        help: its docstring, which `autodistill --help` shows without importing the module.
    """

    module: str
    help: str


COMMANDS = {
    "init": Command(
        "autodistill.cli.init", "Write a commented configuration for a task, with a space that fits the teacher's size."
    ),
    "search": Command("autodistill.cli.search", "Search, or resume a search that was interrupted."),
    "explain": Command(
        "autodistill.cli.search",
        "Show what would be distilled into what, for the first architecture of the space, and what it would cost.",
    ),
    "cache": Command("autodistill.cli.cache", "Run the teacher on all that a search needs, in several processes."),
    "finish": Command(
        "autodistill.cli.finish",
        "Train the student of an architecture to the end, whether or not the search would have.",
    ),
    "limit": Command(
        "autodistill.cli.finish",
        "Choose the best slice of the elastic student under new limits, and train this student to the end.",
    ),
    "status": Command(
        "autodistill.cli.status",
        "Show the states of a search's trials, whether a process is at work, the rate, the expected end and the best.",
    ),
    "trials": Command("autodistill.cli.status", "List all trials, paused ones with their metrics of the first rung."),
    "show": Command("autodistill.cli.status", "Show everything that is recorded of one trial."),
    "doctor": Command(
        "autodistill.cli.doctor",
        "Check every file of a search directory, explain what is wrong, and repair what can be rebuilt.",
    ),
    "export": Command(
        "autodistill.cli.export",
        "Write a trained student with its tokenizer into a folder that transformers loads.",
    ),
}


class Commands(TyperGroup):
    """Lists the commands, imports the one that is called, and reports errors with their exit status."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands.update({name: TyperCommand(name, help=command.help) for name, command in COMMANDS.items()})

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Import the command that is called; return it with its name and arguments."""
        name, listed, rest = super().resolve_command(ctx, args)
        return name, listed if name is None else _load(name), rest

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except (ConfigurationError, SearchSpaceError, SearchDirectoryError, AdvisorError) as error:
            code, message = WRONG, str(error)
        except AutoDistillationError as error:
            code, message = FAILED, str(error)
        except (OSError, MemoryError) as error:
            fault = machine_fault(error)
            if fault is None:
                raise
            code, message = FAILED, f"the machine must not fail, but there was {describe(fault)}."
        except Terminated:
            code, message = TERMINATED, "terminated; the same command resumes from here."
        except KeyboardInterrupt:
            code, message = INTERRUPTED, "interrupted; the same command resumes from here."
        print_line(f"autodistill: {message}", stderr=True)
        raise typer.Exit(code)


def _load(name: str) -> Any:
    program = _program()
    program.command(name)(getattr(importlib.import_module(COMMANDS[name].module), name))
    return typer.main.get_command(program)


def _program(**options: Any) -> typer.Typer:
    return typer.Typer(add_completion=False, pretty_exceptions_enable=False, **options)


app = _program(name="autodistill", cls=Commands, no_args_is_help=True)


@app.callback()
def autodistill() -> None:
    """Find small, fast students of a large teacher."""
