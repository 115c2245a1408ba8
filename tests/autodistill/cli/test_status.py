"""The commands `status`, `trials` and `show`: what is recorded of a search and its trials."""

from __future__ import annotations

import json
import os
import platform
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import yaml
from commands import configure, run
from directory_cases import architecture, opened
from saved_teachers import write_csv
from typer.testing import CliRunner

from autodistill.cli.app import app
from autodistill.json_files import read_record, write_record
from autodistill.search.lock import DirectoryLock
from autodistill.search.trial import now


def test_search_with_two_rungs_shows_the_paused_trial(classifier):
    config = configure("text-classification", classifier, write_csv(Path("train.csv")))
    config["auto_distillation"]["search"]["promote"] = "1/2"
    Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    counts = "2 trials: 1 complete, 0 failed, 1 paused"
    assert counts in run("search", "search.yaml", "--search-dir", "runs", "--no-progress")
    assert counts in run("status", "runs")
    listed = [json.loads(line) for line in CliRunner().invoke(app, ["trials", "runs", "--json"]).output.splitlines()]
    (paused,) = [trial for trial in listed if trial["state"] == "paused"]
    table = run("trials", "runs")
    assert f"{paused['number']} paused" in table
    assert f"{paused['after_flash']['parameters']:,.0f}" in table
    shown = json.loads(CliRunner().invoke(app, ["show", "runs", str(paused["number"])]).output)
    assert shown["after_flash"].keys() == {"accuracy", "parameters"}
    assert "is paused; resume the search" in run("export", "runs", "out", "--trial", paused["number"], code=2)


@pytest.mark.parametrize("command", [("status",), ("trials",), ("show", "0"), ("export", "out")])
def test_directory_without_a_search_is_refused(command):
    name, *rest = command
    assert "holds a search.json, but . has none" in run(name, ".", *rest, code=2)


def test_status_is_the_count_of_trials_and_the_best_of_them(recorded):
    counts, owner, progress, best, architecture = CliRunner().invoke(app, ["status", recorded]).output.splitlines()
    assert counts == "1 trials: 1 complete, 0 failed; the best is trial 0"
    assert owner == "no process is at work"
    assert progress.startswith("1 trials are done; about ")
    assert best.startswith("trial 0 complete (")
    assert best.endswith("): accuracy 0.5")
    assert architecture == "  layers=2"


MINUTE = timedelta(minutes=1)


@pytest.fixture
def half_done():
    """A search directory of 8 trials: the first took ten minutes, and the second began 20 minutes ago."""
    with opened(Path("half_done")) as directory:
        start = now() - 30 * MINUTE
        first = replace(directory.begin(architecture(1)), started_at=start).complete({"accuracy": 0.5})
        directory.record(replace(first, finished_at=start + 10 * MINUTE))
        directory.record(replace(directory.begin(architecture(2)), started_at=start + 10 * MINUTE))
        yield directory


def test_status_of_a_search_at_work_has_its_rate_and_expected_end(half_done):
    began = half_done.result[1].started_at
    shown = run("status", half_done.path)
    assert "2 trials: 1 complete, 0 failed, 1 running; the best is trial 0" in shown
    assert f"process {os.getpid()} on {platform.node()} is at work since 20" in shown
    assert f"trial 1 has been running since {began:%Y-%m-%d %H:%M} UTC" in shown
    end = began + 7 * 10 * MINUTE
    assert f"1 of 8 trials are done; about 6 an hour; the expected end is {end:%Y-%m-%d %H:%M} UTC" in shown


def test_status_of_a_search_that_nobody_runs_has_the_work_that_remains(half_done):
    half_done.close()
    shown = run("status", half_done.path)
    assert "no process is at work trial 1 was interrupted, and continues when the search is resumed" in shown
    assert "1 of 8 trials are done; about 6 an hour; about 70 min of work remain" in shown


def test_trials_have_a_row_each_or_a_json_object_each(recorded):
    assert "0 complete 2 0.5" in run("trials", recorded)
    (line,) = CliRunner().invoke(app, ["trials", recorded, "--json"]).output.splitlines()
    trial = json.loads(line)
    assert (trial["number"], trial["architecture"], trial["metrics"]) == (0, {"layers": 2}, {"accuracy": 0.5})


def test_show_prints_the_record_of_one_trial(recorded):
    shown = json.loads(CliRunner().invoke(app, ["show", recorded, "0"]).output)
    assert (shown["state"], shown["architecture"]) == ("complete", {"layers": 2})
    assert "error" not in shown


@pytest.mark.parametrize(
    "command", [("status",), ("trials",), ("trials", "--json"), ("show", "0"), ("show", "7"), ("export", "out")]
)
@pytest.mark.parametrize("state", ["complete", "failed"])
def test_nothing_in_a_record_reaches_the_terminal_as_a_command(recorded, command, state):
    (file,) = Path(recorded).rglob("trial.json")
    hostile = "\x1b]0;owned\x07\x9b2J\u202e\rfake\nfake"
    record = read_record(file)
    record |= {"state": state, "architecture": {hostile: hostile}, "error": f"Traceback {hostile}\nError: {hostile}"}
    record["metrics"] |= {hostile: 1.0}
    write_record(file, record)
    name, *rest = command
    result = CliRunner().invoke(app, [name, recorded, *rest])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert all(character.isprintable() or character in "\n\t" for character in result.output)
    if command[0] in ("trials", "show") and command[-1] != "7":
        assert "owned" in result.output


@pytest.mark.parametrize(
    "record",
    ["", "[" * 10_000, "\udcff", '{"metrics": 1e999}', '{"number": ' + "9" * 400 + "}"],
    ids=["empty", "deep", "no utf-8", "infinite", "huge"],
)
def test_damaged_record_is_left_out_by_every_command(recorded, record):
    file = Path(recorded) / "trials" / "000000" / "trial.json"
    file.write_bytes(record.encode(errors="surrogateescape"))
    assert "0 trials: 0 complete" in run("status", recorded)
    run("trials", recorded)
    assert "has no trial 0; it has none" in run("show", recorded, "0", code=2)


def test_running_trial_without_a_start_is_shown(recorded):
    file = Path(recorded) / "trials" / "000000" / "trial.json"
    write_record(file, read_record(file) | {"state": "running", "started_at": None})
    with DirectoryLock(Path(recorded)):
        assert "trial 0 has been running since an unknown time" in run("status", recorded)


def test_owner_of_a_directory_that_nobody_holds_is_not_at_work(recorded):
    owner = {"process": os.getpid(), "host": platform.node(), "since": "2026-01-02T03:04:05+00:00"}
    Path(recorded, "owner.json").write_text(json.dumps(owner))
    assert "no process is at work" in run("status", recorded)
