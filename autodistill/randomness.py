"""Randomness that depends only on the seed of the search and does not affect the rest of the program."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Seeds the states of `random`, NumPy and PyTorch (CPU and CUDA) within the context; restores them afterwards.

    Generators that code within the context creates itself are not affected.

    Args:
        seed: an integer in [0, 2**63), as `derive_seed` returns it.

    Examples:
        >>> with isolated_random_state(1):
        ...     first = torch.rand(1)
        >>> with isolated_random_state(1):
        ...     print(torch.equal(first, torch.rand(1)))
        True
    """
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    python_state, numpy_state = random.getstate(), np.random.get_state(legacy=False)
    with torch.random.fork_rng(devices=devices):
        try:
            random.seed(seed)
            np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # NumPy accepts 32-bit words
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed the generator from which a forward pass on the device draws."""
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)  # torch.manual_seed formats a stack trace for each idle device
    else:
        torch.manual_seed(seed)
