"""For campaigns: the seed (TORTURE_SEED in the environment), and one line for each in the summary."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

LINES = pytest.StashKey[list[str]]()
SEED = int(os.environ.get("TORTURE_SEED", "17"))


@pytest.fixture(scope="session")
def seed() -> int:
    """The seed of all campaigns."""
    return SEED


@pytest.fixture
def report(pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Shows a line in the summary."""
    return pytestconfig.stash.setdefault(LINES, []).append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    if lines := config.stash.get(LINES, []):
        terminalreporter.section(f"campaigns, TORTURE_SEED={SEED}")
        for line in lines:
            terminalreporter.line(line)
