"""A section `search`, and the mistakes of a configuration."""

from __future__ import annotations

import pytest

from autodistill.config import AutoDistillationConfig
from autodistill.errors import ConfigurationError

SEARCH = {"search_space": {"width": [16, 32], "layers": [1, 2]}, "metrics": ["accuracy"]}


def mistakes(source) -> list[str]:
    """The problems of the error that loading the source raises."""
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(source)
    return caught.value.problems
