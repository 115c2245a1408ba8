"""Which settings a resumed search may change, and how the others are reported."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest
from directory_cases import files, opened, with_a_finished_trial

from autodistill.errors import SearchDirectoryError
from autodistill.search.description import problem_in


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"seed": 1}, "seed was 0, but is now 1"),
        ({"teacher": "beef"}, 'teacher was "c0ffee", but is now "beef"'),
        ({"metrics": [{"name": "accuracy", "at_most": 1}]}, "metrics[0].at_most was null, but is now 1"),
        ({"metrics": []}, 'metrics was [{"name": "accuracy", "at_most": null}], but is now []'),
        (
            {"distillation": {"flash": {"train_steps": [20, 30], "temperature": 4.0}, "regular": None}},
            "distillation.flash.train_steps[1] was 20, but is now 30",
        ),
        ({"distillation": {"flash": None, "regular": None}}, "distillation.flash was {"),
        ({"distillation": {"flash": None}}, "distillation.regular was null, but is now absent"),
        ({"loss_func": "mse"}, 'loss_func was absent, but is now "mse"'),
        ({"seed": False}, "seed was 0, but is now false"),
    ],
)
def test_another_search_is_refused_naming_the_field_and_both_values(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with_a_finished_trial(tmp_path)
    before = files(tmp_path)
    with pytest.raises(SearchDirectoryError, match="holds another search") as caught:
        opened(tmp_path, **changes)
    assert f"\n  - {sentence}" in str(caught.value)
    assert files(tmp_path) == before
    opened(tmp_path).close()  # the refused one has released the directory


def test_all_differing_fields_are_named_in_one_error(tmp_path: Path) -> None:
    with_a_finished_trial(tmp_path)
    with pytest.raises(SearchDirectoryError) as caught:
        opened(tmp_path, seed=1, teacher="beef")
    assert str(caught.value).count("\n  - ") == 2


def test_equal_settings_in_another_form_are_the_same_search(tmp_path: Path) -> None:
    opened(tmp_path).close()
    flash = {"temperature": 4, "train_steps": (20, 20)}
    opened(tmp_path, distillation={"regular": None, "flash": flash}).close()


def test_more_trials_and_another_advisor_are_accepted_and_recorded(tmp_path: Path) -> None:
    opened(tmp_path).close()
    opened(tmp_path, max_trials=100, advisor="TPE").close()
    recorded = json.loads((tmp_path / "search.json").read_text())
    assert (recorded["max_trials"], recorded["advisor"]) == (100, "TPE")


def test_another_environment_is_logged_as_a_warning_with_both_values(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    opened(tmp_path).close()
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        opened(tmp_path, environment={"torch": "2.13.0", "threads": 4}).close()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "environment.threads was 2, but is now 4" in caplog.text


def test_what_is_wrong_with_a_description_is_the_end_of_a_sentence(tmp_path: Path) -> None:
    opened(tmp_path).close()
    file = tmp_path / "search.json"
    assert problem_in(file) is None
    text = file.read_text()
    for damaged, problem in [
        (text.replace("c0ffee", "c0ffef"), "its content is not what was written: the hashes differ"),
        ("[]", "it has no schema_version"),
    ]:
        file.write_text(damaged)
        assert problem_in(file) == problem
    file.unlink()
    with pytest.raises(FileNotFoundError):
        problem_in(file)
