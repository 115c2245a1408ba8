"""Faults of the machine, such as a full disk: they say nothing about the architecture whose trial meets them."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from autodistill.errors import SearchStoppedError, StorageError, text_of

REMEDIES = {
    errno.ENOSPC: "free disk space",
    errno.EDQUOT: "free disk space, or raise the quota",
    errno.EIO: "check the disk",
    errno.EROFS: "make the file system writable",
    errno.EACCES: "change the permissions of the file",
    errno.EPERM: "change the permissions of the file",
    errno.ESTALE: "mount the network file system again",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close files of other programs, or raise the system's limit",
    errno.ENOMEM: "free memory",
}
"""What ends a fault, by the error number of the operating system."""

_MEMORY = errno.ENOMEM
_LOST_WORKER = "look for what killed the worker, such as a lack of memory"

# How Python, Rust (safetensors) and PyTorch (`torch.save`, and a lost worker of a data loader) name a fault in the text
# of an error.
_NUMBER = re.compile(r"\[Errno (\d+)\]|\(os error (\d+)\)")
_UNWRITTEN = re.compile(r"inline_container\.cc.*(PytorchStreamWriter failed|unexpected pos)")
_LOST = re.compile(r"DataLoader worker \(pid.*(is killed by signal|exited unexpectedly)")


@dataclass(frozen=True)
class MachineFault:
    """A fault of the machine.

    Args:
        error: names it.
        remedy: ends it, as an order.
        may_be_caused: the architecture may have caused it, by its size: a lack of memory, or a worker that was killed.
    """

    error: BaseException
    remedy: str
    may_be_caused: bool = False


def machine_fault(error: BaseException | None) -> MachineFault | None:
    """The fault of the machine that an error is, or was raised from or while handling; None for any other error.

    The lack of a GPU's memory is none: it depends on the architecture, and a trial that meets it has failed.

    Examples:
        >>> machine_fault(OSError(errno.ENOSPC, "No space left on device")).remedy
        'free disk space'
        >>> machine_fault(FileNotFoundError(errno.ENOENT, "No such file or directory"))
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        fault = _fault(error)
        if fault is not None:
            return fault
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


@contextlib.contextmanager
def stopping_at_faults(path: Path) -> Iterator[None]:
    """Raise `SearchStoppedError` for a fault of the machine.

    Args:
        path: of the search directory, which can be resumed.
    """
    try:
        yield
    except SearchStoppedError:
        raise
    except Exception as error:
        fault = machine_fault(error)
        if fault is None:
            raise
        raise SearchStoppedError(
            "the search stops at a fault of the machine, which is no failure of an architecture, and it met "
            f"{describe(fault)}, then resume {path}; no finished trial is lost."
        ) from error


def describe(fault: MachineFault) -> str:
    """The fault and its remedy, as the end of a sentence, without a period."""
    return f"{text_of(fault.error)}; {fault.remedy}"


def _fault(error: BaseException) -> MachineFault | None:
    if isinstance(error, StorageError):
        return MachineFault(error, "check the storage, the credentials and the network")
    if isinstance(error, MemoryError):
        return MachineFault(error, REMEDIES[_MEMORY], may_be_caused=True)
    text = text_of(error)
    if _LOST.search(text):
        return MachineFault(error, _LOST_WORKER, may_be_caused=True)
    if _UNWRITTEN.search(text):
        return MachineFault(error, REMEDIES[errno.ENOSPC])
    numbers = [error.errno] if isinstance(error, OSError) else []
    numbers += [int(python or rust) for python, rust in _NUMBER.findall(text)]
    number = next((number for number in numbers if number in REMEDIES), None)
    return None if number is None else MachineFault(error, REMEDIES[number], may_be_caused=number == _MEMORY)
