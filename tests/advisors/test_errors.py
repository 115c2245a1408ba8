"""The errors of advisors: what a program catches."""

from __future__ import annotations

import pytest

from advisors import errors
from search_spaces import AutoDistillationError

ERRORS = [value for value in vars(errors).values() if isinstance(value, type) and value.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ERRORS)
def test_one_except_clause_catches_every_error_of_the_project(error: type[Exception]) -> None:
    with pytest.raises(AutoDistillationError, match="the reason"):
        raise error("the reason")


def test_wrong_proposal_is_a_wrong_value_and_an_exhausted_space_is_none() -> None:
    assert {error.__name__: issubclass(error, ValueError) for error in ERRORS} == {
        "AdvisorError": True,
        "SpaceExhaustedError": False,
    }
