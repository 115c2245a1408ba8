"""A forecast adds up what trials and the teacher take, and is displayed with units and remedies."""

from __future__ import annotations

from dataclasses import replace

import pytest

from autodistill.forecast import Forecast, TeacherWork, format_bytes, format_seconds

TEACHER = TeacherWork(flash_samples=480, samples=600, stored_samples=0, seconds=60.0, disk_bytes=3 * 2**30)
FORECAST = Forecast(630, 0.25, TEACHER, 2**29, flash_seconds=10.0, regular_seconds=50.0, trials=6)


def test_search_takes_the_teacher_once_and_both_phases_for_each_trial() -> None:
    assert FORECAST.trial_seconds == 60
    assert FORECAST.search_seconds == 60 + 6 * (10 + 50)


def test_only_promoted_trials_take_regular_distillation() -> None:
    assert replace(FORECAST, promoted=0.5).search_seconds == 60 + 6 * 10 + 3 * 50


def test_unknown_numbers_are_left_out() -> None:
    forecast = replace(FORECAST, trials=None, training_samples=None)
    assert forecast.search_seconds is None
    assert "trials with" not in forecast.describe()
    assert ("training samples", "unknown") in list(forecast.rows())
    assert not any(name.startswith("search of") for name, _ in forecast.rows())


def test_line_and_rows_hold_the_same_numbers_and_the_line_ends_with_the_remedies() -> None:
    line = replace(FORECAST, limits=("set teacher_cache_gb=4",)).describe()
    rows = dict(FORECAST.rows())
    assert "600 samples (60 s; 3 GiB on disk)" in line
    assert "6 trials with the teacher for 7 min" in line
    assert line.endswith("; set teacher_cache_gb=4")
    assert rows["samples that the teacher runs on"] == "600"
    assert rows["disk for the teacher's features"] == "3 GiB"
    assert rows["search of 6 trials"] == "7 min, without evaluation"
    assert rows["padding"] == "25 %"


def test_stored_samples_are_named() -> None:
    teacher = replace(TEACHER, samples=100, stored_samples=500)
    assert dict(replace(FORECAST, teacher=teacher).rows())["samples that the teacher runs on"] == (
        "100 (500 more are stored)"
    )


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.004, "0.004 s"),
        (1.234, "1.2 s"),
        (89, "89 s"),
        (90, "1.5 min"),
        (3600, "60 min"),
        (5400, "1.5 h"),
        (36e4, "100 h"),
    ],
)
def test_durations_have_two_digits_and_a_unit_that_fits(seconds: float, shown: str) -> None:
    assert format_seconds(seconds) == shown


@pytest.mark.parametrize(("size", "shown"), [(2**18, "0.25 MiB"), (2**29, "512 MiB"), (2.5 * 2**30, "2.5 GiB")])
def test_sizes_have_two_digits_and_a_unit_that_fits(size: float, shown: str) -> None:
    assert format_bytes(size) == shown
