"""The command `doctor`: a line for each finding, a closing line, and the exit status."""

from __future__ import annotations

from pathlib import Path

import pytest
from commands import run
from directory_cases import opened, with_a_finished_trial
from typer.testing import CliRunner

from autodistill.cli.app import app
from autodistill.search.result import SearchResult


@pytest.fixture
def damaged():
    """A search directory with a damaged record, of which the other files are in order."""
    with_a_finished_trial(Path("runs"))
    Path("runs/trials/000000/trial.json").write_text("{", encoding="utf-8")
    return "runs"


def test_directory_in_order_is_said_to_be(recorded):
    assert run("doctor", recorded).endswith("runs is in order; 1 note.")  # the fixture's student has no hashes
    assert run("doctor", recorded, "--repair").endswith("runs is in order; 1 note.")


def test_problem_has_a_line_with_its_cost_and_remedy_and_status_1(damaged):
    shown = run("doctor", damaged, code=1)
    assert "problem trials/000000/trial.json is damaged (Expecting property name" in shown
    assert "the trial is lost; its architecture may be tried again with --repair: set aside as *.damaged" in shown
    assert shown.endswith("runs has 1 problem, of which --repair repairs 1.")


def test_problem_that_was_repaired_is_shown_with_status_0(damaged):
    shown = run("doctor", damaged, "--repair")
    assert "was set aside as *.damaged" in shown
    assert shown.endswith("runs has 1 problem, all repaired; 1 note.")
    assert "runs is in order; 1 note." in run("doctor", damaged)
    assert len(SearchResult.load(damaged)) == 0


def test_problem_that_cannot_be_repaired_has_status_1_after_the_repair(damaged):
    for name in ("search.json", "search.backup.json"):
        Path(damaged, name).write_text("{", encoding="utf-8")
    shown = run("doctor", damaged, "--repair", code=1)
    assert "the search cannot be resumed restore it from a copy of your own" in shown
    assert "runs has 3 problems, 1 repaired and 2 left; 1 note." in shown


def test_search_at_work_is_not_repaired():
    with opened(Path("runs")):
        assert run("doctor", "runs").endswith("runs is in order.")
        assert "one process at a time works on a search" in run("doctor", "runs", "--repair", code=2)


@pytest.mark.parametrize("options", [(), ("--repair",)])
def test_directory_without_a_search_is_refused(options):
    assert "holds a search.json, but . has none" in run("doctor", ".", *options, code=2)


def test_nothing_in_a_name_reaches_the_terminal_as_a_command(damaged):
    Path(damaged, "\x1b]0;owned\x07\x9b2J\u202e[bold]\n").touch()
    output = CliRunner().invoke(app, ["doctor", damaged]).output
    assert all(character.isprintable() or character == "\n" for character in output)
    assert r"\x1b]0;owned\x07\x9b2J\u202e[bold]\n" in output
