"""A trial that takes too long: where every thread is, is logged, since Python cannot interrupt a hook."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import tempfile
import threading
from collections.abc import Iterator

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def reported_after(seconds: float | None, what: str) -> Iterator[None]:
    """If the context takes longer than this, log a warning with the stacks of all threads, once.

    Args:
        seconds: until then nothing is logged; None never logs.
        what: takes long, for the message.

    Examples:
        >>> with reported_after(60, "trial 3"):
        ...     pass
    """
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, _report, (seconds, what))
    timer.daemon = True  # a program that is interrupted does not wait for it
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()


def _report(seconds: float, what: str) -> None:
    with tempfile.TemporaryFile("w+", encoding="utf-8") as file:  # faulthandler needs a file of the system
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        logger.warning(
            "%s has run for more than %g s (trial_timeout) and goes on; to end it, interrupt the program, and run the "
            "search again with a hook that ends. Its threads are here:\n%s",
            what,
            seconds,
            file.read(),
        )
