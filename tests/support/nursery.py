"""A process that imports once, and forks a search for every request: python nursery.py SOCKET.

A request is a line of JSON with the `search`, its `directory`, and whether it is `traced`: then it stops itself until
its tracer continues it. Replies are lines of JSON: the number of the process (`worker`), events of the search, and its
exit code (`ended`). They pass through a socket, so that a fault of `write` does not concern them.
"""

from __future__ import annotations

import ctypes
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import strace
import torch
from torture_searches import SEARCHES, Send

PR_SET_PTRACER = 0x59616D61
"""Lets a process that is no ancestor trace this one, which some systems (Yama) do not allow otherwise."""


@dataclass
class Run:
    """A search that was run in a process of its own.

    Args:
        exit_code: 0 if the search ended, 1 with an error, negative if the process was killed.
        evaluated: the architectures that were evaluated, in order.
        warnings: what was logged.
        error: the type of the error, and its message.
        seconds: how long it took.
    """

    exit_code: int = 0
    evaluated: list[Any] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: tuple[str, str] | None = None
    seconds: float = 0.0

    @property
    def killed(self) -> bool:
        return self.exit_code == -signal.SIGKILL


class Nursery:
    """Runs searches in forked processes, one after the other."""

    def __enter__(self) -> Self:
        self._socket, other_end = socket.socketpair()
        with other_end:
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(other_end.fileno())], pass_fds=[other_end.fileno()]
            )
        self._replies = self._socket.makefile("r", encoding="utf-8")
        assert self._reply() == {"ready": True}
        return self

    def __exit__(self, *exception: object) -> None:
        self._replies.close()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._process.wait(60)

    def run(
        self,
        search: str,
        directory: Path,
        *,
        kill_after: float | None = None,
        attach: Callable[[int], subprocess.Popen[str]] | None = None,
    ) -> Run:
        """Run or resume a search, and wait for its end.

        Args:
            search: its name.
            directory: its directory.
            kill_after: seconds from its start.
            attach: receives the number of the process, which has stopped itself, and returns a tracer that is ready.
        """
        request = {"search": search, "directory": str(directory), "traced": attach is not None}
        self._socket.sendall(json.dumps(request).encode() + b"\n")
        worker = self._reply()["worker"]
        tracer = None
        if attach is not None:
            wait_until_stopped(worker)
            tracer = attach(worker)
            os.kill(worker, signal.SIGCONT)
        started = time.monotonic()
        if kill_after is not None:
            time.sleep(kill_after)
            with suppress(ProcessLookupError):  # the nursery has seen its end
                os.kill(worker, signal.SIGKILL)
        run = self._collect(Run())
        run.seconds = time.monotonic() - started
        if tracer is not None:
            tracer.communicate(timeout=60)
        return run

    def trace(self, search: str, directory: Path) -> list[strace.Call]:
        """Run or resume a search, which must end, and return its system calls that change its directory."""
        log = directory.with_suffix(".trace")
        assert self.run(search, directory, attach=strace.attach(log)).exit_code == 0
        return [call for call in strace.calls(log) if call.concerns(directory)]

    def _collect(self, run: Run) -> Run:
        while "ended" not in (reply := self._reply()):
            if "evaluated" in reply:
                run.evaluated.append(reply["evaluated"])
            elif "warning" in reply:
                run.warnings.append(reply["warning"])
            else:
                run.error = reply["error"], reply["message"]
        run.exit_code = reply["ended"]
        return run

    def _reply(self) -> dict[str, Any]:
        reply: dict[str, Any] = json.loads(self._replies.readline())
        return reply


def wait_until_stopped(process: int) -> None:
    while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.001)


class _Sending(logging.Handler):
    """Sends warnings."""

    def __init__(self, send: Send) -> None:
        super().__init__(logging.WARNING)
        self._send = send

    def emit(self, record: logging.LogRecord) -> None:
        self._send(warning=record.getMessage())


def _work(request: dict[str, Any], send: Send) -> int:
    """Run a search in this process, and return the exit code."""
    if request["traced"]:
        ctypes.CDLL(None).prctl(PR_SET_PTRACER, ctypes.c_ulong(-1))
        os.kill(os.getpid(), signal.SIGSTOP)
    try:
        SEARCHES[request["search"]](Path(request["directory"]), send)
    except Exception as error:
        send(error=type(error).__name__, message=str(error))
        return 1
    return 0


def _serve(connection: socket.socket) -> None:
    def send(**event: Any) -> None:
        connection.sendall(json.dumps(event).encode() + b"\n")

    torch.set_num_threads(1)
    logging.disable()
    with tempfile.TemporaryDirectory() as directory:  # this imports what is imported late
        for name, search in SEARCHES.items():
            search(Path(directory, name), lambda **event: None)
    logging.disable(logging.NOTSET)
    logging.getLogger("autodistill").addHandler(_Sending(send))
    send(ready=True)
    for line in connection.makefile("r", encoding="utf-8"):
        worker = os.fork()
        if worker == 0:
            os._exit(_work(json.loads(line), send))
        send(worker=worker)
        send(ended=os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1]))


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
