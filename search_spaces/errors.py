"""The root of every error this project raises, and the errors of a search space.

AutoDistillationError
└── ProblemsError (also a ValueError)
    └── SearchSpaceError
"""

from __future__ import annotations

from collections.abc import Sequence


class AutoDistillationError(Exception):
    """The root of every error that is raised on purpose by `search_spaces`, `advisors` and `autodistill`."""


class ProblemsError(AutoDistillationError, ValueError):
    """One mistake, or all that were found, in one error.

    Args:
        problems: the mistakes, a sentence each; one by one, or as lists of them.

    Attributes:
        problems: the same, in one list, each once.
        heading: of the message, after the number of mistakes, if there are several.

    Examples:
        >>> print(ProblemsError("`low` is missing", ["`step` is 0"]))
        2 mistakes:
          - `low` is missing
          - `step` is 0
    """

    heading = "mistakes"

    def __init__(self, *problems: str | Sequence[str]) -> None:
        found = [problem for part in problems for problem in ([part] if isinstance(part, str) else part)]
        self.problems = list(dict.fromkeys(found))
        super().__init__(*self.problems)

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n  - ".join([f"{len(self.problems)} {self.heading}:", *self.problems])


class SearchSpaceError(ProblemsError):
    """A search space is described wrongly, or an architecture does not belong to it; see `problems`."""
