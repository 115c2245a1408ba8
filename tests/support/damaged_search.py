"""A search of the command line in which every kind of file occurs, damaged and used again."""

from __future__ import annotations

import contextlib
import logging
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from commands import configure
from damage import (
    FILE_DAMAGES,
    FOLDER_DAMAGES,
    Damage,
    bound_by_permissions,
    kind_of,
    make_readable,
    results_of,
)
from interruptions import Killed, count_steps
from safetensors.torch import load_file
from saved_teachers import BERT, NAMED, save_teacher, write_csv

from autodistill import AutoDistillation, SearchResult
from autodistill.cli.setup import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import AutoDistillationError
from autodistill.export.huggingface_folder import export_folder
from autodistill.search.trial import Trial, TrialState

ORIGINAL = Path("original")

TRIALS = 4
"""Of the search that is damaged; the space has eight architectures."""

STEPS = 5
"""Of the training of a trial, those of flash distillation included."""

RESTORABLE = ("unreadable", "read-only")
"""Damages that `make_readable` undoes."""


class DamagedSearch:
    """A search in the working directory, of which copies are damaged one file at a time.

    It has complete trials, a paused one, and one that was killed in its regular distillation. A damage ends with one
    of these outcomes: `unchanged`, `recovered` (with a warning), `student refused` (it or its tokenizer), `trial lost`,
    and `refused` (the whole directory, until the damage is undone).
    """

    def __init__(self) -> None:
        teacher = save_teacher(Path("teacher"), "BertForSequenceClassification", **BERT, **NAMED)
        config = configure("text-classification", teacher, write_csv(Path("train.csv")))
        config["auto_distillation"]["checkpoint_steps"] = 1
        settings = {"promote": "1/2", "max_trials": TRIALS, "search_algorithm": "Random", "seed": 0}
        config["auto_distillation"]["search"] |= settings
        Path("search.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        agent = search_in(ORIGINAL)
        agent.search_loop()
        _begin_another()
        self.count = len(SearchResult.load(ORIGINAL))
        self.best = agent.search_result.best
        self.weights = agent.best_model().state_dict()
        self.outcomes: Counter[tuple[str, str, str]] = Counter()  # by the kind of file, the damage, and the outcome
        self.expected = _whole_space()

    def cases(self) -> list[tuple[Path, str]]:
        """Each file and folder with each of its damages."""
        paths = sorted(path.relative_to(ORIGINAL) for path in ORIGINAL.rglob("*"))
        found = [(path, name) for path in paths for name in damages_of(ORIGINAL / path)]
        return [case for case in found if case != (Path("trials"), "deleted")]  # nothing is left

    def check(self, path: Path, name: str, seed: int) -> str:
        """Damage a copy, use and resume it, and count the outcome; raises an error for a wrong result."""
        directory = Path("work/copy")
        shutil.rmtree("work", ignore_errors=True)
        shutil.copytree(ORIGINAL, directory)
        agent, warnings = search_in(directory), _Warnings()
        logging.getLogger("autodistill").addHandler(warnings)
        try:
            with bound_by_permissions(Path("work")) if name in RESTORABLE else contextlib.nullcontext():
                damages_of(directory / path)[name](directory / path, np.random.default_rng(seed))
                outcome = self._use(agent)
        finally:
            logging.getLogger("autodistill").removeHandler(warnings)
            make_readable(directory)
        if outcome == "refused" and name in RESTORABLE:  # nothing is lost once it is restored
            assert self._use(agent) == "recovered"
        if outcome == "recovered" and not warnings.count:
            outcome = "unchanged"
        self.outcomes[kind_of(path), name, outcome] += 1
        return outcome

    def _use(self, agent: AutoDistillation) -> str:
        """Read, export and resume."""
        directory, student_refused, refused = agent.search_dir, False, False
        out = directory.parent / "out"
        shutil.rmtree(out, ignore_errors=True)
        try:
            student = agent.best_model()
            best = agent.search_result.best
            if best.architecture == self.best.architecture:
                state = student.state_dict()
                assert all(torch.equal(state[name], tensor) for name, tensor in self.weights.items())
            export_folder(directory, best, out)
            exported = load_file(out / "model.safetensors")
            assert best.architecture != self.best.architecture or exported.keys() <= self.weights.keys()
        except AutoDistillationError:
            student_refused = True
        try:
            agent.search_loop(n_trials=1)
        except AutoDistillationError:
            refused = True
        if refused:
            return "refused"
        result = SearchResult.load(directory)
        for trial in result:
            if trial.state is TrialState.COMPLETE:
                assert results_of(trial) == results_of(self.expected[str(trial.architecture)])
        assert self.count <= len(result) <= self.count + 1
        assert not result.failed
        if len(result) == self.count:
            return "trial lost"
        return "student refused" if student_refused else "recovered"


def search_in(directory: Path) -> AutoDistillation:
    """The search of the command line, in a directory."""
    return SearchSetup(CommandConfig.load(Path("search.yaml"))).search(directory, show_progress_bar=False)


def _begin_another() -> None:
    """Begin one more trial, and end in its regular distillation like a kill, after a checkpoint."""
    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
        count_steps(patch, die_at=STEPS - 1)
        search_in(ORIGINAL).search_loop(n_trials=1)
    running = SearchResult.load(ORIGINAL)[-1]
    assert running.state is TrialState.RUNNING
    assert list((ORIGINAL / "trials" / f"{running.number:06d}").glob("checkpoint/*/regular.safetensors"))


def damages_of(path: Path) -> Mapping[str, Damage]:
    """The damages of a file or folder."""
    damages = FOLDER_DAMAGES if path.is_dir() else FILE_DAMAGES
    empty = path.is_file() and not path.stat().st_size
    return {
        name: damage for name, damage in damages.items() if not empty or name in ("deleted", "a folder", *RESTORABLE)
    }


def _whole_space() -> dict[str, Trial]:
    """What each architecture of the space ends with."""
    shutil.copytree(ORIGINAL, "reference")
    for promote in (0.999, None):  # first all are evaluated after flash distillation, then all are finished
        agent = search_in(Path("reference"))
        search = agent.config.the_search().with_changes(promote=promote, max_trials=None)
        agent.config = agent.config.with_changes(search=search)
        agent._proposals.search = search
        agent.search_loop()
    return {str(trial.architecture): trial for trial in agent.search_result}


class _Warnings(logging.Handler):
    """Counts the warnings."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += record.levelno >= logging.WARNING
