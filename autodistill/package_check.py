"""Detects files that shadow the two top-level packages on which `autodistill` depends."""

from __future__ import annotations

import importlib.util
from pathlib import Path

PACKAGES = ("search_spaces", "advisors")


def check_packages() -> None:
    """Make sure that `search_spaces` and `advisors` are the packages that were installed with this one.

    Raises:
        ImportError: another module of that name comes first on the import path; the message names its file.
    """
    for name in PACKAGES:
        expected = Path(__file__).resolve().parent.parent / name
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None
        if found is None:
            raise ImportError(f"autodistill needs its package {name!r} at {expected}; reinstall autodistill-nas.")
        if found.parent != expected:
            raise ImportError(
                f"autodistill needs its own package {name!r}, but {found} has that name and comes first on the "
                "import path; rename that file."
            )
