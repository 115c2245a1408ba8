"""The commands: `autodistill init`, `explain`, `search`, `status`, `trials`, `show` and `export`.

They end with 0 when done, 1 when failed, 2 when called or configured wrongly, 130 when interrupted.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import transformers
import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.core import TyperGroup

from autodistill.cli.export import export_student, find_trial
from autodistill.cli.search import SearchSetup
from autodistill.cli.template import configuration_text
from autodistill.config.command_line import CommandConfig, TaskName
from autodistill.errors import (
    AdvisorError,
    AutoDistillationError,
    ConfigurationError,
    SearchDirectoryError,
    SearchSpaceError,
)
from autodistill.files import replacing
from autodistill.processes import current_processes
from autodistill.report.terminal import (
    describe_architecture,
    describe_outcome,
    describe_result,
    format_number,
    results_table,
)
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState

FAILED, WRONG, INTERRUPTED = 1, 2, 130
_WIDE = 300  # characters


class Commands(TyperGroup):
    """Tells errors in a sentence, and ends with their exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was called."""
        try:
            return super().invoke(ctx)
        except (ConfigurationError, SearchSpaceError, SearchDirectoryError, AdvisorError) as error:
            code, message = WRONG, str(error)
        except AutoDistillationError as error:
            code, message = FAILED, str(error)
        except KeyboardInterrupt:
            code, message = INTERRUPTED, "interrupted; the same command goes on from here."
        _say(f"autodistill: {message}", stderr=True)
        raise typer.Exit(code)


app = typer.Typer(
    name="autodistill",
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Find small, fast students of a large teacher.",
)

ConfigFile = Annotated[Path, typer.Argument(help="The file that `autodistill init` wrote.", metavar="CONFIG")]
Directory = Annotated[Path, typer.Argument(help="The search directory.", metavar="DIR")]


@app.command()
def init(
    task: Annotated[TaskName, typer.Argument(help="What the models do.")],
    output: Annotated[Path, typer.Option(help="The file to write.")] = Path("autodistill.yaml"),
    teacher: Annotated[str | None, typer.Option(help="A folder, or a model of the hub.")] = None,
    student: Annotated[str | None, typer.Option(help="A family other than the teacher's: distilbert.")] = None,
    train: Annotated[str | None, typer.Option(help="A file, a folder, or a data set of the hub.")] = None,
    validation: Annotated[str | None, typer.Option(help="Held-out data; else a tenth of --train.")] = None,
) -> None:
    """Write a commented configuration for a task, its space cut to the teacher's size."""
    if output.exists():
        raise ConfigurationError(f"init writes a new file, but {output} is there; name another with --output.")
    text = configuration_text(task, file=output, teacher=teacher, student=student, train=train, validation=validation)
    output.parent.mkdir(parents=True, exist_ok=True)
    with replacing(output) as temporary:
        temporary.write_text(text, encoding="utf-8")
    _say(f"{output} is written: look it over, then `autodistill search {output} --search-dir runs/{task}`.")


@app.command()
def search(
    config: ConfigFile,
    search_dir: Annotated[Path, typer.Option(help="Made where it does not exist; resumed where it does.")],
    trials: Annotated[int | None, typer.Option(min=1, help="So many more, whatever max_trials says.")] = None,
    timeout: Annotated[float | None, typer.Option(min=0, help="Begin no trial after so many seconds.")] = None,
    progress: Annotated[bool, typer.Option(help="Show progress on standard error.")] = True,
) -> None:
    """Search, or go on with a search that was interrupted."""
    _quiet_libraries()
    setup = SearchSetup(CommandConfig.load(config))
    agent = setup.search(search_dir, show_progress_bar=progress)
    before = len(agent.search_result)
    if before:
        _say(f"{search_dir} holds {before} trials of this search: resuming.")
    best = agent.search_loop(n_trials=trials, timeout=timeout)
    if not current_processes().is_main:  # under `accelerate launch` one of them tells the result
        return
    setup.keep_preprocessor(agent)
    _print_table(results_table(agent.search_result, setup.scores(setup.teacher)))
    if best is None:
        _say("autodistill: no trial is feasible; `autodistill trials` tells why.", stderr=True)
        raise typer.Exit(FAILED)


@app.command()
def explain(config: ConfigFile) -> None:
    """Show what would be distilled into what, for the first architecture of the space."""
    _quiet_libraries()
    architecture, rows = SearchSetup(CommandConfig.load(config)).example()
    table = Table(title=Text(describe_architecture(Trial(0, architecture))), title_justify="left", box=box.SIMPLE_HEAD)
    for heading in ("stage", "student", "teacher", "loss", "weight", "steps"):
        table.add_column(heading, overflow="fold")
    for row in rows:
        table.add_row(*map(Text, (row.stage, row.student, row.teacher, row.loss, f"{row.weight:g}", str(row.steps))))
    _print_table(table)


@app.command()
def status(directory: Directory) -> None:
    """Tell how far a search is, in a line, with its best trial."""
    result = SearchResult.load(directory)
    _say(describe_result(result))
    running = [trial for trial in result if trial.state is TrialState.RUNNING]
    for trial in running:
        _say(f"trial {trial.number} has been running since {trial.started_at:%Y-%m-%d %H:%M} UTC, or was interrupted")
    if result.best is not None:
        _say(describe_outcome(result.best))
        _say(f"  {describe_architecture(result.best)}")


@app.command()
def trials(
    directory: Directory,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line.")] = False,
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
        table.add_column(Text(heading), justify="right", overflow="fold")
    for trial, known in zip(result, measured, strict=True):
        choices = (str(trial.architecture.get(name, "")) for name in dimensions)
        values = (format_number(known[name]) if name in known else "" for name in metrics)
        seconds = "" if trial.duration is None else f"{trial.duration:.1f}"
        table.add_row(*map(Text, (str(trial.number), trial.state.value, *choices, *values, seconds)))
    _print_table(table)


@app.command()
def show(directory: Directory, number: Annotated[int, typer.Argument(metavar="N", help="Of the trial.")]) -> None:
    """Show everything that is recorded of one trial."""
    trial = find_trial(directory, number)
    record = {name: value for name, value in trial.to_json().items() if name != "error"}
    print(json.dumps(record, indent=2))
    if trial.error is not None:
        print(trial.error)


@app.command()
def export(
    directory: Directory,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A new folder.")],
    trial: Annotated[int | None, typer.Option(help="The number of a trial; the best if not given.")] = None,
) -> None:
    """Write a trained student with its tokenizer into a folder that transformers loads."""
    exported = export_student(directory, trial, out)
    _say(f"trial {exported.number} ({describe_architecture(exported)}) is exported to {out}.")


def _say(line: str, *, stderr: bool = False) -> None:
    Console(stderr=stderr).print(line, markup=False, highlight=False, soft_wrap=True)


def _print_table(table: Table) -> None:
    console = Console()
    if not console.is_terminal:  # there is no edge to break lines at
        console.width = _WIDE
    console.print(table)


def _quiet_libraries() -> None:
    """Leave the terminal to the search: models tell of weights that a task has no use for, and of their loading."""
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
