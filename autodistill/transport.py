"""What is sent to another process: any object, lambdas and functions of a notebook included.

Nothing that is packed here is ever written to disk: an engine (loky, Ray, dask, MPI) transports it between processes of
one user.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Mapping
from typing import Any

import cloudpickle
import torch
from torch import nn
from torch.utils.data import DataLoader

from autodistill.errors import text_of


class _Packer(cloudpickle.Pickler):  # type: ignore[misc]
    """Packs tensors as tensors on the CPU, and a data loader without the workers of a pass that it has begun."""

    def reducer_override(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor) and value.device.type != "cpu":
            return _on_cpu(value).__reduce_ex__(self.proto)  # type: ignore[no-untyped-call]
        if isinstance(value, torch.Generator):
            return _generator, (value.get_state(),)
        if isinstance(value, DataLoader):
            return _data_loader, (type(value), {**vars(value), "_iterator": None})
        if isinstance(value, functools._lru_cache_wrapper) and _belongs_to_the_program(value):
            return _cached, (value.__wrapped__, value.cache_parameters())
        return super().reducer_override(value)


def pack(value: Any) -> bytes:
    """The object as bytes; tensors of a GPU become tensors of the CPU.

    Raises:
        Exception: any, if a part of it cannot be sent; `unsendable` names the part.

    Examples:
        >>> unpack(pack(lambda width: width + 1))(2)
        3
    """
    buffer = io.BytesIO()
    _Packer(buffer).dump(value)
    return buffer.getvalue()


unpack: Callable[[bytes], Any] = cloudpickle.loads
"""The object that `pack` packed, in a process that can import the modules it comes from."""


def unsendable(parts: Mapping[str, Any]) -> list[str]:
    """What cannot be sent of several objects by name, one sentence each.

    Examples:
        >>> import threading
        >>> unsendable({"eval_func": lambda student: {}, "loss_func": threading.Lock()})
        ["loss_func is sent to workers, but cannot be: TypeError: cannot pickle '_thread.lock' object; create such \
objects within the function that uses them."]
    """
    problems = []
    for name, part in parts.items():
        try:
            pack(part)
        except Exception as error:  # whatever a part of the object raises
            problems.append(
                f"{name} is sent to workers, but cannot be: {text_of(error)}; create such objects within the function "
                "that uses them."
            )
    return problems


def _on_cpu(tensor: torch.Tensor) -> torch.Tensor:
    copied = tensor.detach().cpu()
    if isinstance(tensor, nn.Parameter):
        return nn.Parameter(copied, tensor.requires_grad)
    return copied.requires_grad_(tensor.requires_grad)


def _generator(state: torch.Tensor) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state)
    return generator


def _belongs_to_the_program(function: Any) -> bool:
    """Whether another process cannot import a function."""
    return function.__module__ == "__main__" or "<locals>" in function.__qualname__


def _cached(function: Callable[..., Any], parameters: Mapping[str, Any]) -> Callable[..., Any]:
    cached: Callable[..., Any] = functools.lru_cache(**parameters)(function)
    return cached


def _data_loader(kind: type[DataLoader[Any]], state: dict[str, Any]) -> DataLoader[Any]:
    loader = kind.__new__(kind)
    loader.__dict__.update(state)  # its attributes cannot be set one by one
    return loader
