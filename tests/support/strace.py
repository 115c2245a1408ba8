"""System calls that change a directory: traced, replaced by a kill, or failed, by `strace`."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

KINDS = {
    "open": ("open", "openat", "creat"),
    "write": ("write", "pwrite64", "writev", "ftruncate"),
    "fsync": ("fsync", "fdatasync"),
    "rename": ("rename", "renameat", "renameat2"),
    "link": ("link", "linkat"),
    "unlink": ("unlink", "unlinkat"),
    "rmdir": ("rmdir",),
    "mkdir": ("mkdir", "mkdirat"),
}
"""The system calls of each kind; an open is one only if it is for writing, and `unlinkat` may remove a folder."""

_CALL = re.compile(r"(\d+) +(\w+)\((.*)")


@dataclass(frozen=True)
class Call:
    """A system call of the main thread that changes something.

    Args:
        kind: of `KINDS`.
        name: of the system call.
        occurrence: its number among the calls of that name, from 1; what `strace` calls `when`.
        text: its arguments and its result.
    """

    kind: str
    name: str
    occurrence: int
    text: str

    @property
    def injected(self) -> bool:
        """Whether a fault was injected."""
        return "(INJECTED)" in self.text

    def concerns(self, directory: Path) -> bool:
        return str(directory) in self.text


@cache
def missing() -> str | None:
    """Why system calls cannot be traced here; None if they can."""
    if shutil.which("strace") is None:
        return "strace is not installed"
    traced = subprocess.run(["strace", "-qq", "-e", "trace=none", "true"], capture_output=True, text=True)
    return f"strace may not trace processes: {traced.stderr.strip()}" if traced.returncode else None


def attach(log: Path, injections: Iterable[str] = ()) -> Callable[[int], subprocess.Popen[str]]:
    """A function that attaches `strace` to a process, and returns when it is ready.

    Args:
        log: the file for the trace.
        injections: faults and signals, such as `write:signal=KILL:when=3`.
    """
    return partial(_attach, log, tuple(injections))


def _attach(log: Path, injections: tuple[str, ...], process: int) -> subprocess.Popen[str]:
    names = ",".join(f"?{name}" for names in KINDS.values() for name in names)  # some exist on some machines only
    options = [option for injection in injections for option in ("-e", f"inject={injection}")]
    command = ["strace", "-f", "-y", "-s", "1", "-o", str(log), "-e", f"trace={names}", *options, "-p", str(process)]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert tracer.stderr is not None
    while "attached" not in (line := tracer.stderr.readline()):
        assert line, "strace has ended"
    return tracer


def last_call(log: Path) -> Call | None:
    """The last call of the main thread, which a killed process did not finish; None if it changes nothing."""
    *_, last = _all_calls(log)
    return last


def calls(log: Path) -> list[Call]:
    """The calls of the main thread in a trace that change something."""
    return [call for call in _all_calls(log) if call is not None]


def _all_calls(log: Path) -> Iterator[Call | None]:
    occurrences: Counter[str] = Counter()
    main = None
    for line in log.read_text(errors="replace").splitlines():
        match = _CALL.match(line)
        if match is None:
            continue
        process, name, text = match.groups()
        main = main or process
        if process == main:
            occurrences[name] += 1
            kind = _kind(name, text)
            yield None if kind is None else Call(kind, name, occurrences[name], text)


def _kind(name: str, text: str) -> str | None:
    if name in KINDS["open"] and not re.search("O_WRONLY|O_RDWR|O_CREAT", text):
        return None
    if name == "unlinkat" and "AT_REMOVEDIR" in text:
        return "rmdir"
    return next((kind for kind, names in KINDS.items() if name in names), None)
