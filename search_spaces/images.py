"""Ready-made spaces of students for images."""

from __future__ import annotations

from search_spaces.space import SearchSpace


def depthwise_separable_space() -> SearchSpace:
    """The architectures of `autodistill.DepthwiseSeparableStudent` for small images.

    >>> space = depthwise_separable_space()
    >>> space.size, next(space.enumerate())
    (24, {'width': 8, 'depth': 1, 'kernel_size': 3})
    """
    return SearchSpace({"width": [8, 16, 32, 64], "depth": [1, 2, 3], "kernel_size": [3, 5]})
