"""Randomness that depends on the search's seed alone, and leaves the program's own as it was."""

from __future__ import annotations

import contextlib
import hashlib
import json
import operator
import random
from collections.abc import Iterator

import numpy as np
import torch

_SEED_BITS = 63  # what a signed 64-bit integer holds: accepted by torch, and by JSON readers that know no larger one


def derive_seed(seed: int, *labels: str | int) -> int:
    """A seed for the purpose that `labels` name: the same on every machine, unrelated to that of any other labels.

    Args:
        seed: the search's seed.
        labels: the purpose, such as `"student"` or `("advisor", trial_number)`; `1` and `"1"` are different labels.

    Returns:
        An integer in [0, 2**63).

    Raises:
        TypeError: the seed is no integer, or a label neither a string nor an integer.

    Examples:
        >>> derive_seed(0, "advisor", 3)
        9116361836291015163
        >>> derive_seed(0, "advisor", 3) == derive_seed(0, "advisor", "3")
        False
    """
    parts = [part if isinstance(part, str) else int(operator.index(part)) for part in labels]
    parts.insert(0, int(operator.index(seed)))
    digest = hashlib.blake2b(json.dumps(parts).encode("ascii"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _SEED_BITS)


@contextlib.contextmanager
def isolated_random_state(seed: int) -> Iterator[None]:
    """Within the block, `random`, NumPy's and PyTorch's (CPU and CUDA) states are seeded; afterwards all are as before.

    Generators that code inside the block makes for itself are its own affair.

    Args:
        seed: an integer in [0, 2**63), as `derive_seed` gives it.

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
            np.random.seed([seed & 0xFFFFFFFF, seed >> 32])  # it takes words of 32 bits
            torch.manual_seed(seed)
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
