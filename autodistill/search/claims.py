"""Which trial has which architecture, as files: no two trials ever share one."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from autodistill.files import read_json, stage_json, sync_directory, write_json


class Claims:
    """The folder `architectures`: one file for each architecture, named by its key and naming its trial."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def make(self, key: str, number: int) -> None:
        """Claim the architecture `key` for the trial of that number.

        Raises:
            FileExistsError: a trial has it.
        """
        staged = stage_json(self._folder / f"{key}.{number}", {"number": number})
        try:
            os.link(staged, self._folder / key)  # the claim is there with its whole content, or not at all
        except FileExistsError:
            raise
        except OSError:  # a filesystem without hard links
            with open(self._folder / key, "x", encoding="utf-8") as file:
                file.write(staged.read_text(encoding="utf-8"))
        finally:
            staged.unlink()
        sync_directory(self._folder)

    def holder(self, key: str) -> int | None:
        """The number of the trial that has the architecture; None where no trial can be told."""
        return _holder(self._folder / key)

    def free(self, number: int) -> None:
        """Give up whatever the trial has."""
        for file in list(self._folder.iterdir()):
            if _holder(file) == number:
                file.unlink()

    def heal(self, trials: Mapping[str, int]) -> None:
        """Make the claims those of the given trials, by key, and no others."""
        for file in list(self._folder.iterdir()):
            if file.name not in trials or _holder(file) != trials[file.name]:
                file.unlink()
        for key, number in trials.items():
            if not (self._folder / key).exists():
                write_json(self._folder / key, {"number": number})


def _holder(claim: Path) -> int | None:
    try:
        number: int = read_json(claim)["number"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return number
