"""Replay: a block's inputs are captured once, and the block is trained alone on them.

The inputs of block i over the whole flash set are captured in one pass. When the block is finished, its outputs replace
them, and the model runs with the finished blocks' `forward` patched to return what they returned, which moves the
captured inputs to block i + 1 without running any finished block twice. The modules stay in place meanwhile, since
models read their attributes and hooks.

Replay gives exactly what full forwards give where the block sees the same inputs at every step. `why_not` says where it
does not; what cannot be told beforehand is verified bit for bit on real batches.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.data import Batch
from autodistill.distillation.layers import StopForwardError, find_module, is_inside
from autodistill.distillation.plan import Stage
from autodistill.structures import identical, map_tensors

STORABLE = (torch.Tensor, bool, int, float, str, type(None), torch.dtype, torch.device)


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


def why_not(stage: Stage, student: nn.Module, batch: Batch) -> str | None:
    """The reason why a stage cannot be replayed, or None where it can.

    Runs the student, which must be frozen, once on `batch`, and its block twice.
    """
    if len(stage.blocks) > 1:
        return "it trains several modules at once"
    block = stage.blocks[0]
    if stage.add_origin_loss:
        return "the student's own loss needs its whole forward"
    outside = [tap.path for tap in stage.student_taps if not is_inside(tap.path, block)]
    if outside:
        return f"the mapped layer {outside[0]!r} lies outside the block"
    module = find_module(student, block)
    shared = _parameter_shared_outside(student, module)
    if shared is not None:
        return f"its parameter {shared!r} is shared with a module outside the block"
    return _why_not_alone(student, module, batch)


def _parameter_shared_outside(student: nn.Module, block: nn.Module) -> str | None:
    members = set(block.modules())
    outside = {
        id(p) for m in student.modules() if m not in members for p in (*m._parameters.values(), *m._buffers.values())
    }
    tensors = (*block.named_parameters(), *block.named_buffers())
    return next((name for name, tensor in tensors if id(tensor) in outside), None)


def _why_not_alone(student: nn.Module, block: nn.Module, batch: Batch) -> str | None:
    """What one full forward tells: how often the block runs, on what, and whether alone it gives the same."""
    calls: list[Call] = []
    outputs: list[Any] = []

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Call(_copied(args), _copied(kwargs)))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(_copied(output))

    with _hooks(block.register_forward_pre_hook(before, with_kwargs=True), block.register_forward_hook(after)):
        batch.call(student)
    if len(calls) != 1:
        return f"it runs {len(calls)} times in one forward" if calls else "it never runs in the student's forward"
    unknown = _unstorable(calls[0])
    if unknown is not None:
        return f"its argument {unknown} cannot be stored"
    given = Call(_copied(calls[0].args), _copied(calls[0].kwargs))
    if not identical(_copied(given(block)), outputs[0]):
        return "alone it does not return what it returns inside the student"
    return None if given.same_as(calls[0]) else "it changes its input in place"


def _unstorable(call: Call) -> str | None:
    named = [*((f"number {index}", value) for index, value in enumerate(call.args)), *call.kwargs.items()]
    for name, value in named:
        for leaf in _leaves(value):
            if not isinstance(leaf, STORABLE):
                return f"{name} (a {type(leaf).__name__})"
    return None


def _leaves(value: Any) -> Iterator[Any]:
    if type(value) in (tuple, list):
        for item in value:
            yield from _leaves(item)
    elif type(value) is dict:
        for item in value.values():
            yield from _leaves(item)
    else:
        yield value


def _copied(structure: Any) -> Any:
    return map_tensors(lambda tensor: tensor.detach().clone(), structure)


@contextlib.contextmanager
def _hooks(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class CapturedInputs:
    """The inputs of one block over the flash set, moved on from block to block.

    Args:
        student: frozen (see `models.frozen`) whenever inputs are captured, moved or verified.
        batches: the flash set, on the student's device.
    """

    def __init__(self, student: nn.Module, batches: Sequence[Batch]) -> None:
        self.calls: list[Call] = []
        self._student = student
        self._batches = batches
        self._finished: dict[str, list[Any]] = {}  # what each finished block returns, mostly in form only

    def capture(self, block: str, finished: Sequence[str], keep: Sequence[str] = ()) -> None:
        """Capture the block's inputs by full forwards up to it.

        Args:
            block: the path of the block.
            finished: the paths of the blocks trained before it.
            keep: those of them whose outputs are kept, since later blocks read them.
        """
        self._finished = {path: [] for path in finished}
        handles = [
            find_module(self._student, path).register_forward_hook(self._note_form(path, keep=path in keep))
            for path in finished
        ]
        with _hooks(*handles):
            self.calls = [_call_of(self._student, block, batch) for batch in self._batches]

    def move_on(self, block: str, following: str) -> None:
        """Move the captured inputs from a finished block to the following one.

        Raises:
            VerificationError: on the first or the last batch they differ from what a full forward gives.
        """
        module = find_module(self._student, block)
        forms = self._finished.setdefault(block, [])
        forms.clear()
        moved = []
        for index, batch in enumerate(self._batches):
            output = map_tensors(torch.Tensor.detach, self.calls[index](module))
            forms.append(poison(output))
            outputs = {find_module(self._student, path): form[index] for path, form in self._finished.items()}
            with _returning(outputs | {module: output}):
                moved.append(_call_of(self._student, following, batch))
        self.calls = moved
        for index in {0, len(self._batches) - 1}:
            self.verify(following, index)

    def verify(self, block: str, index: int) -> None:
        """Compare the captured inputs of one batch with a full forward's, bit for bit.

        Raises:
            VerificationError: they differ.
        """
        if not _call_of(self._student, block, self._batches[index]).same_as(self.calls[index]):
            raise VerificationError(f"replay and a full forward differ in what {block!r} sees of batch {index}")

    def _note_form(self, path: str, *, keep: bool) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            self._finished[path].append(_copied(output) if keep else poison(output))

        return note


class VerificationError(Exception):
    """The captured inputs of a block are not what a full forward gives it."""


def _call_of(student: nn.Module, block: str, batch: Batch) -> Call:
    """The arguments of the block in a forward of the student, which ends there."""
    calls: list[Call] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls.append(Call(map_tensors(torch.Tensor.detach, args), map_tensors(torch.Tensor.detach, kwargs)))
        raise StopForwardError

    handle = find_module(student, block).register_forward_pre_hook(stop, with_kwargs=True)
    with _hooks(handle), contextlib.suppress(StopForwardError):
        batch.call(student)
    if not calls:
        raise VerificationError(f"{block!r} does not run")
    return calls[0]


@contextlib.contextmanager
def _returning(outputs: dict[nn.Module, Any]) -> Iterator[None]:
    """Within the context, the modules return these outputs instead of computing them."""
    own = {module: module.__dict__["forward"] for module in outputs if "forward" in module.__dict__}
    for module, output in outputs.items():
        module.__dict__["forward"] = lambda *args, _output=output, **kwargs: _output
    try:
        yield
    finally:
        for module in outputs:
            del module.__dict__["forward"]
            if module in own:
                module.__dict__["forward"] = own[module]


def poison(structure: Any) -> Any:
    """A structure of the same form in which nothing is usable: NaN for floats, zero for the rest.

    A finished block that is not the last one returns it while the captured inputs move on. Where a later block reads
    it all the same, the NaN shows in the verification. It takes no memory.
    """

    def spoilt(tensor: torch.Tensor) -> torch.Tensor:
        value = float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0
        return torch.full((), value, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)

    return map_tensors(spoilt, structure)
