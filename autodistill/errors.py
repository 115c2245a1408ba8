"""Every exception that AutoDistillation raises on purpose.

    AutoDistillationError
    ├── ConfigurationError (ValueError)   the set-up is wrong; every mistake found is in `problems`
    │   └── LayerNotFoundError            a model has no layer of the requested name
    ├── SearchSpaceError (ValueError)     a search space or an architecture is wrong; every mistake is in `problems`
    ├── AdvisorError (ValueError)         an advisor is unknown, or its proposal is invalid
    ├── SpaceExhaustedError               every architecture of the space has been tried
    ├── SearchDirectoryError              the directory belongs to another search, is damaged, not writable, or in use
    │   └── StorageError                  the storage of checkpoints and students cannot be reached
    ├── SearchStoppedError                too many trials in a row, or the machine, failed; see `__cause__`
    │   └── TeacherChangedError           a hook changed the teacher
    └── TrialError                        one trial cannot be finished; it is recorded and the search goes on
        └── NonFiniteError                a loss or a metric is NaN or infinite

A trial may also fail with any other exception that a user's function raises. Interrupts are never caught; those of a
search are explained in `interrupts`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from advisors.errors import AdvisorError, SpaceExhaustedError
from search_spaces import AutoDistillationError, SearchSpaceError
from search_spaces.errors import ProblemsError

__all__ = [
    "AdvisorError",
    "AutoDistillationError",
    "ConfigurationError",
    "LayerNotFoundError",
    "NonFiniteError",
    "SearchDirectoryError",
    "SearchSpaceError",
    "SearchStoppedError",
    "SpaceExhaustedError",
    "StorageError",
    "TeacherChangedError",
    "TrialError",
]

T = TypeVar("T")


class ConfigurationError(ProblemsError):
    """The set-up is wrong: one mistake, or all that were found; see `problems`.

    Examples:
        >>> print(ConfigurationError(["max_trials must be positive, but got 0.", "metrics must name one metric."]))
        2 mistakes in the configuration:
          - max_trials must be positive, but got 0.
          - metrics must name one metric.
    """

    heading = "mistakes in the configuration"


def attempt(problems: list[str], function: Callable[[], T]) -> T | None:
    """What the function returns; None if it raises a `ConfigurationError`, whose problems are added.

    Examples:
        >>> problems = []
        >>> attempt(problems, lambda: 3)
        3
    """
    try:
        return function()
    except ConfigurationError as error:
        problems += error.problems
        return None


def raise_problems(problems: Iterable[str]) -> None:
    """Raise one `ConfigurationError` with all problems, each once, if there are any.

    Examples:
        >>> raise_problems([])
    """
    found = list(dict.fromkeys(problems))
    if found:
        raise ConfigurationError(found)


class LayerNotFoundError(ConfigurationError):
    """A model has no layer of the name in the configuration."""


class SearchDirectoryError(AutoDistillationError):
    """A directory cannot be used by this search: it holds something else, is not writable, or is in use."""


class StorageError(SearchDirectoryError):
    """The storage of checkpoints and students cannot be reached, read or written."""


class SearchStoppedError(AutoDistillationError):
    """Too many trials failed in a row, or the machine failed, by a full disk or a lack of memory, say.

    `__cause__` is the (last) failure. The directory can be resumed.
    """


class TeacherChangedError(SearchStoppedError):
    """A hook changed the weights of the teacher, on which all later students depend; the trial is not recorded."""


class TrialError(AutoDistillationError):
    """One trial cannot be finished: it is recorded as failed, and the search goes on."""


class NonFiniteError(TrialError):
    """A loss or a metric is NaN or infinite."""


def text_of(error: BaseException) -> str:
    """The type of an error and its text, also if asking for its text fails.

    Examples:
        >>> text_of(ValueError("too small")), text_of(KeyboardInterrupt())
        ('ValueError: too small', 'KeyboardInterrupt')
    """
    try:
        text = str(error).strip()
    except Exception:  # of a user's class
        text = ""
    return type(error).__name__ + (f": {text}" if text else "")
