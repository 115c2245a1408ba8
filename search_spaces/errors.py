"""The root of every error this project raises, and the errors of a search space.

AutoDistillationError
└── SearchSpaceError (also a ValueError)
"""

from __future__ import annotations


class AutoDistillationError(Exception):
    """The root of every error that is raised on purpose by `search_spaces`, `advisors` and `autodistill`."""


class SearchSpaceError(AutoDistillationError, ValueError):
    """The description of a search space is invalid, or an architecture does not belong to it.

    All mistakes are reported in one error; `problems` holds them one by one.

    >>> print(SearchSpaceError("`low` is missing", "`step` is 0"))
    2 problems:
    - `low` is missing
    - `step` is 0
    """

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems: tuple[str, ...] = problems

    def __str__(self) -> str:
        if len(self.problems) == 1:
            return self.problems[0]
        return "\n- ".join([f"{len(self.problems)} problems:", *self.problems])
