"""Several processes in one search, as `accelerate launch` starts them: process 0 leads, and all of them train.

How they stay synchronized: everything that may fail runs within `together`, at whose end every process learns whether
one has failed; and every exchange directly follows a `together`, with nothing in between that may fail. So a process
that fails reaches the end of `together` like the others, and no process waits for an exchange that never happens.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from autodistill.errors import TrialError

PATIENCE = timedelta(days=1)
"""How long a process waits for another: while process 0 distils blocks or evaluates, the others have nothing to do.

If a process dies, those that wait for it get an error immediately.
"""


class Processes:
    """The processes that run one program; by default only this one, for which every method does nothing.

    Args:
        rank: of this process; process 0 is the main one, and the only one that writes files.
        count: the number of processes.
        group: for exchanges on the CPU. Tensors on a GPU use the default group of `torch.distributed`.

    Examples:
        >>> alone = Processes()
        >>> alone.is_main, alone.broadcast({"depth": 2})
        (True, {'depth': 2})
    """

    def __init__(self, rank: int = 0, count: int = 1, group: dist.ProcessGroup | None = None) -> None:
        self.rank = rank
        self.count = count
        self._group = group
        self._known: Exception | None = None  # an error that every process knows of

    @property
    def is_main(self) -> bool:
        """Whether this is process 0, which leads and writes."""
        return self.rank == 0

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """If one process fails within the context, all raise an error at its end; interrupts propagate immediately.

        Raises:
            TrialError: another process failed; names its error.
        """
        if self.count == 1:
            yield
            return
        failure: Exception | None = None
        try:
            yield
        except Exception as error:
            if error is self._known:
                raise
            failure = error
        self._agree(failure)

    def _agree(self, failure: Exception | None) -> None:
        first = torch.tensor(self.count if failure is None else self.rank)
        dist.all_reduce(first, dist.ReduceOp.MIN, self._group)
        source = int(first)
        if source < self.count:
            text = self.broadcast(f"{type(failure).__name__}: {failure}", source)
            self._known = failure or TrialError(f"all processes stop where one fails, and process {source} did: {text}")
            raise self._known

    def broadcast(self, message: Any = None, source: int = 0) -> Any:
        """The message of the process `source`, which may be anything that JSON can represent."""
        if self.count == 1:
            return message
        content = json.dumps(message).encode() if self.rank == source else b""
        return json.loads(self.broadcast_bytes(content, source))

    def broadcast_bytes(self, content: bytes, source: int = 0) -> bytes:
        """The bytes that the process `source` sends."""
        if self.count == 1:
            return content
        size = torch.tensor(len(content))
        dist.broadcast(size, source, self._group)
        data = torch.empty(int(size), dtype=torch.uint8)
        if self.rank == source and content:
            data = torch.frombuffer(bytearray(content), dtype=torch.uint8)
        dist.broadcast(data, source, self._group)
        return data.numpy().tobytes()

    @torch.no_grad()
    def broadcast_tensors(self, tensors: Iterable[torch.Tensor]) -> None:
        """Copy the values of process 0 to all processes, bit for bit."""
        if self.count == 1:
            return
        for alike in _by(lambda tensor: (tensor.device,), tensors):
            parts = [tensor.detach().reshape(-1).view(torch.uint8) for tensor in alike]
            flat = torch.cat(parts)
            dist.broadcast(flat, 0, self._group_of(flat))
            for tensor, part in zip(alike, torch.split(flat, [part.numel() for part in parts]), strict=True):
                # Cloned, since a view of another type must begin at a multiple of its element's size.
                tensor.copy_(part.clone().view(tensor.dtype).view_as(tensor))

    @torch.no_grad()
    def average_gradients(self, parameters: Sequence[nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Set the gradients in every process to the mean over all processes; return the mean of the losses.

        A parameter that has a gradient in one process gets one in all.
        """
        if self.count == 1:
            return loss
        present = torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.uint8)
        dist.all_reduce(present, dist.ReduceOp.MAX, self._group)
        gradients = []
        for parameter, somewhere in zip(parameters, present.tolist(), strict=True):
            if somewhere:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                gradients.append(parameter.grad)
        loss = loss.clone()
        for alike in _by(lambda tensor: (tensor.device, tensor.dtype), [*gradients, loss]):
            flat = torch.cat([tensor.reshape(-1) for tensor in alike])
            dist.all_reduce(flat, dist.ReduceOp.SUM, self._group_of(flat))
            flat /= self.count
            for tensor, part in zip(alike, torch.split(flat, [tensor.numel() for tensor in alike]), strict=True):
                tensor.copy_(part.view_as(tensor))
        return loss

    def leave(self) -> None:
        """Wait for the threads of the group and end them; afterwards no exchange is possible.

        A thread may still have to release the tensor of the last exchange, for which it needs the interpreter. If it
        does so while the interpreter ends, the process aborts ("terminate called without an active exception").
        """
        group, self._group = self._group, None
        if group is not None and dist.is_initialized():
            dist.destroy_process_group(group)
        # The last reference to the group ends here, and its destructor joins the threads; destroying alone does not.

    def _group_of(self, tensor: torch.Tensor) -> dist.ProcessGroup | None:
        return self._group if tensor.device.type == "cpu" else None


ALONE = Processes()


def current_processes() -> Processes:
    """The processes that `accelerate launch` or `torchrun` started with this one; otherwise this one only.

    With several, each is assigned its own GPU if there are GPUs, unless the program has already done so.
    """
    launched = "LOCAL_RANK" in os.environ and int(os.environ.get("WORLD_SIZE", "1")) > 1
    if not dist.is_available() or not (launched or (dist.is_initialized() and dist.get_world_size() > 1)):
        return ALONE
    return _join()


@functools.cache
def _join() -> Processes:
    if not dist.is_initialized():
        from accelerate import PartialState  # a slow import, needed with several processes only
        from accelerate.utils import parse_flag_from_env

        PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available())
        atexit.register(_leave_default_group)
    processes = Processes(dist.get_rank(), dist.get_world_size(), dist.new_group(timeout=PATIENCE, backend="gloo"))
    atexit.register(processes.leave)
    return processes


def _leave_default_group() -> None:
    """Destroy the process group that was created here, since it may abort the interpreter when that ends."""
    if dist.is_initialized():
        dist.destroy_process_group()


def _by(key: Any, tensors: Iterable[torch.Tensor]) -> list[list[torch.Tensor]]:
    """The tensors that one exchange can send together, in the same order in every process."""
    groups: dict[Any, list[torch.Tensor]] = {}
    for tensor in tensors:
        groups.setdefault(key(tensor), []).append(tensor)
    return list(groups.values())
