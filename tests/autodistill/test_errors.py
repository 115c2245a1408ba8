"""The exception tree and several mistakes in one error."""

import pickle
import re

import pytest

from autodistill import errors

PARENTS = {
    "ConfigurationError": ("AutoDistillationError", ValueError),
    "LayerNotFoundError": ("ConfigurationError", ValueError),
    "SearchSpaceError": ("AutoDistillationError", ValueError),
    "AdvisorError": ("AutoDistillationError", ValueError),
    "SpaceExhaustedError": ("AutoDistillationError", Exception),
    "SearchDirectoryError": ("AutoDistillationError", Exception),
    "SearchStoppedError": ("AutoDistillationError", Exception),
    "StorageError": ("SearchDirectoryError", Exception),
    "TeacherChangedError": ("SearchStoppedError", Exception),
    "TrialError": ("AutoDistillationError", Exception),
    "NonFiniteError": ("TrialError", Exception),
}


@pytest.mark.parametrize("name", PARENTS)
def test_every_error_has_the_parents_of_the_tree(name: str) -> None:
    parent, builtin = PARENTS[name]
    assert issubclass(getattr(errors, name), getattr(errors, parent))
    assert issubclass(getattr(errors, name), builtin)


def test_picture_of_the_tree_names_exactly_the_exported_errors() -> None:
    drawn = set(re.findall(r"^[ │├└─]*(\w+Error)\b", errors.__doc__ or "", flags=re.MULTILINE))
    assert drawn == set(errors.__all__) == {*PARENTS, "AutoDistillationError"}


def test_one_problem_is_the_whole_message() -> None:
    error = errors.ConfigurationError("seed must be an integer, but got 'x'.")
    assert str(error) == "seed must be an integer, but got 'x'."
    assert error.problems == ["seed must be an integer, but got 'x'."]


def test_several_problems_are_listed_in_one_message() -> None:
    error = errors.ConfigurationError(["first.", "second."])
    assert str(error) == "2 mistakes in the configuration:\n  - first.\n  - second."
    assert error.problems == ["first.", "second."]


def test_problems_are_passed_one_by_one_or_in_lists() -> None:
    error = errors.SearchSpaceError("first", ["second", "third"])
    assert error.problems == ["first", "second", "third"]
    assert str(error) == "3 mistakes:\n  - first\n  - second\n  - third"


def test_error_raised_in_a_worker_process_arrives_with_its_problems() -> None:
    error = pickle.loads(pickle.dumps(errors.LayerNotFoundError(["first.", "second."])))
    assert type(error) is errors.LayerNotFoundError
    assert error.problems == ["first.", "second."]
