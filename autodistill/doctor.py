"""What is wrong in a search directory, what it costs, and the repair of what can be rebuilt."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from autodistill import tensor_files
from autodistill.distillation import checkpoints, facts, sample_outputs, sample_store
from autodistill.errors import SearchDirectoryError
from autodistill.export.preprocessor import preprocessor_problems
from autodistill.file_hashes import changed_files
from autodistill.files import is_temporary, leftovers, remove
from autodistill.json_files import write_record
from autodistill.metrics.metric import Metric, is_finite_number
from autodistill.search import description
from autodistill.search.directory import rename_damaged, set_aside
from autodistill.search.layout import (
    CHECKPOINT,
    DAMAGED_SUFFIX,
    ELASTIC,
    LOCK_FILE,
    LOSSES_FILE,
    OWNER_FILE,
    PREPROCESSOR,
    PREPROCESSOR_HASHES,
    SEARCH_BACKUP,
    SEARCH_FILE,
    STUDENT,
    TEACHER_CACHE,
    TRIAL_FILE,
    TRIALS,
    ensure_no_links,
    holds_search,
    misplaced_files,
    student_directory,
    trial_directories,
    trial_directory,
)
from autodistill.search.lock import DirectoryLock, is_held
from autodistill.search.result import SearchResult
from autodistill.search.trial import EARLIER_METRICS, Trial, TrialState, has_lost_its_record, read_trial

_IN_SEARCH = {
    SEARCH_FILE,
    SEARCH_BACKUP,
    LOCK_FILE,
    OWNER_FILE,
    TRIALS,
    ELASTIC,
    TEACHER_CACHE,
    PREPROCESSOR,
    PREPROCESSOR_HASHES,
}
_IN_TRIAL = {TRIAL_FILE, LOSSES_FILE, CHECKPOINT, STUDENT}
_TENSORS = ".safetensors"
_DISK = "disk space"
_REMOVED = "removed"
_MISSING = "is missing"


@dataclass(frozen=True)
class Finding:
    """Something in a search directory that is wrong, or worth knowing.

    Args:
        file: or folder, the path in the search directory.
        problem: what is wrong with it.
        cost: what that costs.
        remedy: what the repair has it be, as `removed`; without a repair, what the user can do about it.
        repair: repairs it; None if that is not possible. Raises `OSError` if it fails.
        harmless: nothing is wrong.
        repaired: it was.
    """

    file: Path
    problem: str
    cost: str
    remedy: str
    repair: Callable[[], None] | None = None
    harmless: bool = False
    repaired: bool = False

    @property
    def is_open(self) -> bool:
        """Whether something is still wrong."""
        return not (self.harmless or self.repaired)

    @property
    def can_be_repaired(self) -> bool:
        """Whether there is something left to repair."""
        return self.repair is not None and not self.repaired

    @property
    def outcome(self) -> str:
        """What the user can do, or what was done."""
        if self.repair is None:
            return self.remedy
        return f"was {self.remedy}" if self.repaired else f"with --repair: {self.remedy}"


def examine(search_dir: Path) -> list[Finding]:
    """Check every file of a search directory of which the content can be verified; nothing is written.

    Raises:
        SearchDirectoryError: the directory holds no search or one of another version, cannot be read, or holds links.
    """
    _ensure_search(search_dir)
    return list(_examine(search_dir, at_work=is_held(search_dir)))


def repair(search_dir: Path) -> list[Finding]:
    """Check a search directory like `examine`, and repair what can be repaired.

    Returns:
        What was found. Everything that has a repair is repaired, unless that failed.

    Raises:
        SearchDirectoryError: as in `examine`, or a process is at work on the search, or it is not writable.
    """
    _ensure_search(search_dir)
    with DirectoryLock(search_dir):
        # Each finding is repaired before the search for the next one goes on, which may depend on it.
        return [_repaired(finding) for finding in _examine(search_dir, at_work=False)]


def _ensure_search(search_dir: Path) -> None:
    if search_dir.is_dir():
        ensure_no_links(search_dir)
    if not holds_search(search_dir):
        raise description.no_search_in(search_dir)
    try:
        trial_directories(search_dir)
    except OSError as error:
        raise SearchDirectoryError(f"the trials in {search_dir} must be readable, but are not: {error}") from error


def _repaired(finding: Finding) -> Finding:
    if finding.repair is None:
        return finding
    try:
        finding.repair()
    except OSError as error:
        return replace(finding, repair=None, remedy=f"could not be {finding.remedy}: {error}")
    return replace(finding, repaired=True)


def _examine(search_dir: Path, at_work: bool) -> Iterator[Finding]:
    """All findings, with paths in the search directory."""
    for finding in _findings(search_dir, at_work):
        yield replace(finding, file=finding.file.relative_to(search_dir))


def _findings(search_dir: Path, at_work: bool) -> Iterator[Finding]:
    for path in [] if at_work else sorted(leftovers(search_dir)):
        yield Finding(path, "was not written to the end", _DISK, _REMOVED, partial(remove, path), harmless=True)
    metrics = yield from _of_description(search_dir)
    trials = yield from _of_records(search_dir, metrics, at_work)
    yield from _of_students(search_dir, trials, metrics)
    slices = _has_slices(search_dir)
    for trial in trials:
        folder = trial_directory(search_dir, trial.number) / CHECKPOINT
        if not (slices and trial.state is TrialState.PAUSED and not folder.exists()):
            yield from _of_checkpoints(folder, trial.state, at_work)
    for problem in preprocessor_problems(search_dir):
        remedy = "resume the search with `autodistill search`, which writes it again"
        yield Finding(search_dir / PREPROCESSOR, problem, "no student can be exported", remedy)
    yield from _of_elastic(search_dir / ELASTIC)
    yield from _of_cache(search_dir / TEACHER_CACHE)
    yield from _of_names(search_dir)


# --- the description --------------------------------------------------------------------------------------------------


def _of_description(search_dir: Path) -> Generator[Finding, None, tuple[Metric, ...]]:
    """The findings in `search.json` and its copy; returns the metrics, none if they are not known."""
    files = (search_dir / SEARCH_FILE, search_dir / SEARCH_BACKUP)
    problems = {file: problem for file in files if (problem := _description_problem(file)) is not None}
    if len(problems) == len(files):
        for file, problem in problems.items():
            yield Finding(file, problem, "the search cannot be resumed", "restore it from a copy of your own")
        return ()
    described = description.read_description(search_dir)
    for file, problem in problems.items():
        (other,) = set(files) - {file}
        cost = "nothing, as long as the other copy is there"
        repair = partial(write_record, file, described)
        spare = file.name == SEARCH_BACKUP and problem == _MISSING  # earlier versions wrote none
        yield Finding(file, problem, cost, f"restored from {other.name}", repair, harmless=spare)
    return description.described_metrics(described, search_dir)


def _description_problem(file: Path) -> str | None:
    try:
        problem = description.problem_in(file)
    except FileNotFoundError:
        return _MISSING
    except OSError as error:
        return _unreadable(error)
    return None if problem is None else f"is damaged ({problem})"


# --- the trials -------------------------------------------------------------------------------------------------------


def _of_records(search_dir: Path, metrics: tuple[Metric, ...], at_work: bool) -> Generator[Finding, None, list[Trial]]:
    """The findings in the records of trials; returns the trials that can be read."""
    for misplaced in misplaced_files(search_dir):
        what, cost = "is where the folder of a trial belongs", "the search would stop at this trial"
        yield Finding(misplaced, what, cost, f"renamed to *{DAMAGED_SUFFIX}", partial(rename_damaged, misplaced))
    names = [metric.name for metric in metrics]
    trials = []
    for folder in trial_directories(search_dir):
        file, problem = folder / TRIAL_FILE, None
        try:
            trial = read_trial(folder, names)
        except ValueError as error:
            problem = f"is damaged ({error})"
        except OSError as error:
            yield Finding(file, _unreadable(error), "the search cannot be resumed", "change its permissions")
            continue
        else:
            if trial is None and has_lost_its_record(folder) and not at_work:
                problem = "is missing"
        if problem is not None:
            cost = "the trial is lost; its architecture may be tried again"
            yield Finding(file, problem, cost, f"set aside as *{DAMAGED_SUFFIX}", partial(set_aside, folder))
        elif trial is not None:
            trials.append(trial)
            if trial.state is TrialState.RUNNING and not at_work:
                yield Finding(file, "is of an interrupted trial", "nothing", "resume the search", harmless=True)
    return trials


def _of_students(search_dir: Path, trials: list[Trial], metrics: tuple[Metric, ...]) -> Iterator[Finding]:
    """The findings in trained students. Those outside of the Pareto front may have been removed."""
    front = _front(trials, metrics)
    for trial in trials:
        if trial.state is not TrialState.COMPLETE or trial.added:
            continue
        folder = student_directory(search_dir, trial.number)
        cost = "it cannot be loaded or exported"
        closed = [folder / name for name in trial.student if _is_closed(folder / name)]
        problem = ", ".join(changed_files(folder, trial.student))
        if not folder.exists():  # asked last, since a process that is at work may remove it
            problem = "is missing" if trial.student and trial.number in front else ""
        elif not trial.student:
            problem, cost = "has no recorded hashes, as in earlier versions", "damage would not be noticed"
            yield Finding(folder, problem, cost, "none needed", harmless=True)
            continue
        if closed:
            yield Finding(closed[0], "cannot be read", cost, "change its permissions")
        elif problem:
            remedy = "given back to the search, which trains it again when it is resumed"
            yield Finding(folder, problem, cost, remedy, partial(_give_back, folder.parent / TRIAL_FILE, trial))


def _front(trials: list[Trial], metrics: tuple[Metric, ...]) -> set[int]:
    """The numbers of the trials on the Pareto front, also of those that will be there once they are trained again."""
    if not metrics:
        return set()
    names = [metric.name for metric in metrics]
    result = SearchResult([_as_before(trial, names) for trial in trials], metrics)
    return {trial.number for trial in result.pareto_front}


def _as_before(trial: Trial, names: list[str]) -> Trial:
    """A trial with the metrics that it had before it was given back to the search, and will have again."""
    earlier = trial.details.get(EARLIER_METRICS)
    values = earlier[-1] if isinstance(earlier, list) and earlier else None
    if trial.state is not TrialState.RUNNING or not isinstance(values, dict):
        return trial
    return trial.complete(values) if all(is_finite_number(values.get(name)) for name in names) else trial


def _give_back(file: Path, trial: Trial) -> None:
    write_record(file, trial.reopen().to_json())


def _is_closed(file: Path) -> bool:
    return os.path.exists(file) and not os.access(file, os.R_OK)


def _of_checkpoints(folder: Path, state: TrialState, at_work: bool) -> Iterator[Finding]:
    """The findings in a trial's checkpoints."""
    if state in (TrialState.COMPLETE, TrialState.FAILED):
        if folder.exists() and not at_work:
            problem = f"is left over, since the trial is {state}"
            yield Finding(folder, problem, _DISK, _REMOVED, partial(remove, folder), harmless=True)
        return
    if state is TrialState.PAUSED and not folder.exists():
        cost = "if the trial is promoted, its flash distillation is repeated"
        yield Finding(folder, "is missing", cost, "none needed", harmless=True)
    for file in sorted(folder.glob("*/*.safetensors")):
        yield from _checked(checkpoints.problem_in, file, "that part of the training is repeated")


# --- the elastic student ----------------------------------------------------------------------------------------------


def _has_slices(search_dir: Path) -> bool:
    """Whether students are slices of an elastic student, of which a paused trial needs no checkpoint."""
    try:
        settings = description.read_description(search_dir).get("distillation")
    except SearchDirectoryError:
        return (search_dir / ELASTIC).exists()
    return isinstance(settings, Mapping) and settings.get("elastic") is not None


def _of_elastic(folder: Path) -> Iterator[Finding]:
    """The findings in the elastic student and its checkpoint."""
    cost = "the elastic student is trained again, with the same result, when it is needed"
    for file in _files(folder):
        parts = file.relative_to(folder).parts
        if parts[-1].endswith(_TENSORS) and len(parts) == 1:
            yield from _checked(tensor_files.problem_in, file, cost)
        elif parts[-1].endswith(_TENSORS) and parts[:-1] == (CHECKPOINT,):
            yield from _checked(checkpoints.problem_in, file, "that part of the training is repeated")
        elif parts != (LOSSES_FILE,) and not is_temporary(file.name) and DAMAGED_SUFFIX not in file.suffixes:
            yield _foreign(file)


# --- the teacher cache ------------------------------------------------------------------------------------------------


def _of_cache(cache: Path) -> Iterator[Finding]:
    """The findings in the teacher cache."""
    for file in _files(cache):
        check = _check_of(file.relative_to(cache).parts)
        if check is not None:
            yield from _checked(check, file, "the teacher computes it again")
        elif not is_temporary(file.name):
            yield _foreign(file)


def _check_of(parts: tuple[str, ...]) -> Callable[[Path], str | None] | None:
    """What checks a file of the teacher cache, by the parts of its path there; None for a file that is foreign."""
    match parts:
        case (name,) if name.endswith(sample_store.SUFFIX):
            return tensor_files.problem_in
        case (folder, name) if folder == facts.FOLDER and name.endswith(".json"):
            return facts.problem_in
        case (folder, _, name) if folder == sample_outputs.FOLDER and name.endswith(sample_store.SUFFIX):
            return sample_store.problem_in
    return None


# --- any file ---------------------------------------------------------------------------------------------------------


def _of_names(search_dir: Path) -> Iterator[Finding]:
    """The findings in the names of files: what was set aside, and what does not belong there."""
    folders = trial_directories(search_dir)
    trials = search_dir / TRIALS
    of_trials = {path.name for path in (*folders, *misplaced_files(search_dir))}
    expected = {search_dir: _IN_SEARCH, trials: of_trials}
    for folder in (search_dir, trials, *folders):
        for path in sorted(folder.iterdir()) if folder.exists() else ():
            if DAMAGED_SUFFIX in path.suffixes:
                yield Finding(path, "was set aside", _DISK, "delete it if you do not need it", harmless=True)
            elif not is_temporary(path.name) and path.name not in expected.get(folder, _IN_TRIAL):
                yield _foreign(path)


def _foreign(path: Path) -> Finding:
    return Finding(path, "does not belong to a search", _DISK, "delete it if you do not need it", harmless=True)


def _checked(check: Callable[[Path], str | None], file: Path, cost: str) -> Iterator[Finding]:
    """The finding in a file that may be removed, if there is one."""
    try:
        problem = check(file)
    except FileNotFoundError:  # a process that is at work may have removed it
        return
    except OSError as error:
        yield Finding(file, _unreadable(error), cost, "change its permissions")
        return
    if problem is not None:
        yield Finding(file, f"cannot be used ({problem})", cost, _REMOVED, partial(remove, file))


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _unreadable(error: OSError) -> str:
    return f"cannot be read ({error.strerror or error})"
