"""A search goes on when nobody reads its output any more."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from autodistill.report.output import LastingOutput
stream = getattr(sys, sys.argv[1])
output = LastingOutput(stream)
assert output.write("first") == 5
output.flush()
sys.stdin.read()  # until the reader has gone
for _ in range(3):
    output.write("second")
    output.flush()
assert output.isatty() is False
os.write(int(sys.argv[2]), b"done")
"""


@pytest.mark.parametrize(("name", "other"), [("stdout", "2"), ("stderr", "1")])
def test_what_nobody_reads_is_dropped_and_the_program_ends_as_usual(name: str, other: str) -> None:
    command = [sys.executable, "-c", PROGRAM, name, other]
    with subprocess.Popen(command, stdin=-1, stdout=-1, stderr=-1) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        read, kept = (process.stdout, process.stderr) if name == "stdout" else (process.stderr, process.stdout)
        assert read.read(5) == b"first"
        read.close()
        process.stdin.close()
        assert kept.read() == b"done"
        assert process.wait(60) == 0
