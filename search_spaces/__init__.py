"""Search spaces: dimensions, constraints, and the space of architectures that they define."""

from search_spaces.constraints import Architecture
from search_spaces.domains import Choice, Domain, FloatRange, IntRange, Value, domain_from_json
from search_spaces.errors import AutoDistillationError, SearchSpaceError
from search_spaces.images import depthwise_separable_space
from search_spaces.space import SearchSpace

__all__ = [
    "Architecture",
    "AutoDistillationError",
    "Choice",
    "Domain",
    "FloatRange",
    "IntRange",
    "SearchSpace",
    "SearchSpaceError",
    "Value",
    "depthwise_separable_space",
    "domain_from_json",
]
