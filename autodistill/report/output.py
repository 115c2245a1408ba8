"""Output that a search survives: the reader of its log, or the terminal, may end before the search does."""

from __future__ import annotations

import os
from typing import IO, Any


class LastingOutput:
    """A stream of text of which nothing is written any more once it cannot be written.

    Args:
        stream: standard output or standard error.

    Examples:
        >>> import sys
        >>> LastingOutput(sys.stdout).write("text\\n")
        text
        5
    """

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write the text, if that is possible."""
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        """Flush the stream, if that is possible."""
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """Let the stream write nowhere: what it has buffered would fail again when the program ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
