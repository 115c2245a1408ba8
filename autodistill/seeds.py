"""Seeds that derive from the search's seed alone."""

from __future__ import annotations

import hashlib
import json
import operator

_SEED_BITS = 63  # the range of a signed 64-bit integer, which torch accepts, and JSON readers without larger integers


def derive_seed(seed: int, *labels: str | int) -> int:
    """A seed for the purpose that `labels` name: the same on every machine, unrelated to that of any other labels.

    Args:
        seed: the search's seed.
        labels: the purpose, such as `"student"` or `("advisor", trial_number)`; `1` and `"1"` are different labels.

    Returns:
        An integer in [0, 2**63).

    Raises:
        TypeError: the seed is not an integer, or a label is neither a string nor an integer.

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
