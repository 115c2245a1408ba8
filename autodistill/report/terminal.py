"""The display of a search: its progress while it runs, and a table of its results."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, cast

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars
from rich.table import Table
from rich.text import Text

from autodistill.forecast import Forecast
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.metric import Metric
from autodistill.report.output import LastingOutput
from autodistill.report.printable import printable
from autodistill.search.progress import NoProgress, Progress
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState

_REFRESH = 0.1  # seconds between two drawings of the bars


_LEADERS = 5  # rows in the table of a search for one metric


def make_progress(show: bool = True, console: Console | None = None) -> Progress:
    """The suitable display: bars on a terminal, plain lines elsewhere, none if disabled.

    Args:
        show: False for none.
        console: by default standard error, so that the output of the program is not mixed with it.
    """
    if not show:
        return NoProgress()
    console = console or Console(file=cast(IO[str], LastingOutput(sys.stderr)))
    return RichProgress(console) if console.is_terminal else PlainProgress(console)


class PlainProgress:
    """Prints a line for each start and end of a trial and each end of a stage."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._total = 0
        self._stage: tuple[str, float] | None = None
        self._last: tuple[int, float | None] = (0, None)

    def search_started(self, total_trials: int, done: int) -> None:
        self._total = total_trials
        self._print(f"search of {total_trials} trials" + (f", {done} of them done before" if done else ""))

    def trial_started(self, trial: Trial) -> None:
        self._end_stage()  # of what precedes the trials
        promoted = " is promoted" if trial.after_flash else ""
        self._print(f"trial {trial.number} (of {self._total}){promoted}: {describe_architecture(trial)}")

    def stage(self, name: str, steps: int) -> None:
        self._end_stage()
        self._stage = (name, self._clock())
        self._last = (0, None)

    def step(self, step: int, loss: float) -> None:
        self._last = (step, loss)

    def finished(self, name: str, losses: Sequence[float]) -> None:
        pass  # the last step has been reported

    def trial_finished(self, trial: Trial) -> None:
        self._end_stage()
        self._print(describe_outcome(trial))

    def search_finished(self, result: SearchResult) -> None:
        self._print(describe_result(result))

    def close(self) -> None:
        self._end_stage()

    def _end_stage(self) -> None:
        if self._stage is None:
            return
        name, start = self._stage
        steps, loss = self._last
        shown = "" if loss is None else f", loss {loss:.4g}"
        self._print(f"  {name}: {steps} steps{shown}, {self._clock() - start:.1f} s")
        self._stage = None

    def _print(self, line: str) -> None:
        _print_line(self._console, line)


class RichProgress:
    """Shows a bar for the trials and one for the stage of the current trial."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        # Without automatic refresh: rich's thread could hold a lock at the moment a data loader forks its workers.
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console,
            auto_refresh=False,
        )
        self._console = console
        self._clock = clock
        self._drawn = -_REFRESH
        self._trials: TaskID | None = None
        self._stage: TaskID | None = None

    def search_started(self, total_trials: int, done: int) -> None:
        self._trials = self._bars.add_task("trials", total=total_trials, completed=done, note="")
        self._bars.start()
        self._bars.refresh()

    def trial_started(self, trial: Trial) -> None:
        self._end_stage()
        if self._trials is not None:
            self._bars.update(self._trials, note=f"trial {trial.number}: {describe_architecture(trial)}", refresh=True)

    def stage(self, name: str, steps: int) -> None:
        self._end_stage()
        self._stage = self._bars.add_task(name, total=steps, note="")
        self._bars.refresh()

    def step(self, step: int, loss: float) -> None:
        if self._stage is None:
            return
        self._bars.update(self._stage, completed=step, note=f"loss {loss:.4g}")
        moment = self._clock()
        if moment - self._drawn >= _REFRESH:
            self._drawn = moment
            self._bars.refresh()

    def finished(self, name: str, losses: Sequence[float]) -> None:
        pass  # the last step has been reported

    def trial_finished(self, trial: Trial) -> None:
        self._end_stage()
        _print_line(self._console, describe_outcome(trial))
        if self._trials is not None:
            was_paused = trial.after_flash and trial.state is not TrialState.PAUSED  # it was counted then
            self._bars.update(self._trials, advance=0 if was_paused else 1, note="", refresh=True)

    def search_finished(self, result: SearchResult) -> None:
        self.close()
        _print_line(self._console, describe_result(result))

    def close(self) -> None:
        self._end_stage()
        self._bars.stop()

    def _end_stage(self) -> None:
        if self._stage is not None:
            self._bars.remove_task(self._stage)
            self._stage = None


def describe_architecture(trial: Trial) -> str:
    """A trial's architecture in one line; it may have been read from a file.

    Examples:
        >>> describe_architecture(Trial(0, {"layers": 2, "activation": "relu"}))
        'layers=2, activation=relu'
    """
    return printable(", ".join(f"{name}={value}" for name, value in trial.architecture.items()))


def describe_outcome(trial: Trial) -> str:
    """The outcome of a trial in one line: its metrics so far, or the last line of its traceback.

    Examples:
        >>> describe_outcome(Trial(3, {"layers": 2}).fail("Traceback ...\\nValueError: too small"))
        'trial 3 failed: ValueError: too small'
    """
    seconds = "" if trial.duration is None else f" ({trial.duration:.1f} s)"
    if trial.state is TrialState.FAILED:
        lines = (trial.error or "").strip().splitlines()
        return f"trial {trial.number} failed{seconds}: {printable(lines[-1]) if lines else 'unknown error'}"
    measured = trial.metrics or trial.after_flash
    values = printable(", ".join(f"{name} {format_number(value)}" for name, value in measured.items()))
    state = "paused in the first rung" if trial.state is TrialState.PAUSED else trial.state.value
    return f"trial {trial.number} {state}{seconds}: {values}"


def describe_result(result: SearchResult) -> str:
    """The outcome of a search in one line."""
    best = result.best
    return f"{result.describe_counts()}; " + (
        "no feasible trial yet" if best is None else f"the best is trial {best.number}"
    )


def format_number(value: float) -> str:
    """A metric's value with four significant digits; from 1000 on, all digits before the decimal point.

    Examples:
        >>> format_number(0.98764), format_number(66_362_880.0)
        ('0.9876', '66,362,880')
    """
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def results_table(result: SearchResult, teacher_metrics: Mapping[str, float] | None = None) -> Table:
    """The result table of a search: the teacher, then the Pareto front with the best trial marked.

    For a search with one metric, the best few trials are shown instead of the front.

    Args:
        result: the search.
        teacher_metrics: the teacher's values by metric name; missing ones are left blank.
    """
    rows = _rows(result)
    dimensions = list(dict.fromkeys(name for trial in rows for name in trial.architecture))
    table = Table(title=describe_result(result), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("")
    table.add_column("trial", justify="right")
    for heading in (*map(printable, dimensions), *(_heading(metric) for metric in result.metrics)):
        # As Text: a name in brackets would be parsed as a style.
        table.add_column(Text(heading), justify="right", overflow="fold")
    if teacher_metrics is not None:
        table.add_row("teacher", "", *("" for _ in dimensions), *_values(result, teacher_metrics), end_section=True)
    best = result.best
    for trial in rows:
        mark = "best" if trial is best else ""
        choices = (Text(printable(str(trial.architecture.get(name, "")))) for name in dimensions)
        style = "bold" if mark else None
        table.add_row(mark, str(trial.number), *choices, *_values(result, trial.metrics), style=style)
    return table


def forecast_table(forecast: Forecast) -> Table:
    """What a search is predicted to cost, as a table; remedies for what a setting limits are below it."""
    table = Table(
        title="predicted from one batch",
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_header=False,
        caption=Text("\n".join(forecast.limits)),
        caption_justify="left",
    )
    table.add_column()
    table.add_column(justify="right", overflow="fold")
    for name, value in forecast.rows():
        table.add_row(name, value)
    return table


def _rows(result: SearchResult) -> list[Trial]:
    goals = [metric for metric in result.metrics if not metric.measured]
    if len(goals) > 1:
        return sorted(result.pareto_front, key=lambda trial: goals[0].loss(trial.metrics[goals[0].name]))
    return sorted(result.feasible, key=lambda trial: goals[0].loss(trial.metrics[goals[0].name]))[:_LEADERS]


def _heading(metric: Metric) -> str:
    unit = BUILT_IN[metric.name].unit if metric.name in BUILT_IN else ""
    return f"{printable(metric.name)}\n({'max' if metric.greater_is_better else 'min'}{', ' if unit else ''}{unit})"


def _values(result: SearchResult, values: Mapping[str, float]) -> list[str]:
    return [format_number(values[metric.name]) if metric.name in values else "" for metric in result.metrics]


def _print_line(console: Console, line: str) -> None:
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)
