"""The layout of a search directory.

search_dir/
  search.json            the settings of the search; compared when it is resumed
  search.backup.json     a copy, from which a damaged search.json is restored
  search.lock            held by the process that runs the search
  owner.json             that process
  trials/000012/         trial.json, progress.jsonl, checkpoint/, student/
                         in checkpoint/ a folder for each start of the trial, of which only the last is kept
  elastic/               the elastic student, its checkpoint and its losses
  teacher_cache/         safe to delete
  preprocessor/          the tokenizer or image processor that exported students are used with
  preprocessor.json      the hashes of its files
  *.tmp, */*.tmp         files that are being written; ignored, and removed when the directory is opened

`search.json` and each `trial.json` hold a hash of their content, and `trial.json` also those of the student's files.
All of them are files and folders; a directory with symbolic links is refused, since it may come from somebody else.
"""

from __future__ import annotations

from pathlib import Path

from autodistill.errors import SearchDirectoryError
from autodistill.files import link_or_device

SEARCH_FILE = "search.json"
SEARCH_BACKUP = "search.backup.json"
LOCK_FILE = "search.lock"
OWNER_FILE = "owner.json"
TRIALS = "trials"
TRIAL_FILE = "trial.json"
LOSSES_FILE = "progress.jsonl"
CHECKPOINT = "checkpoint"
STUDENT = "student"
ELASTIC = "elastic"
TEACHER_CACHE = "teacher_cache"
PREPROCESSOR = "preprocessor"
PREPROCESSOR_HASHES = "preprocessor.json"
DAMAGED_SUFFIX = ".damaged"
"""The suffix of what was set aside, since it cannot be read or belongs to such a record."""


def holds_search(path: Path) -> bool:
    """Whether a folder holds a search, which may be damaged."""
    return (path / SEARCH_FILE).exists() or (path / SEARCH_BACKUP).exists()


def trial_name(number: int) -> str:
    """The name of a trial's folder.

    Examples:
        >>> trial_name(12)
        '000012'
    """
    return f"{number:06d}"


def trial_directory(search_dir: Path, number: int) -> Path:
    """The folder of a trial."""
    return search_dir / TRIALS / trial_name(number)


def student_directory(search_dir: Path, number: int) -> Path:
    """The folder of a trial's trained student."""
    return trial_directory(search_dir, number) / STUDENT


def checkpoint_directory(trial: Path, start: int) -> Path:
    """The folder of the checkpoints that one start of a trial writes, in the folder of the trial."""
    return trial / CHECKPOINT / str(start)


def trial_directories(search_dir: Path) -> list[Path]:
    """The folders of trials in a search directory, by number; none if it holds no trials yet.

    Raises:
        OSError: they cannot be listed.
    """
    return sorted((path for path in _numbered(search_dir) if path.is_dir()), key=lambda path: int(path.name))


def misplaced_files(search_dir: Path) -> list[Path]:
    """The files where the folders of trials belong, by name.

    Raises:
        OSError: they cannot be listed.
    """
    return sorted(path for path in _numbered(search_dir) if not path.is_dir())


def _numbered(search_dir: Path) -> list[Path]:
    """What has a number for a name among the trials, in any order; nothing if there are no trials yet."""
    try:
        return [path for path in (search_dir / TRIALS).iterdir() if path.name.isdecimal()]
    except FileNotFoundError:
        return []


def ensure_no_links(search_dir: Path) -> None:
    """Refuse a search directory with which files outside of it could be read, changed or deleted.

    The path of the directory itself may be a symbolic link.

    Raises:
        SearchDirectoryError: it contains a symbolic link, a pipe, a socket or a device, or cannot be read.
    """
    try:
        found = link_or_device(search_dir)
    except OSError as error:
        raise SearchDirectoryError(
            f"a search directory must be readable, but {search_dir} is not: {error}; change its permissions."
        ) from error
    if found is not None:
        raise SearchDirectoryError(
            "a search directory must consist of files and folders, since links would lead out of it, but "
            f"{found} is {'a symbolic link' if found.is_symlink() else 'a pipe, a socket or a device'}; remove it, or "
            "replace it by what it refers to. For a teacher_cache elsewhere, use the setting of that name."
        )
