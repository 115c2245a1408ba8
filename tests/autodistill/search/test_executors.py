"""Where trials run: in this thread, and in all processes of a group."""

from __future__ import annotations

import pytest

from autodistill.search.executors import SerialExecutor


def test_the_serial_executor_keeps_exceptions_and_lets_interrupts_pass():
    future = SerialExecutor().submit(int, "no number")
    assert isinstance(future.exception(), ValueError)

    def interrupt():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        SerialExecutor().submit(interrupt)
