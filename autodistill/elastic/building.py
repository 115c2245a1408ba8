"""Building students of which only the structure is needed: without random weights."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_RANDOM = {
    *("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_", "kaiming_normal_"),
    *("xavier_uniform_", "xavier_normal_", "orthogonal_", "sparse_", "truncated_normal_", "exponential_"),
}
"""The functions that fill a tensor at random, in place."""


class _WithoutRandomFill(TorchFunctionMode):
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__name__", "") in _RANDOM:
            named = kwargs or {}
            tensor = args[0] if args else named["tensor"]
            mean = named.get("mean", args[1] if len(args) > 1 else 0.0) if func is torch.Tensor.normal_ else 0.0
            with torch.no_grad():
                return tensor.fill_(mean)  # truncated normal values are drawn until they are within their bounds
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def without_random_weights() -> Iterator[None]:
    """Within the context, models that are built have zeros instead of random weights, which saves most of the time.

    Buffers, and what is filled with constants, are as always.

    Examples:
        >>> state = torch.get_rng_state()
        >>> with without_random_weights():
        ...     layer = torch.nn.Linear(2, 3)
        >>> layer.weight.tolist(), torch.equal(torch.get_rng_state(), state)
        ([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]], True)
    """
    with _WithoutRandomFill():
        yield
