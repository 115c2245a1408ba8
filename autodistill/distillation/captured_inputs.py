"""The inputs of a block over the flash set, captured once and moved on from block to block."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.activation_store import GIB, ActivationStore
from autodistill.distillation.replay import copied
from autodistill.models.calls import Call, VerificationError, calls_of, removing, returning
from autodistill.models.module_paths import find_module
from autodistill.tensors import map_tensors, nbytes

logger = logging.getLogger(__name__)


class CapturedInputs:
    """The inputs of one block over the flash set, moved on from block to block.

    They are kept within a budget: those of the first batches in memory, of the next on disk; the rest are computed by a
    forward up to the block whenever they are needed.

    Args:
        student: frozen (see `models.frozen`) whenever inputs are captured, moved or verified.
        batches: the flash set, on the student's device.
        store: keeps the inputs.
    """

    def __init__(self, student: nn.Module, batches: Sequence[Batch], store: ActivationStore) -> None:
        self._block = ""
        self._store = store
        self._kept = 0  # the number of batches, from the first, whose inputs are in the store
        self._expected: Call | None = None
        self._student = student
        self._batches = batches
        self._finished: dict[str, list[Any]] = {}  # the outputs of finished blocks, mostly only their form

    def capture(self, block: str, finished: Sequence[str], keep: Sequence[str] = ()) -> None:
        """Capture the block's inputs by full forwards up to it.

        Args:
            block: the path of the block.
            finished: the paths of the blocks trained before it.
            keep: those finished blocks whose outputs are kept, since later blocks read them.
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
        """Remove all captured inputs."""
        self._store.clear()

    def verify(self, block: str, following: str | None = None) -> None:
        """Compare the captured inputs of the last batch with a full forward's, bit for bit.

        Args:
            block: the path of the block.
            following: the path of the block for the next `move_on`, whose result must equal that block's input in this
                forward.

        Raises:
            VerificationError: they differ.
        """
        blocks = [block] if following is None else [block, following]
        calls = calls_of(self._student, blocks, self._batches[-1])
        self._expected = calls[-1]
        if not self._agrees(len(self._batches) - 1, calls[0]):
            raise VerificationError(f"replay and a full forward differ in the input of {block!r} for the last batch")

    def move_on(self, block: str, following: str) -> None:
        """Move the captured inputs from a finished and verified block to the following one.

        Raises:
            VerificationError: for the first or the last batch they differ from those of a full forward.
        """
        module = find_module(self._student, block)
        forms = self._finished.setdefault(block, [])
        forms.clear()
        earlier = {find_module(self._student, path): forms for path, forms in self._finished.items()}
        for index in range(self._kept):
            output = map_tensors(torch.Tensor.detach, self.call(index)(module))
            forms.append(poison(output))
            outputs = {finished: forms[index] for finished, forms in earlier.items()}
            with returning(outputs | {module: output}), _as_verification_errors():
                call = calls_of(self._student, [following], self._batches[index])[0]
            if not self._store.put(index, (call.args, call.kwargs)):
                self._kept = index
                break
        self._block = following
        if not self._agrees(0, calls_of(self._student, [following], self._batches[0])[0]):
            raise VerificationError(
                f"replay and a full forward differ in the input of {following!r} for the first batch"
            )
        if self._expected is None or not self._agrees(len(self._batches) - 1, self._expected):
            raise VerificationError(
                f"replay and a full forward differ in the input of {following!r} for the last batch"
            )

    def _agrees(self, index: int, expected: Call) -> bool:
        """Whether the stored inputs of a batch equal those of a full forward; rounded inputs count as equal."""
        return not self._store.exact or self._kept <= index or self.call(index).same_as(expected)

    def _announce(self, need: int) -> None:
        logger.info(
            "the inputs of %s require about %.3f GiB for %d batches: %s",
            self._block,
            need / GIB,
            len(self._batches),
            self._store.outlook(need),
        )

    def _note_form(self, path: str, *, keep: bool) -> Callable[[nn.Module, Any, Any], None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            self._finished[path].append(copied(output) if keep else poison(output))

        return note


@contextlib.contextmanager
def _as_verification_errors() -> Iterator[None]:
    """Convert errors of the student to a `VerificationError`, after which it runs full forwards.

    The outputs that replace finished blocks may be the cause: they cannot be changed in place, and are NaN. An error
    with another cause is raised again by the full forwards.

    Raises:
        VerificationError: the student raised an error.
    """
    try:
        yield
    except (torch.OutOfMemoryError, VerificationError):
        raise
    except Exception as error:
        raise VerificationError(f"the outputs of finished blocks cannot stand in for them: {error}") from error


def poison(structure: Any) -> Any:
    """A structure of the same form in which nothing is usable: NaN for floats, zero for the rest.

    A finished block that is not the last one returns it while the captured inputs move on. If a later block reads it
    nevertheless, the verification detects the NaN. It takes no memory.
    """

    def spoilt(tensor: torch.Tensor) -> torch.Tensor:
        value = float("nan") if tensor.is_floating_point() or tensor.is_complex() else 0
        return torch.full((), value, dtype=tensor.dtype, device=tensor.device).expand(tensor.shape)

    return map_tensors(spoilt, structure)
