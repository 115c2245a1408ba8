"""The ready-made space of students for images."""

from __future__ import annotations

import itertools

from search_spaces import depthwise_separable_space


def test_space_holds_every_combination_once() -> None:
    space = depthwise_separable_space()
    combinations = itertools.product([8, 16, 32, 64], [1, 2, 3], [3, 5])
    expected = [dict(zip(("width", "depth", "kernel_size"), values, strict=True)) for values in combinations]
    assert list(space.enumerate()) == expected
    assert space.size == 24
