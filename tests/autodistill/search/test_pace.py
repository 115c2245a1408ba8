"""The pace of a search and the work that remains, in numbers computed by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from autodistill.metrics.metric import Metric
from autodistill.search.pace import Pace
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState

START = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
AFTER_FLASH = {"accuracy": 0.5}


def ended(number: int, seconds: float | None, state: TrialState = TrialState.COMPLETE, **changes: Any) -> Trial:
    """A trial that began `number` hours after the first."""
    start = START + timedelta(hours=number)
    end = None if seconds is None else start + timedelta(seconds=seconds)
    metrics = {"accuracy": 0.5} if state is TrialState.COMPLETE else {}
    trial = Trial(number, {"layers": number}, state, metrics, started_at=start, finished_at=end)
    return replace(trial, **changes)


def paused(number: int, seconds: float) -> Trial:
    return ended(number, seconds, TrialState.PAUSED, after_flash=AFTER_FLASH)


def promoted(number: int, seconds: float) -> Trial:
    return ended(number, seconds, after_flash=AFTER_FLASH)


def running(number: int, **changes: Any) -> Trial:
    return ended(number, None, TrialState.RUNNING, **changes)


def pace(*trials: Trial, **description: Any) -> Pace:
    return Pace.of(SearchResult(trials, [Metric("accuracy")]), description)


def test_the_other_trials_take_the_mean_of_those_that_ended() -> None:
    found = pace(ended(0, 60), ended(1, 90), ended(2, 30, TrialState.FAILED), max_trials=10)
    assert found == Pace(done=3, total=10, seconds=60.0, remaining=7 * 60.0)
    assert found.trials_per_hour == 60.0


def test_a_running_trial_is_not_done_and_its_time_so_far_is_work_done() -> None:
    found = pace(ended(0, 600), running(1), max_trials=3)
    assert (found.done, found.remaining) == (1, 1200.0)
    start = START + timedelta(hours=1)
    assert found.end(start + timedelta(minutes=4)) == start + timedelta(minutes=20)
    late = start + timedelta(hours=5)
    assert found.end(late) == late


def test_without_a_running_trial_the_work_begins_now() -> None:
    assert pace(ended(0, 60), max_trials=3).end(START + timedelta(days=1)) == START + timedelta(days=1, minutes=2)


def test_only_the_last_twenty_trials_count() -> None:
    found = pace(*(ended(number, 1000) for number in range(5)), *(ended(5 + n, 10) for n in range(20)), max_trials=26)
    assert (found.seconds, found.remaining) == (10.0, 10.0)


def test_added_trials_and_those_during_which_the_clock_was_set_back_have_no_time() -> None:
    found = pace(ended(0, 60), ended(1, 0, added=True), ended(2, -3600), max_trials=4)
    assert (found.done, found.seconds, found.remaining) == (3, 60.0, 60.0)


def test_before_a_trial_has_ended_nothing_is_known() -> None:
    found = pace(running(0), max_trials=4)
    assert found == Pace(done=0, total=4, seconds=None, remaining=None, since=START)
    assert found.trials_per_hour is None
    assert found.end(START) is None


@pytest.mark.parametrize("limit", [None, 1, -1, True, "10", 10.0, 10**400])
def test_without_a_valid_limit_that_lies_ahead_there_is_only_a_rate(limit: Any) -> None:
    found = pace(ended(0, 60), ended(1, 60), max_trials=limit)
    assert found == Pace(done=2, total=None, seconds=60.0, remaining=None)


def test_a_search_that_has_all_trials_has_no_work_left() -> None:
    assert pace(ended(0, 60), max_trials=1).remaining == 0.0


def test_with_promote_a_share_of_the_trials_takes_the_time_of_the_second_part_too() -> None:
    # 12 trials of 10 s, and a third of them, 4, take 100 s more; 4 are tried, and one of them is promoted.
    trials = (paused(0, 10), paused(1, 10), paused(2, 10), promoted(3, 100))
    found = pace(*trials, max_trials=12, promote=1 / 3)
    assert found.done == 4
    assert found.remaining == 8 * 10 + 3 * 100
    assert found.seconds == pytest.approx(10 + 100 / 3)


def test_a_promoted_trial_that_runs_is_done_and_its_second_part_remains() -> None:
    trials = (paused(0, 10), promoted(1, 100), running(2, after_flash=AFTER_FLASH))
    found = pace(*trials, max_trials=3, promote=0.1)  # by its share, no trial would be promoted any more
    assert (found.done, found.remaining) == (3, 100.0)


def test_while_no_promoted_trial_is_complete_the_end_is_not_known() -> None:
    found = pace(paused(0, 10), max_trials=4, promote=0.5)
    assert (found.seconds, found.remaining) == (None, None)
    assert pace(paused(0, 10), max_trials=4, promote=0.1).remaining == 30.0  # none will be promoted


def test_trials_that_ran_to_the_end_before_promote_was_set_are_no_first_parts() -> None:
    found = pace(ended(0, 500), paused(1, 10), promoted(2, 100), max_trials=5, promote=0.2)
    assert found.remaining == 2 * 10


def test_without_promote_the_paused_trials_are_finished_and_new_ones_run_to_the_end() -> None:
    found = pace(ended(0, 500), paused(1, 10), paused(2, 10), promoted(3, 100), max_trials=6)
    assert found.remaining == 2 * 500 + 2 * 100
    assert found.seconds == 500


def test_an_end_beyond_the_calendar_is_none() -> None:
    found = pace(ended(0, 3e10), max_trials=10**9)
    assert found.remaining == pytest.approx(3e19)
    assert found.end(START) is None
