"""A search's set-up: what can be known to be wrong before a trial runs, and what a resumed search is compared with."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.config import AutoDistillationConfig, SearchConfig
from autodistill.distiller import Distiller
from autodistill.environment import describe_environment
from autodistill.metrics.built_in import BUILT_IN, needing
from autodistill.models.fingerprint import model_fingerprint
from autodistill.models.taps import process_name
from autodistill.search.layout import SEARCH_FILE
from search_spaces import SearchSpaceError

KEEP = ("pareto", "all", "none")


@dataclass(frozen=True)
class Given:
    """What the user gave beside the configuration; anything may be missing or wrong."""

    model_builder: Any
    train_func: Any
    eval_func: Any
    loss_func: Any
    teacher_model: Any
    train_dataloader: Any
    example_batch: Any
    history_from: Any


def argument_problems(
    given: Given, callbacks: Any, keep: Any, counts: dict[str, Any], sizes: dict[str, Any]
) -> list[str]:
    """What is wrong with the arguments of `AutoDistillation` by themselves, a sentence each.

    Args:
        given: models, data and functions.
        callbacks: a list of functions.
        keep: which students stay.
        counts: whole numbers by name, each with its least value, as `(value, least)`.
        sizes: sizes in GiB by name.
    """
    problems = [
        f"{name} must be a function, but got {value!r}."
        for name, value, needed in (
            ("model_builder", given.model_builder, True),
            ("train_func", given.train_func, False),
            ("eval_func", given.eval_func, False),
            ("loss_func", given.loss_func, True),
        )
        if not (callable(value) or (value is None and not needed))
    ]
    if given.teacher_model is not None and not isinstance(given.teacher_model, nn.Module):
        problems.append(f"teacher_model must be an nn.Module, but got {given.teacher_model!r}; load the model first.")
    if given.train_dataloader is not None and not isinstance(given.train_dataloader, Iterable):
        problems.append(f"train_dataloader must be iterable, but got {type(given.train_dataloader).__name__}.")
    if not isinstance(callbacks, list | tuple) or not all(map(callable, callbacks)):
        problems.append(f"callbacks must be a list of functions (search, trial), but got {callbacks!r}.")
    if keep not in KEEP:
        problems.append(f"keep must be one of {', '.join(map(repr, KEEP))}, but got {keep!r}.")
    history = given.history_from
    if not isinstance(history, list | tuple) or not all(isinstance(place, str | Path) for place in history):
        problems.append(f"history_from must be a list of search directories, but got {history!r}.")
    problems += _count_problems(counts)
    for name, value in sizes.items():
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < math.inf:
            problems.append(f"{name} must be a finite size in GiB, zero or more, but got {value!r}.")
    return problems


def limit_problems(n_trials: Any, timeout: Any, patience: Any) -> list[str]:
    """What is wrong with the limits that `search_loop` is given, a sentence each; None is no limit."""
    counts = {"n_trials": (n_trials, 0), "patience": (patience, 1)}
    problems = _count_problems({name: limit for name, limit in counts.items() if limit[0] is not None})
    if timeout is not None and (not isinstance(timeout, int | float) or isinstance(timeout, bool) or not timeout >= 0):
        problems.append(f"timeout must be a number of seconds, zero or more, but got {timeout!r}.")
    return problems


def _count_problems(counts: Mapping[str, tuple[Any, int]]) -> list[str]:
    return [
        f"{name} must be a whole number of at least {least}, but got {value!r}."
        for name, (value, least) in counts.items()
        if not isinstance(value, int) or isinstance(value, bool) or value < least
    ]


def set_up_problems(config: AutoDistillationConfig, given: Given, *, counts_trials: bool) -> Iterator[str]:
    """What is missing or does not go together, a sentence each.

    Args:
        config: what is searched, and how students are trained.
        given: what there is for it.
        counts_trials: `max_trials` decides when the search ends.
    """
    search = config.the_search()
    names = [metric.name for metric in search.metrics]
    own = [name for name in names if name not in BUILT_IN]
    if not names:
        yield "search.metrics must name at least one metric, but none is given; name what eval_func returns."
    if given.eval_func is None and own:
        yield (
            f"eval_func must return {', '.join(map(repr, own))}, but there is no eval_func; give one, or search "
            f"for built-in metrics only ({', '.join(BUILT_IN)})."
        )
    if given.train_func is not None and config.init is not None:
        yield "init belongs to the built-in distillation, but there is a train_func; leave one of them out."
    yield from _promotion_problems(config, given)
    if given.train_func is None:
        for name in ("teacher_model", "train_dataloader"):
            if getattr(given, name) is None:
                yield f"the built-in distillation needs {name}, but there is none; give it, or a train_func."
    if given.teacher_model is None:
        for metric in needing("teacher", names):
            yield (
                f"the metric {metric.name!r} compares with the teacher, but there is no teacher_model; "
                f"use {metric.alternative!r}."
            )
    timed = [metric.name for metric in needing("example", names)]
    if timed and given.train_dataloader is None and given.example_batch is None:
        yield f"measuring {', '.join(timed)} needs a batch: give example_batch or train_dataloader."
    for place in given.history_from:
        if not (Path(place) / SEARCH_FILE).exists():
            yield f"history_from names directories of earlier searches, but {place} holds none (no {SEARCH_FILE})."
    yield from _space_problems(search, counts_trials)


def _promotion_problems(config: AutoDistillationConfig, given: Given) -> Iterator[str]:
    if config.the_search().promote is None:
        return
    if given.train_func is not None:
        yield "promote stands between the phases of the built-in distillation, but there is a train_func; drop one."
        return
    for phase in ("flash_distillation", "regular_distillation"):
        if getattr(config, phase) is None:
            yield (
                f"promote evaluates trials after flash_distillation and finishes the best by regular_distillation, but "
                f"there is no {phase}; add it, or leave promote out."
            )


def _space_problems(search: SearchConfig, counts_trials: bool) -> Iterator[str]:
    try:
        search.search_space.ensure_feasible()
    except SearchSpaceError as error:
        yield str(error)
        return
    size = search.search_space.size
    chosen = "max_trials" in search.model_fields_set
    if counts_trials and chosen and size is not None and search.max_trials > size:
        yield (
            f"max_trials must not exceed the number of architectures, but {search.max_trials} > {size}; "
            f"set it to {size}."
        )


def describe_search(
    config: AutoDistillationConfig,
    *,
    advisor: str,
    distiller: Distiller | None,
    teacher: nn.Module | None,
    device: torch.device,
    processes: int,
) -> dict[str, Any]:
    """What a search is, as JSON; a resumed one is compared with it.

    Args:
        config: its configuration.
        advisor: the name of its advisor.
        distiller: the built-in training; None where the user has their own.
        teacher: hashed.
        device: where it runs.
        processes: how many train together.
    """
    search = config.the_search()
    environment = describe_environment(device)
    training: Any = "train_func"
    if distiller is not None:
        environment["flash_set"] = distiller.flash_set_hash
        sections = {"flash_distillation", "regular_distillation"} | ({"init"} if config.init is not None else set())
        training = config.model_dump(mode="json", include=sections)
        training["loss_func"] = process_name(distiller.loss_func)
    return {
        "space": search.search_space.to_json(),
        "advisor": advisor,
        "metrics": [metric.to_json() for metric in search.metrics],
        "max_trials": search.max_trials,
        "promote": search.promote,
        "seed": search.seed,
        "distillation": training,
        "teacher": model_fingerprint(teacher) if teacher is not None else None,
        "processes": processes,
        "environment": environment,
    }
