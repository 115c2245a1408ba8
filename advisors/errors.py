"""The errors of advisors.

AutoDistillationError
├── AdvisorError (also a ValueError)   a proposal, a history or a name is wrong
└── SpaceExhaustedError                nothing is left to propose
"""

from __future__ import annotations

from search_spaces import AutoDistillationError


class AdvisorError(AutoDistillationError, ValueError):
    """An advisor proposed what it must not, was given a history that contradicts itself, or is not known."""


class SpaceExhaustedError(AutoDistillationError):
    """Every architecture of the space has been proposed: the search is complete."""
