"""A trial whose checkpoints and student are kept in a storage that workers of all computers reach.

The worker writes to a temporary folder, which is copied to the storage while the trial runs.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from autodistill.remote_files import files_seen
from autodistill.search.layout import CHECKPOINT, STUDENT, TRIALS, trial_name
from autodistill.search.run_trial import Outcome, TrialSpec, run_trial, student_of_start, written_files
from autodistill.search.trial import Trial
from autodistill.search.trial_checkpoints import take_over

_NOT_COPIED = ("activations", STUDENT)
"""Captured inputs, which are large and computed again; and the student, which is copied when its trial ends."""


def stored_checkpoints(number: int) -> str:
    """The folder of a trial's checkpoints in the storage, with a folder for each start."""
    return f"{TRIALS}/{trial_name(number)}/{CHECKPOINT}"


def stored_students(number: int) -> str:
    """The folder of a trial's student in the storage, with a folder for the start that trained it."""
    return f"{TRIALS}/{trial_name(number)}/{STUDENT}"


def run_stored_trial(spec: TrialSpec, trial: Trial) -> Outcome:
    """Run a trial from its last checkpoint in the storage, and keep its checkpoints and its student there.

    Args:
        spec: the settings of the search, with a storage.
        trial: its folder on the disk of the driver is not used.

    Returns:
        The outcome with the file of the losses.

    Raises:
        StorageError: the storage cannot be reached.
        Exception: see `run_trial`.
    """
    storage = spec.storage
    assert storage is not None
    with tempfile.TemporaryDirectory() as folder:
        local = replace(trial, directory=Path(folder))
        assert local.directory is not None
        if trial.starts > 1:
            storage.download(stored_checkpoints(trial.number), local.directory / CHECKPOINT)
        own = take_over(local.directory, trial.starts)
        target = f"{stored_checkpoints(trial.number)}/{trial.starts}"
        with storage.mirroring(own, target, seen=files_seen(own), excluded=_NOT_COPIED):
            outcome = run_trial(spec, local)
        if outcome.student:
            storage.upload(student_of_start(local), f"{stored_students(trial.number)}/{trial.starts}")
        return replace(outcome, files=written_files(local, student=False))
