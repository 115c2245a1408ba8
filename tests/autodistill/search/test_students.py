"""The students of a search directory: which can be loaded, and that a changed one is never loaded."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save_file
from toy_search import make_config, make_search

from autodistill import ConfigurationError, SearchResult
from autodistill.errors import SearchDirectoryError
from autodistill.export.huggingface_folder import export_folder
from autodistill.search.students import find_student
from autodistill.search.trial import Trial


@pytest.fixture
def search(tmp_path):
    search = make_search(tmp_path / "search", make_config(max_trials=2))
    search.search_loop()
    return search


def test_student_that_was_saved_is_found(search):
    for trial in search.search_result:
        assert find_student(search.search_dir, trial) == trial.directory / "student"
        assert trial.student.keys() == {"model.safetensors", "architecture.json"}


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # of the last weight
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (flip_a_bit, "model.safetensors has another content"),
        (Path.unlink, "model.safetensors is missing"),
        (lambda file: file.write_bytes(b""), "model.safetensors has another content"),
        (lambda file: save_file({"other": torch.ones(2)}, file), "model.safetensors has another content"),
    ],
)
def test_damaged_student_is_refused_and_the_others_are_not(search, damage, problem):
    best = search.search_result.best
    damage(best.directory / "student/model.safetensors")
    for use in (
        search.best_model,
        lambda: search.load_model(best),
        lambda: export_folder(search.search_dir, best, search.search_dir.parent / "out"),
    ):
        with pytest.raises(SearchDirectoryError, match=rf"as it was saved, but in .*student {problem}; restore it"):
            use()
    other = next(trial for trial in search.search_result if trial != best)
    assert search.load_model(other).training is False


def test_student_of_an_earlier_version_has_no_hashes_and_its_damage_is_found_when_it_is_read(search):
    trial = search.search_result[0]
    trial.student.clear()
    search.load_model(trial)
    file = trial.directory / "student/model.safetensors"
    for content in (b"", file.read_bytes()[:-1], b"\xff" * 400):
        file.write_bytes(content)
        with pytest.raises(SearchDirectoryError, match=r"must be as they were saved, but in .*SafetensorError"):
            search.load_model(trial)


def test_other_files_in_the_folder_do_not_matter(search):
    trial = search.search_result[0]
    (trial.directory / "student/README.md").write_text("mine")
    find_student(search.search_dir, trial)


def test_trial_run_again_since_its_student_was_damaged_ends_with_the_same_student(search, tmp_path):
    first = search.search_result[0]
    weights = load(Path(first.directory / "student/model.safetensors").read_bytes())
    flip_a_bit(first.directory / "student/model.safetensors")
    with search._open() as directory:
        directory.reopen(directory.result[0])
    search.search_loop()
    again = search.search_result[0]
    assert again.details["earlier_metrics"] == [first.metrics]
    assert (again.metrics, again.student) == (first.metrics, first.student)
    assert all(torch.equal(tensor, weights[name]) for name, tensor in search.load_model(again).state_dict().items())


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        (Trial(0, {"layers": 2}), r"is running; resume the search, or take"),
        (Trial(0, {"layers": 2}).fail("error"), "is failed"),
        (Trial(0, {"layers": 2}).pause({"a": 1.0}), "is paused; resume the search with a larger promote"),
        (Trial(0, {"layers": 2}, added=True).complete({"a": 1.0}), "was run elsewhere and added"),
    ],
)
def test_trial_without_a_trained_student_is_refused(tmp_path, trial, reason):
    with pytest.raises(ConfigurationError, match=reason):
        find_student(tmp_path, trial)


def test_student_that_was_not_kept_is_refused_with_those_that_were(search):
    first, second = SearchResult.load(search.search_dir)
    for file in (first.directory / "student").iterdir():
        file.unlink()
    (first.directory / "student").rmdir()
    with pytest.raises(ConfigurationError, match=rf"trial 0 is not in .*; it has those of trial {second.number}"):
        find_student(search.search_dir, first)
