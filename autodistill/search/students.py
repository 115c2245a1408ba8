"""The trained students in a search directory: which exist, and whether they are as they were saved."""

from __future__ import annotations

from pathlib import Path

from autodistill.errors import ConfigurationError, SearchDirectoryError
from autodistill.file_hashes import changed_files
from autodistill.remote_files import RemoteFiles
from autodistill.search.description import read_description
from autodistill.search.layout import ensure_no_links, student_directory
from autodistill.search.result import SearchResult
from autodistill.search.stored_trial import stored_students
from autodistill.search.trial import Trial, TrialState


def find_student(search_dir: Path, trial: Trial, storage: RemoteFiles | None = None) -> Path:
    """The folder of a trial's student, whose files are those that were saved.

    Args:
        search_dir: the search directory.
        trial: whose student is downloaded into its folder if the search keeps students in a storage.
        storage: of the search; None for the recorded one, reached by the environment.

    Raises:
        ConfigurationError: the student was not kept, or the trial was added, or is not complete.
        SearchDirectoryError: the student is damaged, or its folder holds links.
        StorageError: the storage cannot be reached.
    """
    if trial.state is not TrialState.COMPLETE:
        paused = " with a larger promote, or without it" if trial.state is TrialState.PAUSED else ""
        raise ConfigurationError(
            f"a student is kept once its trial is complete, but trial {trial.number} is {trial.state}; resume the "
            f"search{paused}, or take that of another trial."
        )
    if trial.added:
        raise ConfigurationError(
            f"a student is kept where it was trained, but trial {trial.number} was run elsewhere and added; take that "
            "of another trial."
        )
    folder = student_directory(search_dir, trial.number)
    if not folder.exists():
        _download(search_dir, trial, folder, storage)
    if not folder.exists():
        raise ConfigurationError(
            "the students of the Pareto front are kept, or all with keep='all', but that of trial "
            f"{trial.number} is not in {search_dir}; it has those of {_kept(search_dir)}."
        )
    ensure_no_links(folder)
    problems = changed_files(folder, trial.student)
    if problems:
        raise SearchDirectoryError(
            f"a student must be as it was saved, but in {folder} {', '.join(problems)}; restore it, or have it trained "
            "again: `autodistill doctor --repair`, then resume the search."
        )
    return folder


def _download(search_dir: Path, trial: Trial, folder: Path, storage: RemoteFiles | None) -> None:
    url = read_description(search_dir).get("storage")
    if url is not None:
        storage = storage or RemoteFiles(url)
        storage.download(f"{stored_students(trial.number)}/{trial.starts}", folder)


def _kept(search_dir: Path) -> str:
    numbers = [str(trial.number) for trial in SearchResult.load(search_dir) if _exists(search_dir, trial)]
    return f"trial {', '.join(numbers)}" if numbers else "no trial"


def _exists(search_dir: Path, trial: Trial) -> bool:
    return trial.state is TrialState.COMPLETE and student_directory(search_dir, trial.number).exists()
