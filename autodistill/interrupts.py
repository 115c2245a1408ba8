"""SIGINT and SIGTERM during a search: the first one ends it at the next safe moment, the second one immediately.

Within `whole_steps` the first signal only sets a mark, so that the step is finished and a checkpoint written.
Everywhere else, thus in hooks too, it raises `KeyboardInterrupt`, or `Terminated` for SIGTERM.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


class Terminated(KeyboardInterrupt, SystemExit):
    """SIGTERM, by which SLURM and Kubernetes announce that the process will be killed.

    A program that does not catch it ends with the exit status of that signal, and without a traceback.
    """

    code = 128 + signal.SIGTERM


@dataclass
class _State:
    """The signals of this process; a handler can be reached by global state only.

    Attributes:
        process: in which the handlers were installed; forked ones inherit them, but end as usual. None while there
            are none.
        received: the first signal.
        deferred: the first signal only sets `received`.
    """

    process: int | None = None
    received: int | None = None
    deferred: bool = False


_state = _State()
_HANDLED: dict[int, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""The signals, each with Python's own handler: one that the program installed is left in place."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """Within the context SIGINT and SIGTERM are handled in order; afterwards as before.

    Does nothing outside the main thread, within another such context, and for signals that the program handles itself.
    """
    if threading.current_thread() is not threading.main_thread() or _state.process == os.getpid():
        yield
        return
    numbers = [number for number, usual in _HANDLED.items() if signal.getsignal(number) == usual]
    _state.process, _state.received, _state.deferred = os.getpid(), None, False
    for number in numbers:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, _HANDLED[number])
        _state.process = _state.received = None


@contextlib.contextmanager
def whole_steps() -> Iterator[None]:
    """Within the context the first signal waits for `raise_if_interrupted`, at the latest until the end."""
    _state.deferred = True
    try:
        yield
    finally:
        _state.deferred = False
    raise_if_interrupted()


def is_interrupted() -> bool:
    """Whether a signal has arrived that ends the search.

    Examples:
        >>> with interruptible(), contextlib.suppress(KeyboardInterrupt), whole_steps():
        ...     signal.raise_signal(signal.SIGINT)
        ...     print(is_interrupted())
        True
    """
    return _state.received is not None


def raise_if_interrupted() -> None:
    """Raise the exception of the signal that has arrived, if any.

    Raises:
        KeyboardInterrupt: it was SIGINT; `Terminated` for SIGTERM.
    """
    if _state.received is not None:
        raise Terminated if _state.received == signal.SIGTERM else KeyboardInterrupt


def _handle(number: int, frame: Any) -> None:
    if os.getpid() != _state.process:
        signal.signal(number, _HANDLED[number])
        signal.raise_signal(number)
        return
    waits = _state.deferred and _state.received is None
    _state.received = _state.received or number
    if not waits:
        raise_if_interrupted()
