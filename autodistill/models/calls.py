"""Calls of models and of modules inside them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.models.devices import device_of
from autodistill.models.module_paths import find_module
from autodistill.tensors import identical, map_tensors


def first_keyword(module: nn.Module, kwargs: Mapping[str, Any]) -> str:
    """The keyword of a module's first argument in a call without positional arguments.

    Raises:
        ConfigurationError: the call has no arguments at all.

    Examples:
        >>> first_keyword(nn.Bilinear(2, 3, 4), {"input2": 0, "input1": 1})
        'input1'
    """
    parameters = inspect.signature(module.forward).parameters
    name = next((name for name in (*parameters, *kwargs) if name in kwargs), None)
    if name is None:
        raise ConfigurationError(
            f"a module's input is its first argument, but {type(module).__name__} is called without any."
        )
    return name


class StopForwardError(Exception):
    """Ends a forward pass on purpose, once everything requested has been recorded."""


def call_by_names(model: nn.Module, batch: Batch) -> Any:
    """What the model returns for the entries of a batch that are arguments of its forward; for a pair, for its inputs.

    Raises:
        ConfigurationError: none of a mapping's keys is the name of an argument.

    Examples:
        >>> call_by_names(nn.ReLU(), Batch({"input": torch.tensor([-1.0, 1.0]), "labels": torch.tensor([0, 1])}))
        tensor([0., 1.])
    """
    return named_arguments(model, batch).call(model)


def named_arguments(model: nn.Module, batch: Batch) -> Batch:
    """The entries of a batch that are arguments of a model's forward; all of them if it only takes `**kwargs`.

    Raises:
        ConfigurationError: none of a mapping's keys is the name of an argument.

    Examples:
        >>> named_arguments(nn.ReLU(), Batch({"input": 1, "labels": 0})).content
        {'input': 1}
    """
    if not isinstance(batch.content, Mapping):
        return batch
    names = inspect.signature(model.forward).parameters
    arguments = {key: value for key, value in batch.content.items() if key in names}
    if not arguments and all(parameter.kind is parameter.VAR_KEYWORD for parameter in names.values()):
        return batch
    if not arguments:
        raise ConfigurationError(
            f"a batch's keys are the names of the model's arguments, but {type(model).__name__} takes "
            f"{', '.join(names)} and the batch holds {', '.join(batch.content)}."
        )
    return Batch(arguments)


def unknown_arguments(model: nn.Module, batch: Batch, owner: str) -> list[str]:
    """A sentence if a mapping has keys that are not arguments of the model's forward.

    Args:
        model: any model; all keys are arguments of a forward with `**kwargs`.
        batch: any batch; a pair has no keys.
        owner: the name of the model in the sentence.

    Examples:
        >>> batch = Batch({"input": torch.ones(2), "index": torch.ones(2)})
        >>> unknown_arguments(nn.ReLU(), batch, "student")[0].partition(", but ")[2].partition("; ")[0]
        "the student's ReLU.forward takes input, and the batch also holds 'index'"
    """
    if not isinstance(batch.content, Mapping):
        return []
    parameters = inspect.signature(model.forward).parameters
    if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
        return []
    unknown = [key for key in batch.content if key not in parameters]
    if not unknown:
        return []
    return [
        f"a batch's keys are arguments of the forward of student and teacher, but the {owner}'s "
        f"{type(model).__name__}.forward takes {', '.join(parameters)}, and the batch also holds "
        f"{', '.join(map(repr, unknown))}; leave it out in the data (collate_fn), or add it to the forward."
    ]


def inference_call(model: nn.Module, batch: Batch) -> Callable[[], Any]:
    """The call of a model for its predictions alone: on the model's device, without the labels of the batch.

    An encoder-decoder receives the labels, since it builds the inputs of its decoder from them.

    Examples:
        >>> inference_call(nn.ReLU(), Batch({"input": torch.tensor([-1.0, 1.0]), "labels": torch.tensor([0, 1])}))()
        tensor([0., 1.])
    """
    batch = batch.to(device_of(model))
    if isinstance(batch.inputs, Mapping) and not getattr(getattr(model, "config", None), "is_encoder_decoder", False):
        batch = Batch(batch.inputs)
    return partial(batch.call, model)


@dataclass(frozen=True)
class Call:
    """The arguments of one call of a module."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def __call__(self, module: nn.Module) -> Any:
        return module(*self.args, **self.kwargs)

    def same_as(self, other: Call) -> bool:
        """Whether both calls agree to the bit."""
        return identical(self.args, other.args) and identical(self.kwargs, other.kwargs)


@contextlib.contextmanager
def removing(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    """Removes the hooks when the context ends."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class VerificationError(Exception):
    """The captured inputs of a block differ from its inputs in a full forward."""


def calls_of(student: nn.Module, blocks: Sequence[str], batch: Batch) -> list[Call]:
    """The arguments of each of these blocks in a forward of the student, which ends once it has reached all of them."""
    modules = [find_module(student, block) for block in blocks]
    calls: dict[nn.Module, Call] = {}

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[module] = Call(map_tensors(torch.Tensor.detach, args), map_tensors(torch.Tensor.detach, kwargs))
        if len(calls) == len(modules):
            raise StopForwardError

    handles = [module.register_forward_pre_hook(note, with_kwargs=True) for module in modules]
    with removing(*handles), contextlib.suppress(StopForwardError):
        batch.call(student)
    missing = [block for block, module in zip(blocks, modules, strict=True) if module not in calls]
    if missing:
        raise VerificationError(f"{missing[0]!r} does not run")
    return [calls[module] for module in modules]


@contextlib.contextmanager
def returning(outputs: dict[nn.Module, Any]) -> Iterator[None]:
    """Within the context, the modules return these outputs instead of computing them."""
    instance_forwards = {module: module.__dict__["forward"] for module in outputs if "forward" in module.__dict__}
    for module, output in outputs.items():
        module.__dict__["forward"] = lambda *args, _output=output, **kwargs: _output
    try:
        yield
    finally:
        for module in outputs:
            del module.__dict__["forward"]
            if module in instance_forwards:
                module.__dict__["forward"] = instance_forwards[module]
