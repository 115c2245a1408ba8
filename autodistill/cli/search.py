"""The commands that read a configuration file: `autodistill search` and `explain`."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Annotated

import transformers
import typer
from rich import box
from rich.table import Table
from rich.text import Text

from autodistill.cli.console import print_line, print_table
from autodistill.cli.setup import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import AutoDistillationError
from autodistill.processes import current_processes
from autodistill.report.terminal import describe_architecture, forecast_table, results_table
from autodistill.search.trial import Trial

ConfigFile = Annotated[Path, typer.Argument(help="The file that `autodistill init` wrote.", metavar="CONFIG")]


def search(
    config: ConfigFile,
    search_dir: Annotated[Path, typer.Option(help="Created if it does not exist; resumed if it does.")],
    trials: Annotated[int | None, typer.Option(min=1, help="Run so many more, whatever max_trials is.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Start no trial after this many seconds.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress on standard error.")] = True,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Run failed trials again first.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Run so many trials at the same time.")] = None,
    executor: Annotated[
        str | None, typer.Option(help="Where trials run: serial, processes on this computer, or ray.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Predict the cost, and end.")] = False,
) -> None:
    """Search, or resume a search that was interrupted."""
    quiet_libraries()
    setup = SearchSetup(CommandConfig.load(config))
    agent = setup.search(search_dir, show_progress_bar=progress)
    if dry_run:
        print_table(forecast_table(agent.forecast(trials)))
        return
    before = len(agent.search_result)
    if before:
        print_line(f"{search_dir} holds {before} trials of this search: resuming.")
    elif progress and current_processes().is_main:
        with contextlib.suppress(AutoDistillationError):  # the search raises it, unless it holds for one student only
            print_line(agent.forecast(trials).describe(), stderr=True)
    best = agent.search_loop(
        n_trials=trials, timeout=timeout, retry_failed=retry_failed, executor=executor, workers=workers
    )
    if not current_processes().is_main:  # under `accelerate launch`, one process prints
        return
    setup.keep_preprocessor(agent)
    print_table(results_table(agent.search_result, setup.scores(setup.models.teacher)))
    if best is None:
        raise AutoDistillationError("no trial is feasible; `autodistill trials` shows why.")


def explain(config: ConfigFile) -> None:
    """Show what would be distilled into what, for the first architecture of the space, and what it would cost."""
    quiet_libraries()
    setup = SearchSetup(CommandConfig.load(config))
    architecture, rows = setup.example()
    table = Table(title=Text(describe_architecture(Trial(0, architecture))), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("stage", "student", "teacher", "loss", "weight", "steps"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, (row.stage, row.student, row.teacher, row.loss, f"{row.weight:g}", str(row.steps))))
    print_table(table)
    print_table(forecast_table(setup.forecast()))


def quiet_libraries() -> None:
    """Silence transformers, which logs the loading of weights and those that a task does not use; in workers too."""
    os.environ |= {"TRANSFORMERS_VERBOSITY": "error", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
