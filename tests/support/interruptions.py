"""Support for tests that kill searches and compare the results."""

from __future__ import annotations

import torch
from safetensors.torch import load_file

from autodistill import SearchResult
from autodistill.distillation.step_loop import StepLoop


class Killed(BaseException):
    """Ends a search like a kill; the search must not catch it."""


def outcomes(search_dir):
    """The results that must not depend on interruptions: trials, metrics, losses, and weights of students."""
    result = SearchResult.load(search_dir)
    trials = [(t.number, t.architecture, t.state, t.metrics, t.after_flash, t.details["distillation"]) for t in result]
    weights = [load_file(t.directory / "student/model.safetensors") for t in result.completed]
    return trials, weights


def assert_same_outcomes(left, right):
    assert left[0] == right[0]
    for a, b in zip(left[1], right[1], strict=True):
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a)


def count_steps(monkeypatch, *, die_at=None):
    """Counts the optimizer steps of a search, and ends it at one of them."""
    steps = []
    update = StepLoop._update

    def counting(loop, *arguments):
        steps.append(loop.name)
        if len(steps) == die_at:
            raise Killed
        update(loop, *arguments)

    monkeypatch.setattr(StepLoop, "_update", counting)
    return steps
