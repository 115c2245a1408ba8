"""The search on disk.

    search_dir/
      search.json            what the search is; compared when it is resumed
      search.lock            held by the process at work; the system frees it when that process ends, however it ends
      owner.json             who took the lock last
      architectures/<key>    names the trial that has this architecture
      trials/000012/         trial.json, and whatever belongs to the trial
      */*.tmp                files that are being written; ignored

A trial exists once its `trial.json` does. It is claimed in four steps: its folder is made; its record is written there
as `trial.json.tmp`; `architectures/<key>` is created, which fails if the architecture has a trial; the record is
renamed to `trial.json`. A process killed in between leaves no trial, and the next one to open the directory takes the
steps back, the last first, so that it may be killed as well.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from autodistill.errors import SearchDirectoryError
from autodistill.files import (
    TEMPORARY_SUFFIX,
    decode_json,
    encode_json,
    read_json,
    stage_json,
    sync_directory,
    write_json,
)
from autodistill.search.claims import Claims
from autodistill.search.description import compare_descriptions
from autodistill.search.layout import SEARCH_FILE, TRIAL_FILE, TRIALS, student_directory, trial_directories, trial_name
from autodistill.search.ownership import hold, prepare, writing
from autodistill.search.trial import Trial, TrialState, now, read_trial
from search_spaces import Architecture, SearchSpace, SearchSpaceError

logger = logging.getLogger(__name__)


SCHEMA_VERSION = 1


DAMAGED_SUFFIX = ".damaged"


_ARCHITECTURES = "architectures"


class SearchDirectory:
    """One search on disk, held by one process at a time: made with `open`, given back with `close`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     space = SearchSpace({"layers": [1, 2]})
        ...     with SearchDirectory.open(path, {"metrics": ["accuracy"], "seed": 0}, space) as directory:
        ...         trial = directory.claim({"layers": 2})
        ...         directory.record(trial.complete({"accuracy": 0.9}))
        ...         [(trial.number, trial.state.value, trial.metrics) for trial in directory.trials()]
        [(0, 'complete', {'accuracy': 0.9})]
    """

    def __init__(self, path: Path, space: SearchSpace, lock: FileLock) -> None:
        self.path = path
        self._space = space
        self._claims = Claims(path / _ARCHITECTURES)
        self._lock = lock

    @classmethod
    def open(cls, path: str | Path, description: Mapping[str, Any], space: SearchSpace) -> SearchDirectory:
        """Create the directory of a search, or resume the search it holds, and hold it until `close`.

        Args:
            path: the directory; it is made where it does not exist.
            description: what the search is, as JSON. On resuming every field must be as it was, except those
                that `autodistill.search.description` names.
            space: what is searched; the recorded architectures must lie in it.

        Raises:
            SearchDirectoryError: the path is a file or not writable, holds other files or another search, or
                another process is at work on it.
        """
        path = Path(path).absolute()
        description = _as_json({"schema_version": SCHEMA_VERSION, **description})
        prepare(path)
        directory = cls(path, space, hold(path))
        try:
            with writing(path):
                directory._begin(description)
                directory._resume(description)
        except BaseException:
            directory.close()
            raise
        return directory

    def close(self) -> None:
        """Let another process open the directory."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def trials(self) -> list[Trial]:
        """The trials by number, read from disk.

        A damaged `trial.json` is set aside as `trial.json.damaged` with all that lies beside it. That trial is lost:
        its architecture may be tried again, and the next trial takes its number.
        """
        trials = []
        for folder in trial_directories(self.path):
            try:
                trial = read_trial(folder)
            except ValueError as error:
                logger.warning(
                    "%s is damaged (%s): it is set aside as %s, and the trial is lost.",
                    folder / TRIAL_FILE,
                    error,
                    TRIAL_FILE + DAMAGED_SUFFIX,
                )
                self._claims.free(int(folder.name))
                _set_aside(folder)
                continue
            if trial is not None:
                trials.append(trial)
        return trials

    def interrupted(self) -> list[Trial]:
        """The trials that were running when their process ended; `take_over` begins one again."""
        return [trial for trial in self.trials() if trial.state is TrialState.RUNNING]

    def claim(self, architecture: Architecture) -> Trial:
        """Begin the next trial, with an architecture that no other trial has.

        Raises:
            SearchDirectoryError: a trial has this architecture.
            SearchSpaceError: the architecture does not belong to the space.
        """
        number = self._next_number()
        folder = self.trial_directory(number)
        trial = Trial(number, self._space.validate(architecture), directory=folder, started_at=now())
        key = self._space.key(architecture)
        with writing(self.path):
            folder.mkdir(exist_ok=True)
            staged = stage_json(folder / TRIAL_FILE, trial.to_json())
            try:
                self._claims.make(key, number)
            except FileExistsError:
                staged.unlink()
                self._discard(folder)
                raise SearchDirectoryError(
                    f"no two trials share an architecture, but trial {self._claims.holder(key)} has {architecture} "
                    "already; propose another."
                ) from None
            os.replace(staged, folder / TRIAL_FILE)
            sync_directory(folder)
            sync_directory(folder.parent)
        return trial

    def promote(self, trial: Trial) -> Trial:
        """Begin to finish a paused trial."""
        trial = trial.promote()
        self.record(trial)
        return trial

    def take_over(self, trial: Trial) -> Trial:
        """Begin an interrupted trial again: one attempt more, from now."""
        trial = replace(trial, state=TrialState.RUNNING, attempts=trial.attempts + 1, started_at=now())
        self.record(trial)
        return trial

    def record(self, trial: Trial) -> None:
        """Write a claimed trial down, whole or not at all.

        Raises:
            SearchDirectoryError: the trial was never claimed, or cannot be written.
            ValueError: its metrics or details are not JSON; NaN and infinity are not.
        """
        file = self.trial_directory(trial.number) / TRIAL_FILE
        if not file.exists():
            raise SearchDirectoryError(f"a trial is claimed before it is recorded, but {file} does not exist.")
        with writing(self.path):
            write_json(file, trial.to_json())

    def trial_directory(self, number: int) -> Path:
        """The folder of a trial."""
        return self.path / TRIALS / trial_name(number)

    def student_directory(self, number: int) -> Path:
        """Where the trained student of a trial is kept; made by whoever saves it."""
        return student_directory(self.path, number)

    def _begin(self, description: dict[str, Any]) -> None:
        if not (self.path / SEARCH_FILE).exists():
            write_json(self.path / SEARCH_FILE, description)
        for folder in (TRIALS, _ARCHITECTURES):
            (self.path / folder).mkdir(exist_ok=True)

    def _resume(self, description: dict[str, Any]) -> None:
        recorded = _read_description(self.path / SEARCH_FILE)
        trials = self.trials()
        try:
            compare_descriptions(recorded, description, self.path)
        except SearchDirectoryError:
            if any(trial.is_measured for trial in trials):
                raise
            # Nothing is measured, so nothing is lost: a mistake in the set-up was mended, and the search begins.
            for trial in trials:
                shutil.rmtree(self.trial_directory(trial.number))
            trials = []
        self._heal(trials)
        if recorded != description:
            write_json(self.path / SEARCH_FILE, description)

    def _keys(self, trials: list[Trial]) -> dict[str, int]:
        keys: dict[str, int] = {}
        for trial in trials:
            try:
                keys.setdefault(self._space.key(trial.architecture), trial.number)
            except SearchSpaceError as error:
                raise SearchDirectoryError(
                    "a resumed search may widen its space, but must keep all that was tried; widen it further or take "
                    f"another search_dir: trial {trial.number} in {self.path} is outside of it: {error}"
                ) from error
        return keys

    def _heal(self, trials: list[Trial]) -> None:
        """Take back what a killed process had begun: afterwards claims and trials belong together, one to one."""
        self._claims.heal(self._keys(trials))
        recorded = {trial.directory for trial in trials}
        for folder in trial_directories(self.path):
            for staged in list(folder.glob("*" + TEMPORARY_SUFFIX)):
                shutil.rmtree(staged) if staged.is_dir() else staged.unlink()
            if folder not in recorded:
                self._discard(folder)

    def _discard(self, folder: Path) -> None:
        """Remove the folder of a trial that never was; anything in it is kept, set aside."""
        _set_aside(folder)
        with contextlib.suppress(OSError):  # not empty
            folder.rmdir()

    def _next_number(self) -> int:
        number = 0
        while (self.trial_directory(number) / TRIAL_FILE).exists():
            number += 1
        return number


def _as_json(description: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = decode_json(encode_json(dict(description)))  # as a resumed process will read it: no tuples
    return result


def _read_description(file: Path) -> dict[str, Any]:
    try:
        description = read_json(file)
        version = description["schema_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise SearchDirectoryError(
            f"{file} must describe the search, but is damaged ({error}); restore it, or take another search_dir."
        ) from error
    if version != SCHEMA_VERSION:
        raise SearchDirectoryError(
            f"this version reads search directories of schema {SCHEMA_VERSION}, but {file} has schema {version}; "
            "resume it with the version that made it."
        )
    result: dict[str, Any] = description
    return result


def _set_aside(folder: Path) -> None:
    for entry in list(folder.iterdir()):
        if DAMAGED_SUFFIX in entry.suffixes:
            continue
        target = entry.with_name(entry.name + DAMAGED_SUFFIX)
        while target.exists():
            target = target.with_name(target.name + DAMAGED_SUFFIX)
        entry.rename(target)
