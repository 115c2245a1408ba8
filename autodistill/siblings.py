"""`autodistill` stands on two top-level packages; no file of the same name may take their place unnoticed."""

from __future__ import annotations

import importlib.util
from pathlib import Path

SIBLINGS = ("search_spaces", "advisors")


def check_siblings() -> None:
    """Make sure that `search_spaces` and `advisors` are the packages that were installed with this one.

    Raises:
        ImportError: another module of that name comes first on the import path; the message names its file.
    """
    for name in SIBLINGS:
        expected = Path(__file__).resolve().parent.parent / name
        spec = importlib.util.find_spec(name)
        found = Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None
        if found is None:
            raise ImportError(
                f"autodistill needs its package {name!r} beside it at {expected}; install autodistill-nas again."
            )
        if found.parent != expected:
            raise ImportError(
                f"autodistill needs its own package {name!r}, but {found} has that name and comes first on the "
                "import path; rename that file."
            )
