"""Mistakes in the set-up of a search that can be found before a trial runs, one sentence each."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from autodistill.config import AutoDistillationConfig, SearchConfig
from autodistill.files import directory_problem
from autodistill.metrics.built_in import BUILT_IN, needing
from autodistill.remote_files import RemoteFiles
from autodistill.search.layout import SEARCH_FILE, holds_search
from search_spaces import SearchSpaceError

KEEP = ("pareto", "all", "none")


class Inputs(Protocol):
    """The hooks and data of a search, as `AutoDistillation` holds them; any may be missing or invalid."""

    model_builder: Any
    train_func: Any
    eval_func: Any
    loss_func: Any
    train_dataloader: Any
    example_batch: Any
    history_from: Any


class ConfiguredInputs(Inputs, Protocol):
    """The hooks and data of a search, with its configuration."""

    config: AutoDistillationConfig

    @property
    def has_teacher(self) -> bool:
        """Whether there is a teacher, loaded or not."""

    @property
    def process_count(self) -> int:
        """The number of processes that train together."""


def argument_problems(search: Inputs, callbacks: Any, keep: Any) -> Iterator[str]:
    """The mistakes in the arguments of `AutoDistillation`, each checked on its own.

    Args:
        search: its hooks and data.
        callbacks: a list of functions.
        keep: which students are kept.
    """
    required = {"model_builder": True, "train_func": False, "eval_func": False, "loss_func": True}
    for name, needed in required.items():
        value = getattr(search, name)
        if not (callable(value) or (value is None and not needed)):
            yield f"{name} must be a function, but got {value!r}."
    if search.train_dataloader is not None and not isinstance(search.train_dataloader, Iterable):
        yield f"train_dataloader must be iterable, but got {type(search.train_dataloader).__name__}."
    if not isinstance(callbacks, list | tuple) or not all(map(callable, callbacks)):
        yield f"callbacks must be a list of functions (search, trial), but got {callbacks!r}."
    if keep not in KEEP:
        yield f"keep must be one of {', '.join(map(repr, KEEP))}, but got {keep!r}."
    history = search.history_from
    if not isinstance(history, list | tuple) or not all(isinstance(directory, str | Path) for directory in history):
        yield f"history_from must be a list of search directories, but got {history!r}."


def count_problems(counts: Mapping[str, tuple[Any, int]]) -> list[str]:
    """The mistakes in whole numbers by name, each passed as `(value, least value)`."""
    return [
        f"{name} must be a whole number of at least {least}, but got {value!r}."
        for name, (value, least) in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]


def size_problems(sizes: Mapping[str, Any]) -> list[str]:
    """The mistakes in sizes in GiB by name."""
    return [
        f"{name} must be a finite size in GiB, zero or more, but got {value!r}."
        for name, value in sizes.items()
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf
    ]


def duration_problems(durations: Mapping[str, Any]) -> list[str]:
    """The mistakes in times in seconds by name; None is no limit."""
    return [
        f"{name} must be a positive number of seconds, of {threading.TIMEOUT_MAX:.0f} at most, but got {value!r}."
        for name, value in durations.items()
        if value is not None
        and (not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value <= threading.TIMEOUT_MAX)
    ]


def folder_problems(folders: Mapping[str, Any]) -> list[str]:
    """The mistakes in the paths of directories by name; None is the default."""
    problems = {name: directory_problem(path) for name, path in folders.items() if path is not None}
    return [f"{name} {problem}." for name, problem in problems.items() if problem is not None]


def storage_problems(storage: Any) -> list[str]:
    """What is wrong with the place for checkpoints and students, before it is reached; None is the search directory."""
    if storage is None or isinstance(storage, RemoteFiles) or (isinstance(storage, str) and "://" in storage):
        return []
    return [
        f"storage must be a URL such as 's3://bucket/folder', or RemoteFiles, but got {storage!r}; for a local folder, "
        "leave it out."
    ]


def limit_problems(n_trials: Any, timeout: Any, patience: Any) -> list[str]:
    """The mistakes in the limits of `search_loop`, one sentence each; None is no limit."""
    counts = {"n_trials": (n_trials, 0), "patience": (patience, 1)}
    problems = count_problems({name: limit for name, limit in counts.items() if limit[0] is not None})
    if timeout is not None and (not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout >= 0):
        problems.append(f"timeout must be a number of seconds, zero or more, but got {timeout!r}.")
    return problems


def finish_problems(search: ConfiguredInputs, train_steps: Any) -> list[str]:
    """What prevents a student from being finished with this number of steps, one sentence each.

    Args:
        search: the search.
        train_steps: None for those that are configured.
    """
    problems = [] if train_steps is None else count_problems({"train_steps": (train_steps, 1)})
    if search.process_count > 1:
        problems.append(
            f"a single student is finished by one process, but {search.process_count} run; start it without accelerate."
        )
    return problems


def block_problems(search: ConfiguredInputs) -> list[str]:
    """What prevents workers from training the blocks of one student at the same time."""
    flash = search.config.flash_distillation
    if flash is not None and flash.inputs == "teacher":
        return []
    found = "there is no flash_distillation" if flash is None else f"flash_distillation.inputs is {flash.inputs!r}"
    return [
        "workers train the blocks of one student at the same time only if these are fed by the teacher, but "
        f"{found}; set inputs: teacher, or leave executor and workers out."
    ]


def slice_problems(search: ConfiguredInputs, n_trials: Any, limits: Mapping[str, Any]) -> list[str]:
    """What prevents the choice of a slice under limits, one sentence each.

    Args:
        search: the search.
        n_trials: how many more slices are evaluated.
        limits: the limits by the name of a metric.
    """
    problems = count_problems({"n_trials": (n_trials, 0)})
    names = [metric.name for metric in search.config.the_search().metrics]
    if search.config.elastic is None:
        problems.append(
            "for_limit chooses among slices of an elastic student, but the search has none; configure elastic."
        )
    if not limits:
        problems.append(f"for_limit needs a limit, but there is none; set one of {', '.join(names)}.")
    for name, limit in limits.items():
        if name not in names:
            problems.append(f"a limit must be that of a metric of the search, but {name!r} is not in {names}.")
        elif not isinstance(limit, int | float) or isinstance(limit, bool) or not math.isfinite(limit):
            problems.append(f"a limit must be a finite number, but {name} is {limit!r}.")
    return problems


def set_up_problems(inputs: ConfiguredInputs, *, counts_trials: bool) -> Iterator[str]:
    """What is missing or contradictory in the set-up, one sentence each.

    Args:
        inputs: the configuration, and the hooks and data for it.
        counts_trials: `max_trials` determines when the search ends.
    """
    config = inputs.config
    search = config.the_search()
    names = [metric.name for metric in search.metrics]
    own = [name for name in names if name not in BUILT_IN]
    if not names:
        yield "search.metrics must name at least one metric, but none is given; name what eval_func returns."
    if inputs.eval_func is None and own:
        yield (
            f"eval_func must return {', '.join(map(repr, own))}, but there is no eval_func; pass one, or search "
            f"for built-in metrics only ({', '.join(BUILT_IN)})."
        )
    if inputs.train_func is not None and config.init is not None:
        yield "init belongs to the built-in distillation, but there is a train_func; leave one of them out."
    yield from _elastic_problems(inputs)
    yield from _promotion_problems(inputs)
    if inputs.train_func is None:
        needed = {"teacher_model": inputs.has_teacher, "train_dataloader": inputs.train_dataloader is not None}
        for name, present in needed.items():
            if not present:
                yield f"the built-in distillation needs {name}, but there is none; pass it, or a train_func."
    if not inputs.has_teacher:
        for metric in needing("teacher", names):
            yield (
                f"the metric {metric.name!r} compares with the teacher, but there is no teacher_model; "
                f"use {metric.alternative!r}."
            )
    timed = [metric.name for metric in needing("example", names)]
    if timed and inputs.train_dataloader is None and inputs.example_batch is None:
        yield f"measuring {', '.join(timed)} needs a batch: pass example_batch or train_dataloader."
    for directory in inputs.history_from:
        if not holds_search(Path(directory)):
            yield f"history_from names directories of earlier searches, but {directory} holds none (no {SEARCH_FILE})."
    yield from _space_problems(search, counts_trials)


def _elastic_problems(inputs: ConfiguredInputs) -> Iterator[str]:
    config = inputs.config
    if config.elastic is None:
        return
    if inputs.train_func is not None:
        yield "elastic belongs to the built-in distillation, but there is a train_func; leave one of them out."
    if config.flash_distillation is not None:
        yield (
            "students of an elastic search start as slices, which takes the place of flash distillation, but "
            "flash_distillation is configured; leave one of them out."
        )
    if config.init is not None and config.init.weights != "all":
        yield (
            "an elastic student starts inside the teacher with all weights, but init.weights is "
            f"{config.init.weights!r}; leave it out."
        )


def _promotion_problems(inputs: ConfiguredInputs) -> Iterator[str]:
    config = inputs.config
    if config.the_search().promote is None:
        return
    if inputs.train_func is not None:
        yield "promote runs between the phases of the built-in distillation, but there is a train_func; drop one."
        return
    first = () if config.elastic is not None else ("flash_distillation",)
    for phase in (*first, "regular_distillation"):
        if getattr(config, phase) is None:
            yield (
                "promote evaluates trials after flash_distillation, or as slices of an elastic student, and finishes "
                f"the best by regular_distillation, but there is no {phase}; add it, or leave promote out."
            )


def _space_problems(search: SearchConfig, counts_trials: bool) -> Iterator[str]:
    try:
        search.search_space.ensure_feasible()
    except SearchSpaceError as error:
        yield str(error)
        return
    if counts_trials and search.max_trials is None and not search.search_space.is_finite:
        yield (
            "max_trials=None tries every architecture of the space, but the space has infinitely many; set max_trials, "
            "pass n_trials, or list the values of every FloatRange."
        )
