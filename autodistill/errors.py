"""Every exception that AutoDistillation raises on purpose.

    AutoDistillationError
    ├── ConfigurationError (ValueError)   the set-up is wrong; every mistake found is in `problems`
    │   └── LayerNotFoundError            a model has no layer of the name it was asked for
    ├── SearchSpaceError (ValueError)     a space, or an architecture for it, is wrong; likewise
    ├── AdvisorError (ValueError)         an advisor proposed what it must not, or is not known
    ├── SpaceExhaustedError               every architecture of the space has been tried
    ├── SearchDirectoryError              the directory is not this search's, not writable, or in use
    ├── SearchStoppedError                too many trials failed in a row; `__cause__` is the last failure
    └── TrialError                        one trial cannot be finished; it is recorded and the search goes on
        └── NonFiniteError                a loss or a metric is NaN or infinite

A trial may also fail with any other exception that a user's function raises. Interrupts are never caught.
"""

from __future__ import annotations

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
    "TrialError",
]


class ConfigurationError(ProblemsError):
    """The set-up is wrong: one mistake, or all that were found; see `problems`.

    Examples:
        >>> print(ConfigurationError(["max_trials must be positive, but got 0.", "metrics must name one metric."]))
        2 mistakes in the configuration:
          - max_trials must be positive, but got 0.
          - metrics must name one metric.
    """

    heading = "mistakes in the configuration"


class LayerNotFoundError(ConfigurationError):
    """A model has no layer of the name that the configuration gives."""


class SearchDirectoryError(AutoDistillationError):
    """A directory cannot serve this search: it holds something else, cannot be written to, or is in use."""


class SearchStoppedError(AutoDistillationError):
    """Too many trials failed in a row; `__cause__` is the last failure, and the directory can be resumed."""


class TrialError(AutoDistillationError):
    """One trial cannot be finished: it is recorded as failed, and the search goes on."""


class NonFiniteError(TrialError):
    """A loss or a metric is NaN or infinite."""
