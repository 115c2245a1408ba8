"""The search directory: the trials are held in memory, and every change is written to disk before it takes effect.

A trial exists once its `trial.json` does. One process holds the directory and is the only writer of records, so the
directory is read only once, when it is opened. A process that is killed leaves no half-written record: incomplete files
are removed when the directory is opened again.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from autodistill.errors import SearchDirectoryError, StorageError
from autodistill.files import delete_leftovers, move, remove, sync_directory
from autodistill.json_files import decode_json, encode_json, write_record
from autodistill.metrics.metric import Metric
from autodistill.remote_files import RemoteFiles
from autodistill.search.description import (
    SCHEMA_VERSION,
    compare_descriptions,
    described_metrics,
    read_description,
    write_description,
)
from autodistill.search.layout import (
    CHECKPOINT,
    DAMAGED_SUFFIX,
    SEARCH_FILE,
    TRIAL_FILE,
    TRIALS,
    checkpoint_directory,
    holds_search,
    misplaced_files,
    student_directory,
    trial_directories,
    trial_directory,
    trial_name,
)
from autodistill.search.lock import DirectoryLock, prepare, writing
from autodistill.search.result import SearchResult
from autodistill.search.run_trial import student_of_start
from autodistill.search.stored_trial import stored_checkpoints, stored_students
from autodistill.search.trial import Trial, TrialState, has_lost_its_record, now, read_trial
from search_spaces import SearchSpace, SearchSpaceError

logger = logging.getLogger(__name__)

_CLAIMS = "architectures"  # one file for each architecture, written by versions before 0.1.0


class SearchDirectory:
    """One search on disk, held by one process at a time: created with `open`, released with `close`.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as path:
        ...     space = SearchSpace({"layers": [1, 2]})
        ...     with SearchDirectory.open(path, {"metrics": ["accuracy"], "seed": 0}, space) as directory:
        ...         trial = directory.begin({"layers": 2})
        ...         directory.record(trial.complete({"accuracy": 0.9}))
        ...         [(trial.number, trial.state.value, trial.metrics) for trial in directory.result]
        [(0, 'complete', {'accuracy': 0.9})]
    """

    def __init__(
        self,
        path: Path,
        space: SearchSpace,
        description: dict[str, Any],
        lock: DirectoryLock,
        storage: RemoteFiles | None = None,
    ) -> None:
        self.path = path
        self._storage = storage
        self._space = space
        self._description = description
        self._metrics = tuple(map(Metric.of, description["metrics"]))
        self._lock = lock
        self._trials: dict[int, Trial] = {}
        self._numbers: dict[str, int] = {}  # trial numbers by the key of the architecture
        self._result: SearchResult | None = None

    @classmethod
    def open(
        cls,
        path: str | Path,
        description: Mapping[str, Any],
        space: SearchSpace,
        storage: RemoteFiles | None = None,
    ) -> SearchDirectory:
        """Create the directory of a search, or resume the search in it, and hold it until `close`.

        A damaged `trial.json` is renamed to `trial.json.damaged`, and so are the other files of its folder. That trial
        is lost: its architecture may be tried again, and the next trial takes its number.

        Args:
            path: the directory; created if it does not exist.
            description: the settings of the search, as JSON. On resuming, every field must be unchanged, except those
                that `autodistill.search.description` names.
            space: the search space; the recorded architectures must belong to it.
            storage: of checkpoints and students; None keeps them in the folders of the trials.

        Raises:
            SearchDirectoryError: the path is a file or not writable, holds links, other files or another search, or
                another process holds it.
        """
        path = Path(path).absolute()
        description = _as_json({"schema_version": SCHEMA_VERSION, **description})
        prepare(path)
        directory = cls(path, space, description, DirectoryLock(path), storage)
        try:
            with writing(path):
                directory._begin()
                directory._resume()
        except BaseException:
            directory.close()
            raise
        return directory

    def close(self) -> None:
        """Release the directory, so that another process can open it."""
        self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def result(self) -> SearchResult:
        """All trials, from memory."""
        if self._result is None:
            self._result = SearchResult(list(self._trials.values()), self._metrics)
        return self._result

    @property
    def interrupted(self) -> list[Trial]:
        """The trials that were running when their process ended; `retry` starts one again."""
        return [trial for trial in self.result if trial.state is TrialState.RUNNING]

    def begin(self, architecture: Mapping[str, Any]) -> Trial:
        """Start the next trial, with an architecture that no other trial has.

        Raises:
            SearchDirectoryError: a trial has this architecture; or the trial cannot be written.
            SearchSpaceError: the architecture does not belong to the space.
        """
        return self._create(Trial(0, self._space.validate(architecture), started_at=now()))

    def add(self, architecture: Mapping[str, Any], metrics: Mapping[str, float]) -> Trial:
        """Record a trial that was run elsewhere, as complete and without a student, in one atomic write.

        Raises:
            SearchDirectoryError: a trial has this architecture; or the trial cannot be written.
            SearchSpaceError: the architecture does not belong to the space.
        """
        trial = Trial(0, self._space.validate(architecture), started_at=now(), added=True)
        return self._create(trial.complete(metrics))

    def promote(self, trial: Trial) -> Trial:
        """Start to finish a paused trial."""
        trial = trial.promote()
        self.record(trial)
        return trial

    def retry(self, trial: Trial) -> Trial:
        """Start an interrupted trial again: one more attempt, or the first one if the last has progressed."""
        attempts = 1 if self.has_progressed(trial) else trial.attempts + 1
        trial = trial.start(attempts)
        self.record(trial)
        return trial

    def has_progressed(self, trial: Trial) -> bool:
        """Whether an interrupted trial has written a checkpoint since it was last started."""
        if self._storage is not None:
            return bool(self._storage.names(f"{stored_checkpoints(trial.number)}/{trial.starts}"))
        try:
            files = list(checkpoint_directory(self.trial_directory(trial.number), trial.starts).iterdir())
            latest = max((file.stat().st_mtime for file in files), default=0.0)
        except OSError:  # there are none
            return False
        return trial.started_at is not None and latest > trial.started_at.timestamp()

    def remove_checkpoints(self, trial: Trial) -> None:
        """Remove the checkpoints of a trial, which does not need them any more."""
        shutil.rmtree(self.trial_directory(trial.number) / CHECKPOINT, ignore_errors=True)
        if self._storage is not None:
            with contextlib.suppress(StorageError):  # they are removed when the search is opened again
                self._storage.remove(stored_checkpoints(trial.number))

    def take_student(self, trial: Trial) -> None:
        """Move the student that the last start of a trial has saved to where it is kept."""
        if self._storage is None:
            move(student_of_start(trial), self.student_directory(trial.number))

    def remove_student(self, number: int) -> None:
        """Remove the student of a trial, if it has one.

        Raises:
            OSError: it cannot be removed.
            StorageError: the same, from the storage.
        """
        remove(self.student_directory(number))
        if self._storage is not None:
            self._storage.remove(stored_students(number))

    def reopen(self, trial: Trial) -> None:
        """Leave a failed or complete trial to be run again, like an interrupted one."""
        self.record(trial.reopen())

    def record(self, trial: Trial) -> None:
        """Write the new state of a trial, completely or not at all.

        Raises:
            SearchDirectoryError: the trial was never started, or cannot be written.
            ValueError: its metrics or details are not JSON; NaN and infinity are not.
        """
        if trial.number not in self._trials:
            raise SearchDirectoryError(f"a trial is begun before it is recorded, but trial {trial.number} was not.")
        self._write(trial)

    def trial_directory(self, number: int) -> Path:
        """The folder of a trial."""
        return trial_directory(self.path, number)

    def student_directory(self, number: int) -> Path:
        """The folder of a trial's trained student; created when it is saved."""
        return student_directory(self.path, number)

    def _create(self, trial: Trial) -> Trial:
        key = self._space.key(trial.architecture)
        if key in self._numbers:
            raise SearchDirectoryError(
                f"no two trials share an architecture, but trial {self._numbers[key]} has {trial.architecture} "
                "already; propose another."
            )
        number = next(number for number in itertools.count() if number not in self._trials)
        folder = self.trial_directory(number)
        self._lock.verify()
        with writing(self.path):
            folder.mkdir(exist_ok=True)
            sync_directory(folder.parent)
        trial = replace(trial, number=number, directory=folder)
        self._write(trial)
        return trial

    def _write(self, trial: Trial) -> None:
        self._lock.verify()
        with writing(self.path):
            if not holds_search(self.path):
                logger.warning("%s was removed while the search runs: it is written again", self.path / SEARCH_FILE)
                write_description(self.path, self._description)
            write_record(self.trial_directory(trial.number) / TRIAL_FILE, trial.to_json())
        self._trials[trial.number] = trial
        self._numbers[self._space.key(trial.architecture)] = trial.number
        self._result = self.result.with_trial(trial)

    # --- opening ---

    def _begin(self) -> None:
        if not holds_search(self.path):
            write_description(self.path, self._description)
        (self.path / TRIALS).mkdir(exist_ok=True)

    def _resume(self) -> None:
        recorded = read_description(self.path)
        trials = self._read_trials(described_metrics(recorded, self.path))
        try:
            compare_descriptions(recorded, self._description, self.path)
        except SearchDirectoryError:
            if any(trial.is_measured for trial in trials):
                raise
            # Nothing is measured, so nothing is lost: a mistake in the set-up was fixed, and the search starts again.
            for trial in trials:
                shutil.rmtree(self.trial_directory(trial.number))
            trials = []
        self._numbers = self._number_by_key(trials)
        self._trials = {trial.number: trial for trial in trials}
        self._clean_up()
        write_description(self.path, self._description)

    def _read_trials(self, metrics: tuple[Metric, ...]) -> list[Trial]:
        """The trials on disk by number, which have these metrics; damaged ones are renamed."""
        names = [metric.name for metric in metrics]
        trials = []
        for folder in trial_directories(self.path):
            try:
                trial = _read(folder, names)
            except ValueError as error:
                logger.warning(
                    "%s is damaged (%s): it is set aside as %s, and the trial is lost.",
                    folder / TRIAL_FILE,
                    error,
                    TRIAL_FILE + DAMAGED_SUFFIX,
                )
                set_aside(folder)
                continue
            if trial is not None:
                trials.append(trial)
        return trials

    def _number_by_key(self, trials: list[Trial]) -> dict[str, int]:
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

    def _clean_up(self) -> None:
        """Remove what a killed process left: incomplete files, checkpoints that are not needed; and old claims."""
        claims = self.path / _CLAIMS
        if claims.is_dir() and not claims.is_symlink():
            shutil.rmtree(claims)
        delete_leftovers(self.path)
        for file in misplaced_files(self.path):
            logger.warning("%s is where the folder of a trial belongs: it is renamed to *%s", file, DAMAGED_SUFFIX)
            rename_damaged(file)
        stored = () if self._storage is None else self._storage.names(TRIALS)
        for trial in self._trials.values():
            if trial.state in (TrialState.COMPLETE, TrialState.FAILED):
                remove(self.trial_directory(trial.number) / CHECKPOINT)
                if self._storage is not None and trial_name(trial.number) in stored:
                    self._storage.remove(stored_checkpoints(trial.number))
        for folder in trial_directories(self.path):
            if int(folder.name) not in self._trials:
                if has_lost_its_record(folder):
                    logger.warning(
                        "%s is missing, and the trial is lost: the other files of its folder are set aside as *%s.",
                        folder / TRIAL_FILE,
                        DAMAGED_SUFFIX,
                    )
                set_aside(folder)
                with contextlib.suppress(OSError):  # not empty
                    folder.rmdir()


def _as_json(description: Mapping[str, Any]) -> dict[str, Any]:
    result: dict[str, Any] = decode_json(encode_json(dict(description)))  # as a resumed process reads it: no tuples
    return result


def _read(folder: Path, metrics: list[str]) -> Trial | None:
    try:
        return read_trial(folder, metrics)
    except OSError as error:
        raise SearchDirectoryError(
            f"the records of all trials must be readable, but {folder / TRIAL_FILE} is not: {error}; make it readable, "
            "or remove it, which loses its trial."
        ) from error


def set_aside(folder: Path) -> None:
    """Rename everything in the folder of a trial that has lost its record, so that it is kept but no part of a trial.

    Raises:
        OSError: it cannot be renamed.
    """
    for entry in list(folder.iterdir()):
        if DAMAGED_SUFFIX not in entry.suffixes:
            rename_damaged(entry)


def rename_damaged(path: Path) -> None:
    """Rename a file or folder, so that it is kept but no part of a search.

    Raises:
        OSError: it cannot be renamed.
    """
    target = path.with_name(path.name + DAMAGED_SUFFIX)
    while target.exists():
        target = target.with_name(target.name + DAMAGED_SUFFIX)
    path.rename(target)
