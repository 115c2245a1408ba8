"""What is a fault of the machine, and what is a failure of a trial."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from torch.utils.data import DataLoader

from autodistill import SearchDirectoryError, SearchStoppedError, TrialError
from autodistill.machine_faults import machine_fault, stopping_at_faults


def os_error(number: int) -> OSError:
    return OSError(number, os.strerror(number), "file")


def raised(action: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  its type is what is tested
        action()
    return caught.value


def while_handling(error: Exception, other: Exception) -> None:
    try:
        raise error
    except type(error):
        raise other  # noqa: B904  many libraries do so


def from_it(error: Exception, other: Exception) -> None:
    raise other from error


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EROFS], ids=errno.errorcode.get
)
def test_an_error_of_disk_or_handles_is_a_fault_that_no_architecture_causes(number: int) -> None:
    fault = machine_fault(os_error(number))
    assert fault is not None
    assert not fault.may_be_caused


@pytest.mark.parametrize("error", [MemoryError(), os_error(errno.ENOMEM)])
def test_a_lack_of_memory_is_a_fault_that_an_architecture_may_cause(error: Exception) -> None:
    fault = machine_fault(error)
    assert fault is not None
    assert fault.may_be_caused


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(errno.ENOENT, "No such file"),
        ConnectionRefusedError(errno.ECONNREFUSED, "refused"),
        OSError("the data could not be read"),
        ValueError("28"),
        torch.OutOfMemoryError("CUDA out of memory"),
        TrialError("it diverged"),
        None,
    ],
    ids=repr,
)
def test_any_other_error_is_none(error: Exception | None) -> None:
    assert machine_fault(error) is None


def test_an_error_raised_from_a_fault_or_while_handling_it_is_that_fault() -> None:
    full = os_error(errno.ENOSPC)
    for wrap in (while_handling, from_it):
        error = raised(lambda wrap=wrap: wrap(full, RuntimeError("the model cannot be saved")))  # type: ignore[misc]
        fault = machine_fault(error)
        assert fault is not None
        assert fault.error is full
    with pytest.raises(RuntimeError) as caught:
        raise RuntimeError("something else") from None
    assert machine_fault(caught.value) is None


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
        RuntimeError("[enforce fail at inline_container.cc:783] . PytorchStreamWriter failed writing file data/0"),
    ],
    ids=["safetensors", "torch.save", "torch.save of a large tensor"],
)
def test_the_full_disk_of_a_tensor_file_is_known_by_its_text(error: Exception) -> None:
    fault = machine_fault(error)
    assert fault is not None
    assert fault.remedy == "free disk space"


def full_disk() -> None:
    raise os_error(errno.ENOSPC)


class Failing(torch.utils.data.Dataset[int]):
    """A data set whose process fails: with an error, or by its death."""

    def __init__(self, fail: Callable[[], object]) -> None:
        self.fail = fail

    def __len__(self) -> int:
        return 2

    def __getitem__(self, index: int) -> int:
        self.fail()
        return index


def die() -> None:
    os._exit(3)


@pytest.mark.parametrize(("fail", "may_be_caused"), [(full_disk, False), (die, True)])
def test_fault_in_a_worker_of_a_data_loader_is_known_in_this_process(
    fail: Callable[[], object], may_be_caused: bool
) -> None:
    fault = machine_fault(raised(lambda: list(DataLoader(Failing(fail), num_workers=1))))
    assert fault is not None
    assert fault.may_be_caused is may_be_caused


def test_fault_of_another_process_of_a_group_is_known_by_the_message_of_process_0() -> None:
    text = f"all processes stop where one fails, and process 1 did: OSError: {os_error(errno.EMFILE)}"
    fault = machine_fault(TrialError(text))
    assert fault is not None
    assert "ulimit" in fault.remedy


def test_search_stops_with_the_fault_the_remedy_and_the_directory() -> None:
    full = os_error(errno.ENOSPC)
    with pytest.raises(SearchStoppedError) as caught, stopping_at_faults(Path("runs")):
        raise SearchDirectoryError("search_dir must be writable") from full
    assert str(caught.value) == (
        "the search stops at a fault of the machine, which is no failure of an architecture, and it met OSError: "
        "[Errno 28] No space left on device: 'file'; free disk space, then resume runs; no finished trial is lost."
    )
    assert isinstance(caught.value.__cause__, SearchDirectoryError)


@pytest.mark.parametrize("error", [SearchStoppedError("3 in a row"), ValueError("no"), KeyboardInterrupt()], ids=repr)
def test_other_errors_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, stopping_at_faults(Path("runs")):
        raise error
    assert caught.value is error
