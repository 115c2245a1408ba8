"""The errors of advisors.

AutoDistillationError
├── AdvisorError (also a ValueError)   a proposal, a history or a name is invalid
└── SpaceExhaustedError                no architecture is left to propose
"""

from __future__ import annotations

from search_spaces import AutoDistillationError


class AdvisorError(AutoDistillationError, ValueError):
    """An advisor made an invalid proposal, received an inconsistent history, or is not known."""


class SpaceExhaustedError(AutoDistillationError):
    """Every architecture of the space has been proposed: the search is complete."""
