"""Trials, and what a search's result computes from them."""

import json
import math
from dataclasses import replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any

import pytest
from complete_trials import START, trial

from autodistill.search.trial import CHOSEN, Trial, TrialState, has_lost_its_record, read_trial


def test_record_survives_a_round_trip_through_json_text() -> None:
    original = Trial(
        3,
        {"layers": 2, "dropout": 0.1, "activation": "relu", "bias": False, "norm": None},
        TrialState.FAILED,
        error="Traceback …\nValueError: ä",
        started_at=START,
        finished_at=START + timedelta(seconds=1.5),
        attempts=2,
        details={"losses": {"layer.1": [0.5, 0.25]}},
    )
    copy = Trial.from_json(json.loads(json.dumps(original.to_json())))
    assert copy == original
    assert copy.duration == 1.5
    assert [type(value) for value in copy.architecture.values()] == [int, float, str, bool, type(None)]


def test_completing_sets_state_metrics_and_end_and_keeps_details() -> None:
    begun = Trial(0, {}, started_at=START, details={"a": 1})
    done = begun.complete({"accuracy": 0.5}, {"b": 2})
    assert (done.state, done.metrics, done.error) == (TrialState.COMPLETE, {"accuracy": 0.5}, None)
    assert done.details == {"a": 1, "b": 2}
    assert done.finished_at is not None
    assert done.finished_at.tzinfo is UTC
    assert (begun.state, begun.duration, begun.details) == (TrialState.RUNNING, None, {"a": 1})


def test_failing_keeps_the_error_and_no_metrics() -> None:
    failed = Trial(0, {}, started_at=START).fail("Traceback")
    assert (failed.state, failed.metrics, failed.error) == (TrialState.FAILED, {}, "Traceback")


@pytest.mark.parametrize(
    "change",
    [
        {"number": "3"},
        {"number": True},
        {"state": "done"},
        {"architecture": [1]},
        {"metrics": {"accuracy": "high"}},
        {"metrics": {"accuracy": None}},
        {"started_at": "yesterday"},
        {"started_at": 5},
        {"error": 7},
        {"attempts": None},
        {"details": "none"},
        {"metrics": {"accuracy": "0.5"}},
        {"metrics": {"accuracy": True}},
        {"metrics": {"accuracy": 10**400}},
        {"metrics": {"accuracy": math.inf}},
        {"after_flash": {"accuracy": "0.5"}},
        {"started_at": "2026-01-01T00:00:00"},
        {"finished_at": "0001-01-01T00:00:00+14:00"},
        {"state": "complete", "metrics": {}},
        {"state": "paused", "after_flash": {}},
        {"attempts": -1},
        {"attempts": 10**400},
        {"architecture": {"layers": {"nested": 1}}},
    ],
)
def test_record_with_a_wrong_field_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  any message will do: the file is damaged
        Trial.from_json(trial(3, accuracy=1.0).to_json() | change)


@pytest.mark.parametrize("added", [True, False])
def test_record_of_an_earlier_version_marks_an_added_trial_in_its_details(added: bool) -> None:
    record = trial(0, accuracy=1.0).to_json() | {"details": {"added": True} if added else {}}
    del record["added"]
    assert Trial.from_json(record).added is added


@pytest.mark.parametrize(
    "key", [key for key in trial(0, accuracy=1.0).to_json() if key not in ("added", "student", "starts")]
)
def test_record_without_one_of_its_fields_is_refused(key: str) -> None:
    record = trial(0, accuracy=1.0).to_json()
    del record[key]
    with pytest.raises(ValueError, match=key):
        Trial.from_json(record)


@pytest.mark.parametrize("record", [None, [], "trial", 3])
def test_record_of_another_type_is_refused(record: Any) -> None:
    with pytest.raises(ValueError, match="no record of a trial"):
        Trial.from_json(record)


def test_field_of_a_later_version_is_ignored() -> None:
    assert Trial.from_json(trial(0, accuracy=1.0).to_json() | {"mood": "good"}).number == 0


def test_folder_without_a_record_holds_no_trial_and_another_trials_record_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "000004"
    folder.mkdir()
    assert read_trial(folder) is None
    (folder / "trial.json").write_text(json.dumps(trial(5, accuracy=1.0).to_json()))
    with pytest.raises(ValueError, match="trial 5"):
        read_trial(folder)


def test_record_without_a_metric_of_its_search_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "000005"
    folder.mkdir()
    complete = trial(5, accuracy=0.5)
    (folder / "trial.json").write_text(json.dumps(complete.to_json()))
    assert read_trial(folder, ["accuracy"]) == replace(complete, directory=folder)
    with pytest.raises(ValueError, match="it is complete, but has no value of 'latency'"):
        read_trial(folder, ["accuracy", "latency"])
    paused = Trial(5, {}).pause({"accuracy": 0.5}).promote()
    (folder / "trial.json").write_text(json.dumps(paused.to_json()))
    with pytest.raises(ValueError, match="in the first rung, but has no value of 'latency'"):
        read_trial(folder, ["accuracy", "latency"])


def test_folder_in_the_place_of_a_record_is_damage(tmp_path: Path) -> None:
    (tmp_path / "000005" / "trial.json").mkdir(parents=True)
    with pytest.raises(ValueError, match="it is a folder"):
        read_trial(tmp_path / "000005")


@pytest.mark.parametrize(
    ("names", "lost"),
    [((), False), (("trial.json.tmp",), False), (("student.damaged",), False), (("progress.jsonl", "a.tmp"), True)],
)
def test_folder_has_lost_its_record_if_other_files_are_there(tmp_path: Path, names: list[str], lost: bool) -> None:
    for name in names:
        (tmp_path / name).touch()
    assert has_lost_its_record(tmp_path) is lost


def test_failed_trial_is_reopened_without_its_error_which_becomes_a_detail() -> None:
    again = Trial(3, {}, attempts=2).fail("first").reopen()
    assert (again.state, again.error, again.finished_at, again.attempts) == (TrialState.RUNNING, None, None, 0)
    assert again.fail("second").reopen().details == {"earlier_errors": ["first", "second"]}


def test_trial_with_odd_details_is_reopened_all_the_same() -> None:
    again = Trial(3, {}, details={"earlier_errors": 3}).fail("first").reopen()
    assert again.details == {"earlier_errors": ["first"]}


def test_the_record_of_a_paused_trial_has_its_earlier_form() -> None:
    trial = Trial(3, {}).pause({"accuracy": 0.5})
    assert Trial.from_json(json.loads(json.dumps(trial.to_json()))) == trial
    promoted = trial.promote()
    assert (promoted.state, promoted.after_flash, promoted.attempts) == (TrialState.RUNNING, {"accuracy": 0.5}, 1)
    done = promoted.complete({"accuracy": 0.7})
    assert (done.state, done.after_flash, done.metrics) == (TrialState.COMPLETE, {"accuracy": 0.5}, {"accuracy": 0.7})


def test_choice_of_the_user_is_a_detail_that_stays() -> None:
    chosen = Trial(3, {}, details={CHOSEN: True})
    for later in (chosen.complete({"accuracy": 1.0}), chosen.fail("error").reopen(), chosen.pause({"accuracy": 1.0})):
        assert later.details[CHOSEN] is True
        assert Trial.from_json(json.loads(json.dumps(later.to_json()))).details[CHOSEN] is True
