"""Storage of captured inputs: in memory within a budget, then on disk; the rest are computed when needed."""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from autodistill.tensor_files import write_tensors
from autodistill.tensors import map_leaves, map_tensors, nbytes, tensors_in

logger = logging.getLogger(__name__)

GIB = 2**30


@dataclass(frozen=True)
class Budget:
    """How much memory and disk a store may use.

    Args:
        memory_gb: in memory, in GiB.
        disk_gb: on disk, in GiB.
        directory: of the files; None for memory only.
    """

    memory_gb: float = 4.0
    disk_gb: float = 50.0
    directory: Path | None = None


@dataclass(frozen=True)
class _TensorInfo:
    """A placeholder for a tensor that is stored separately."""

    number: int
    dtype: torch.dtype
    device: torch.device
    shape: torch.Size
    stride: tuple[int, ...]


class ActivationStore:
    """Nested structures of tensors by number, within a budget.

    `get` returns exactly what was put, to the bit and including strides, unless `exact` is False.

    Args:
        budget: the memory and disk that it may use.
        exact: False keeps 32-bit floats as bfloat16: half the memory, at a relative error of up to 2⁻⁸ = 0.4%.

    Examples:
        >>> store = ActivationStore(Budget(memory_gb=1e-6))
        >>> store.put(0, {"hidden": torch.ones(2, 3)}), store.put(1, torch.ones(1000, 1000))
        (True, False)
        >>> store.get(0)
        {'hidden': tensor([[1., 1., 1.],
                [1., 1., 1.]])}
        >>> store.get(1) is None
        True
    """

    def __init__(self, budget: Budget, *, exact: bool = True) -> None:
        self.exact = exact
        self._budget = budget
        self._memory: dict[int, tuple[Any, list[torch.Tensor]]] = {}
        self._disk: dict[int, tuple[Any, int]] = {}  # the form, and the bytes of the file
        self._memory_left = budget.memory_gb * GIB
        self._warned = False
        self._disk_left = budget.disk_gb * GIB if budget.directory is not None else 0.0

    def put(self, number: int, structure: Any) -> bool:
        """Store a structure under a number, replacing the previous one; False if it does not fit, or the disk fails."""
        self.drop(number)
        tensors = [tensor if self.exact else _compressed(tensor) for tensor in tensors_in(structure)]
        numbers = itertools.count()
        form = map_tensors(lambda t: _TensorInfo(next(numbers), t.dtype, t.device, t.shape, t.stride()), structure)
        size = nbytes(tensors)
        if size <= self._memory_left:
            self._memory[number] = form, tensors
            self._memory_left -= size
        elif size <= self._disk_left and self._write(number, tensors):
            self._disk[number] = form, size
            self._disk_left -= size
        else:
            return False
        return True

    def get(self, number: int) -> Any:
        """The structure stored under a number; None if there is none, or its file cannot be read."""
        if number in self._memory:
            form, tensors = self._memory[number]
        elif number in self._disk:
            form = self._disk[number][0]
            try:
                stored = load_file(self._path(number))
            except (SafetensorError, OSError) as error:
                self._warn(f"cannot be read ({error})")
                return None
            tensors = [stored[str(index)] for index in range(len(stored))]
        else:
            return None
        return map_leaves(lambda info: _restored(info, tensors[info.number]), form, _TensorInfo)

    def drop(self, number: int) -> None:
        """Remove a structure, if it is stored."""
        if number in self._memory:
            self._memory_left += nbytes(self._memory.pop(number)[1])
        elif number in self._disk:
            self._disk_left += self._disk.pop(number)[1]
            with contextlib.suppress(OSError):
                self._path(number).unlink()

    def clear(self) -> None:
        """Remove everything, including the files."""
        for number in [*self._memory, *self._disk]:
            self.drop(number)
        if self._budget.directory is not None:
            shutil.rmtree(self._budget.directory, ignore_errors=True)

    def outlook(self, need: int) -> str:
        """Where `need` bytes would be stored, as text.

        Examples:
            >>> ActivationStore(Budget(memory_gb=1, disk_gb=1)).outlook(4 * GIB)
            '1.000 GiB in memory, 0.000 on disk, 3.000 computed when needed'
        """
        need = need if self.exact else need // 2
        memory = min(need, self._memory_left)
        disk = min(need - memory, self._disk_left)
        rest = need - memory - disk
        return f"{memory / GIB:.3f} GiB in memory, {disk / GIB:.3f} on disk, {rest / GIB:.3f} computed when needed"

    @property
    def kept(self) -> tuple[int, int]:
        """How many structures are in memory, and how many on disk."""
        return len(self._memory), len(self._disk)

    def _write(self, number: int, tensors: list[torch.Tensor]) -> bool:
        path = self._path(number)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_tensors(path, {str(index): _dense(tensor) for index, tensor in enumerate(tensors)}, cached=True)
        except OSError as error:
            self._warn(f"cannot be written ({error})")
            return False
        return True

    def _warn(self, problem: str) -> None:
        if not self._warned:
            self._warned = True
            directory = self._budget.directory
            logger.warning("captured inputs in %s %s; they are computed when needed", directory, problem)

    def _path(self, number: int) -> Path:
        assert self._budget.directory is not None
        return self._budget.directory / f"{number:06d}.safetensors"


def _compressed(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.bfloat16() if tensor.dtype == torch.float32 else tensor


def _dense(tensor: torch.Tensor) -> torch.Tensor:
    """A copy on the CPU without repeated or skipped elements; safetensors files hold no others."""
    return tensor.detach().cpu().contiguous().clone()


def _restored(info: _TensorInfo, tensor: torch.Tensor) -> torch.Tensor:
    """The original tensor, including its strides, on which the last bits of a product may depend."""
    if (tensor.dtype, tensor.device, tensor.stride()) == (info.dtype, info.device, info.stride):
        return tensor
    small = tuple(slice(0, 1) if stride == 0 else slice(None) for stride in info.stride)
    source = tensor[small]
    strided = torch.empty_strided(
        source.shape, [stride or 1 for stride in info.stride], dtype=info.dtype, device=info.device
    )
    return strided.copy_(source).expand(info.shape)
