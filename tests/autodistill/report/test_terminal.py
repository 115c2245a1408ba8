"""The display: bars on a terminal, plain lines elsewhere, and the table of results."""

import io
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from autodistill.forecast import Forecast, TeacherWork
from autodistill.metrics.metric import Metric
from autodistill.report.terminal import (
    PlainProgress,
    RichProgress,
    describe_result,
    forecast_table,
    format_number,
    make_progress,
    results_table,
)
from autodistill.search.progress import NoProgress, Progress
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial

START = datetime(2026, 1, 1, tzinfo=UTC)
CLEAR_LINE, SHOW_CURSOR, HIDE_CURSOR = "\x1b[2K", "\x1b[?25h", "\x1b[?25l"


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, color_system=None, legacy_windows=False)


def text_of(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def finished(number: int, **metrics: float) -> Trial:
    trial = Trial(number, {"layers": number + 1, "kind": "[b]"}, started_at=START)
    return replace(trial.complete(metrics), finished_at=START + timedelta(seconds=2))


def failed(number: int) -> Trial:
    error = "Traceback (most recent call last):\nValueError: no [x]\n"
    return Trial(number, {"layers": number + 1, "kind": "[b]"}).fail(error)


def ticking(seconds: float) -> Callable[[], float]:
    moment = iter(range(10**6))
    return lambda: next(moment) * seconds


def show(progress: Progress) -> None:
    """A search of three trials, one of which was done before."""
    trials = [finished(0, accuracy=0.5), finished(1, accuracy=0.75), failed(2)]
    progress.search_started(3, 1)
    progress.trial_started(trials[1])
    for block in ("layer.0", "layer.1"):
        progress.stage(block, 4)
        for step in range(1, 5):
            progress.step(step, 1 / step)
    progress.trial_finished(trials[1])
    progress.trial_started(trials[2])
    progress.stage("layer.0", 4)
    progress.step(1, 0.5)
    progress.trial_finished(trials[2])
    progress.search_finished(SearchResult(trials, [Metric("accuracy")]))
    progress.close()


def test_display_fits_its_console() -> None:
    assert isinstance(make_progress(console=console(terminal=True)), RichProgress)
    assert isinstance(make_progress(console=console(terminal=False)), PlainProgress)
    assert isinstance(make_progress(False, console(terminal=True)), NoProgress)


def test_display_goes_to_standard_error_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    show(make_progress())
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "trial 1 complete" in captured.err


def test_plain_display_is_a_line_for_each_event() -> None:
    target = console(terminal=False)
    show(PlainProgress(target, ticking(0.5)))
    assert text_of(target).splitlines() == [
        "search of 3 trials, 1 of them done before",
        "trial 1 (of 3): layers=2, kind=[b]",
        "  layer.0: 4 steps, loss 0.25, 0.5 s",
        "  layer.1: 4 steps, loss 0.25, 0.5 s",
        "trial 1 complete (2.0 s): accuracy 0.75",
        "trial 2 (of 3): layers=3, kind=[b]",
        "  layer.0: 1 steps, loss 0.5, 0.5 s",
        "trial 2 failed: ValueError: no [x]",
        "3 trials: 2 complete, 1 failed; the best is trial 1",
    ]


def test_plain_display_has_no_control_characters_and_keeps_long_lines_whole() -> None:
    target = console(terminal=False)
    progress = PlainProgress(target)
    progress.trial_started(Trial(0, {f"dimension_{i}": "x" * 20 for i in range(20)}))
    assert "\x1b" not in text_of(target)
    assert text_of(target).count("\n") == 1


def test_plain_display_shows_the_loss_of_the_last_step() -> None:
    target = console(terminal=False)
    progress = PlainProgress(target, ticking(0.0))
    progress.stage("regular", 3)
    progress.step(1, 0.5)
    progress.step(2, 0.25)
    progress.close()
    progress.close()
    assert text_of(target) == "  regular: 2 steps, loss 0.25, 0.0 s\n"


def test_terminal_shows_trials_block_step_and_loss() -> None:
    target = console(terminal=True)
    show(RichProgress(target, ticking(1.0)))  # every step is a second, so every step is drawn
    text = text_of(target)
    for expected in ("trials", "1/3", "trial 1: layers=2, kind=[b]", "layer.1", "4/4", "loss 0.25", "2/3", "3/3"):
        assert expected in text
    for line in ("trial 1 complete (2.0 s): accuracy 0.75", "trial 2 failed: ValueError: no [x]"):
        assert text.count(line) == 1
    assert text.rstrip().endswith("3 trials: 2 complete, 1 failed; the best is trial 1")


def test_cursor_of_the_terminal_is_restored_when_the_search_is_interrupted() -> None:
    target = console(terminal=True)
    progress = RichProgress(target)
    progress.search_started(3, 0)
    progress.trial_started(Trial(0, {"layers": 1}))
    progress.stage("layer.0", 10)
    progress.step(1, 0.5)
    assert HIDE_CURSOR in text_of(target)
    progress.close()
    progress.close()
    text = text_of(target)
    assert text.rfind(SHOW_CURSOR) > text.rfind(HIDE_CURSOR)
    assert text.count(SHOW_CURSOR) == 1


def test_terminal_is_drawn_at_most_ten_times_a_second() -> None:
    drawings = []
    for seconds in (0.001, 1.0):
        target = console(terminal=True)
        progress = RichProgress(target, ticking(seconds))
        progress.search_started(1, 0)
        progress.stage("layer.0", 200)
        before = text_of(target).count(CLEAR_LINE)
        for step in range(200):
            progress.step(step, 0.5)
        drawings.append(text_of(target).count(CLEAR_LINE) - before)
        progress.close()
    assert drawings[0] * 50 <= drawings[1]


def test_terminal_display_starts_no_thread() -> None:
    before = threading.active_count()
    progress = RichProgress(console(terminal=True))
    progress.search_started(1, 0)
    assert threading.active_count() == before
    progress.close()


def test_step_outside_a_stage_and_close_before_the_start_raise_no_error() -> None:
    for progress in (RichProgress(console(terminal=True)), PlainProgress(console(terminal=False)), NoProgress()):
        progress.close()
        progress.step(1, 0.5)
        progress.trial_started(Trial(0, {}))
        progress.close()


def promoting(progress: Progress) -> None:
    """A search of two trials, the first of which is paused, promoted and finished."""
    trials = [finished(0, accuracy=0.5), finished(1, accuracy=0.75)]
    paused = [replace(trial.pause(trial.metrics), metrics={}, finished_at=trial.finished_at) for trial in trials]
    progress.search_started(2, 0)
    for trial in paused:
        progress.trial_started(replace(trial, after_flash={}))
        progress.trial_finished(trial)
    progress.trial_started(paused[1])
    complete = replace(paused[1].complete({"accuracy": 0.9}), finished_at=START + timedelta(seconds=3))
    progress.trial_finished(complete)
    progress.search_finished(SearchResult([paused[0], complete], [Metric("accuracy")]))


def test_plain_display_reports_pauses_and_promotions() -> None:
    target = console(terminal=False)
    promoting(PlainProgress(target))
    assert text_of(target).splitlines() == [
        "search of 2 trials",
        "trial 0 (of 2): layers=1, kind=[b]",
        "trial 0 paused in the first rung (2.0 s): accuracy 0.5",
        "trial 1 (of 2): layers=2, kind=[b]",
        "trial 1 paused in the first rung (2.0 s): accuracy 0.75",
        "trial 1 (of 2) is promoted: layers=2, kind=[b]",
        "trial 1 complete (3.0 s): accuracy 0.9",
        "2 trials: 1 complete, 0 failed, 1 paused; the best is trial 1",
    ]


def test_bar_of_trials_counts_a_promoted_trial_once() -> None:
    target = console(terminal=True)
    promoting(RichProgress(target))
    assert "2/2" in text_of(target)
    assert "3/2" not in text_of(target)


def test_no_display_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    show(NoProgress())
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.0, "0"), (0.000012345, "1.234e-05"), (12.0, "12"), (999.96, "1000"), (1000.4, "1,000"), (-2500.0, "-2,500")],
)
def test_numbers_are_short(value: float, shown: str) -> None:
    assert format_number(value) == shown


def rows(result: SearchResult, teacher: dict[str, float] | None = None) -> list[list[str]]:
    table = results_table(result, teacher)
    columns = [[str(cell) for cell in column.cells] for column in table.columns]
    return [list(row) for row in zip(*columns, strict=True)]


METRICS = [Metric("accuracy"), Metric("latency"), Metric("size_mb", measured=True)]


def test_table_shows_the_teacher_and_the_front_with_the_best_marked() -> None:
    trials = [
        finished(0, accuracy=0.80, latency=1.0, size_mb=3.0),
        finished(1, accuracy=0.99, latency=9.0, size_mb=2.0),
        finished(2, accuracy=0.70, latency=2.0, size_mb=1.0),  # dominated by 0
        finished(3, accuracy=0.97, latency=2.0, size_mb=2.5),
        failed(4),
    ]
    assert rows(SearchResult(trials, METRICS), {"accuracy": 0.995, "latency": 1234.0, "other": 1.0}) == [
        ["teacher", "", "", "", "0.995", "1,234", ""],
        ["", "1", "2", "[b]", "0.99", "9", "2"],
        ["best", "3", "4", "[b]", "0.97", "2", "2.5"],
        ["", "0", "1", "[b]", "0.8", "1", "3"],
    ]


def test_table_of_one_metric_shows_the_five_best_trials() -> None:
    trials = [finished(number, error=abs(number - 3.2)) for number in range(8)]
    shown = rows(SearchResult(trials, [Metric("error", greater_is_better=False)]))
    assert [(row[0], row[1]) for row in shown] == [("best", "3"), ("", "4"), ("", "2"), ("", "5"), ("", "1")]


def test_table_without_trials_is_empty_and_says_so() -> None:
    result = SearchResult([], [Metric("accuracy")])
    assert rows(result) == []
    assert describe_result(result) == "0 trials: 0 complete, 0 failed; no feasible trial yet"


def test_table_prints_headings_units_and_values_on_a_console() -> None:
    target = console(terminal=False)
    target.print(results_table(SearchResult([finished(0, accuracy=0.5, latency=2.0, size_mb=1.0)], METRICS)))
    text = text_of(target)
    for expected in ("accuracy", "(max)", "(min, ms)", "(min, MB)", "[b]", "best", "1 trials: 1 complete"):
        assert expected in text


def test_table_of_a_forecast_shows_every_row_and_the_remedies_below() -> None:
    limits = ("set teacher_cache_gb=4", "flash_set_gb: 2 holds them all [1]")
    forecast = Forecast(6000, 0.1, TeacherWork(480, 600, 0, 60.0, 2**30), 2**29, 10.0, 50.0, trials=6, limits=limits)
    target = console(terminal=False)
    target.print(forecast_table(forecast))
    lines = text_of(target).splitlines()
    for name, value in forecast.rows():
        assert any(name in line and value in line for line in lines), name
    assert [line.strip() for line in lines if line.strip()][-2:] == list(limits)


def test_no_control_character_of_a_record_is_displayed() -> None:
    hostile = "\x1b[2J\rfake\nfake"
    trials = [Trial(0, {hostile: hostile}).complete({hostile: 0.5}), Trial(1, {"a": hostile}).fail(f"E: {hostile}\x1b")]
    result = SearchResult(trials, [Metric(hostile, greater_is_better=True)])
    for terminal in (False, True):
        target = console(terminal=terminal)
        progress = make_progress(console=target)
        progress.search_started(2, 0)
        for trial in trials:
            progress.trial_started(trial)
            progress.trial_finished(trial)
        progress.search_finished(result)
        target.print(results_table(result))
        assert "\x1b[2J" not in text_of(target)
        assert "\rfake" not in text_of(target)
        assert r"\x1b[2J\rfake\nfake" in text_of(target)
