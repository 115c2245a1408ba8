"""Searches for campaigns that kill them or fill their disk: short, untimed, with everything that is written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import toy_search
from toy_search import make_config, make_loader, make_search

Send = Callable[..., None]
"""Reports an event, with named values that are JSON."""

BOUND = {"name": "parameters", "at_most": 3000}
"""Students of width 16 with two or three blocks break it."""


def _search(directory: Path, send: Send, config: dict[str, Any], **arguments: Any) -> Any:
    def evaluate(student: Any) -> dict[str, float]:
        metrics = toy_search.evaluate(student)
        send(evaluated=[student.head.in_features, len(student.layers)])
        return metrics

    search = make_search(directory, config | {"checkpoint_steps": 3}, eval_func=evaluate, **arguments)
    search.enqueue_trial({"width": 12, "depth": 1})
    return search


def promoted(directory: Path, send: Send) -> None:
    """Two rungs, with a bound, an enqueued architecture and patience."""
    config = make_config(metrics=["accuracy", BOUND], promote=1 / 2, max_trials=6)
    _search(directory, send, config).search_loop(patience=4)


def evolving(directory: Path, send: Send) -> None:
    """Every trial is finished, but only students on the front are kept."""
    config = make_config(metrics=["accuracy", BOUND], search_algorithm="Evolution", max_trials=5)
    _search(directory, send, config, keep="pareto").search_loop(patience=3)


def patient(directory: Path, send: Send) -> None:
    """One goal, two rungs, and the end comes by patience; the last students are removed."""
    config = make_config(metrics=["accuracy"], promote="1/3", max_trials=9)
    _search(directory, send, config, keep="pareto").search_loop(patience=2)


def short(directory: Path, send: Send) -> None:
    """Two trials, of which one is finished."""
    config = make_config(metrics=["accuracy", BOUND], promote=1 / 2, max_trials=2)
    config |= {"flash_distillation": {"train_steps": 2}, "regular_distillation": {"train_steps": 4}}
    _search(directory, send, config, train_dataloader=make_loader(16)).search_loop()


SEARCHES = {function.__name__: function for function in (promoted, evolving, patient, short)}
"""By name: each starts its search in a directory, or resumes it there."""
