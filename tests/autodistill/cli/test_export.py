"""What cannot be exported is told; what can be is whole, or not there at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodistill.cli.export import export_student, find_trial
from autodistill.cli.search import PREPROCESSOR
from autodistill.errors import ConfigurationError
from autodistill.search.directory import SearchDirectory
from autodistill.search.layout import student_directory
from search_spaces import SearchSpace

RUNS = Path("runs")


@pytest.fixture
def search_dir():
    """Two trials, of which the second is better and alone has its student kept."""
    space = SearchSpace({"layers": [1, 2, 3]})
    with SearchDirectory.open(RUNS, {"metrics": ["accuracy"], "seed": 0}, space) as directory:
        for layers, accuracy in ((1, 0.5), (2, 0.9)):
            trial = directory.claim({"layers": layers})
            directory.record(trial.complete({"accuracy": accuracy}))
    folder = student_directory(RUNS, 1)
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    (RUNS / PREPROCESSOR).mkdir()
    (RUNS / PREPROCESSOR / "tokenizer.json").write_text("{}", encoding="utf-8")
    return RUNS


def test_best_trial_is_found_where_no_number_is_given(search_dir):
    assert find_trial(search_dir, None).number == 1
    assert find_trial(search_dir, 0).architecture == {"layers": 1}


def test_student_and_tokenizer_are_written_side_by_side_into_an_empty_folder(search_dir):
    out = Path("new/out")
    out.mkdir(parents=True)
    assert export_student(search_dir, None, out).number == 1
    assert {path.name for path in out.iterdir()} == {"config.json", "tokenizer.json"}
    assert [path.name for path in out.parent.iterdir()] == ["out"]
    assert student_directory(search_dir, 1).exists()


def test_student_that_was_not_kept_is_told_with_those_that_were(search_dir):
    with pytest.raises(ConfigurationError, match="that of trial 0 is not of them; there are 1"):
        export_student(search_dir, 0, Path("out"))


def test_search_directory_of_another_program_has_no_tokenizer(search_dir):
    (search_dir / PREPROCESSOR / "tokenizer.json").unlink()
    (search_dir / PREPROCESSOR).rmdir()
    with pytest.raises(ConfigurationError, match="runs has no preprocessor; resume the search"):
        export_student(search_dir, None, Path("out"))


def test_nothing_is_overwritten(search_dir):
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(ConfigurationError, match="into a new folder, but out is there"):
        export_student(search_dir, None, Path("out"))
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]
