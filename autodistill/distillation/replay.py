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
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.data import Batch
from autodistill.distillation.activations import GIB, ActivationStore
from autodistill.distillation.layers import StopForwardError, find_module, is_inside
from autodistill.distillation.plan import Stage
from autodistill.structures import identical, map_tensors, nbytes

logger = logging.getLogger(__name__)

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


def why_not(stages: Sequence[Stage], student: nn.Module, batch: Batch) -> list[str | None]:
    """For each stage the reason why it cannot be replayed, or None where it can.

    Runs the student, which must be frozen, once on `batch`, and each block once more.
    """
    reasons = [_why_not_by_form(stage, student) for stage in stages]
    alone = [stage.blocks[0] for stage, reason in zip(stages, reasons, strict=True) if reason is None]
    found = _why_not_alone(student, {block: find_module(student, block) for block in alone}, batch)
    return [reason or found[stage.blocks[0]] for stage, reason in zip(stages, reasons, strict=True)]


def _why_not_by_form(stage: Stage, student: nn.Module) -> str | None:
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
    return None


def _parameter_shared_outside(student: nn.Module, block: nn.Module) -> str | None:
    members = set(block.modules())
    outside = {
        id(p) for m in student.modules() if m not in members for p in (*m._parameters.values(), *m._buffers.values())
    }
    tensors = (*block.named_parameters(), *block.named_buffers())
    return next((name for name, tensor in tensors if id(tensor) in outside), None)


def _why_not_alone(student: nn.Module, blocks: Mapping[str, nn.Module], batch: Batch) -> dict[str, str | None]:
    """What one full forward tells: how often each block runs, on what, and whether alone it gives the same."""
    calls: dict[nn.Module, list[Call]] = {block: [] for block in blocks.values()}
    outputs: dict[nn.Module, Any] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[module].append(Call(_copied(args), _copied(kwargs)))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        outputs[module] = _copied(output)

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in calls]
    handles += [block.register_forward_hook(after) for block in calls]
    with removing(*handles):
        if blocks:
            batch.call(student)
    return {path: _why_not_replayed(block, calls[block], outputs.get(block)) for path, block in blocks.items()}


def _why_not_replayed(block: nn.Module, calls: Sequence[Call], output: Any) -> str | None:
    if len(calls) != 1:
        return f"it runs {len(calls)} times in one forward" if calls else "it never runs in the student's forward"
    unknown = _unstorable(calls[0])
    if unknown is not None:
        return f"its argument {unknown} cannot be stored"
    given = Call(_copied(calls[0].args), _copied(calls[0].kwargs))
    if not identical(_copied(given(block)), output):
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
    if type(value) in (tuple, list, torch.Size) or hasattr(value, "_fields"):
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
def removing(*handles: torch.utils.hooks.RemovableHandle) -> Iterator[None]:
    """Removes hooks on leaving."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class CapturedInputs:
    """The inputs of one block over the flash set, moved on from block to block.

    They are kept within a budget: the first batches in memory, the next on disk; those of the rest are computed by a
    forward up to the block whenever they are needed.

    Args:
        student: frozen (see `models.frozen`) whenever inputs are captured, moved or verified.
        batches: the flash set, on the student's device.
        store: keeps the inputs.
    """

    def __init__(self, student: nn.Module, batches: Sequence[Batch], store: ActivationStore) -> None:
        self._block = ""
        self._store = store
        self._kept = 0  # how many batches' inputs are in the store, from the first
        self._expected: Call | None = None
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
        self._block, self._kept = block, 0
        with removing(*handles):
            for index, batch in enumerate(self._batches):
                call = calls_of(self._student, [block], batch)[0]
                if index == 0:
                    self._announce(nbytes((call.args, call.kwargs)) * len(self._batches))
                if not self._store.put(index, (call.args, call.kwargs)):
                    break
                self._kept += 1

    def call(self, index: int) -> Call:
        """The arguments of the block for one batch."""
        kept = self._store.get(index) if index < self._kept else None
        return calls_of(self._student, [self._block], self._batches[index])[0] if kept is None else Call(*kept)

    def clear(self) -> None:
        """Forget all of them."""
        self._store.clear()

    def verify(self, block: str, following: str | None = None) -> None:
        """Compare the captured inputs of the last batch with a full forward's, bit for bit.

        Args:
            block: the path of the block.
            following: that of the block that `move_on` will be asked for: what the same forward gives it, it must give.

        Raises:
            VerificationError: they differ.
        """
        blocks = [block] if following is None else [block, following]
        seen = calls_of(self._student, blocks, self._batches[-1])
        self._expected = seen[-1]
        if not self._agrees(len(self._batches) - 1, seen[0]):
            raise VerificationError(f"replay and a full forward differ in what {block!r} sees of the last batch")

    def move_on(self, block: str, following: str) -> None:
        """Move the captured inputs from a finished and verified block to the following one.

        Raises:
            VerificationError: for the first batch or the last they differ from what a full forward gives.
        """
        module = find_module(self._student, block)
        forms = self._finished.setdefault(block, [])
        forms.clear()
        earlier = {find_module(self._student, path): forms for path, forms in self._finished.items()}
        for index in range(self._kept):
            output = map_tensors(torch.Tensor.detach, self.call(index)(module))
            forms.append(poison(output))
            outputs = {finished: forms[index] for finished, forms in earlier.items()}
            with returning(outputs | {module: output}):
                call = calls_of(self._student, [following], self._batches[index])[0]
            if not self._store.put(index, (call.args, call.kwargs)):
                self._kept = index
                break
        self._block = following
        if not self._agrees(0, calls_of(self._student, [following], self._batches[0])[0]):
            raise VerificationError(f"replay and a full forward differ in what {following!r} sees of the first batch")
        if self._expected is None or not self._agrees(len(self._batches) - 1, self._expected):
            raise VerificationError(f"replay and a full forward differ in what {following!r} sees of the last batch")

    def _agrees(self, index: int, seen: Call) -> bool:
        """Whether what is kept of a batch is what a full forward showed; rounded inputs cannot tell."""
        return not self._store.exact or self._kept <= index or self.call(index).same_as(seen)

    def _announce(self, need: int) -> None:
        logger.info(
            "the inputs of %s take about %.3f GiB over %d batches: %s",
            self._block,
            need / GIB,
            len(self._batches),
            self._store.outlook(need),
        )

    def _note_form(self, path: str, *, keep: bool) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            self._finished[path].append(_copied(output) if keep else poison(output))

        return note


class VerificationError(Exception):
    """The captured inputs of a block are not what a full forward gives it."""


def calls_of(student: nn.Module, blocks: Sequence[str], batch: Batch) -> list[Call]:
    """The arguments of each of these blocks in a forward of the student, which ends once it has reached them all."""
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
