"""What a search directory gives: its trials, the best of them, and their trained students."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from autodistill.config import SearchConfig
from autodistill.errors import ConfigurationError
from autodistill.frameworks.student_files import load_student
from autodistill.search.layout import SEARCH_FILE, student_directory
from autodistill.search.result import SearchResult
from autodistill.search.trial import Trial, TrialState
from autodistill.search.trial_runner import TrialRunner
from search_spaces import Architecture


def ensure_has_student(trial: Trial) -> None:
    """Refuse a trial that has no trained student, kept or not.

    Raises:
        ConfigurationError: it is paused, or was added.
    """
    if trial.state is TrialState.PAUSED:
        raise ConfigurationError(
            f"a student is kept once its trial is complete, but trial {trial.number} is paused after flash "
            "distillation; resume the search with a larger promote, or without it."
        )
    if trial.details.get("added"):
        raise ConfigurationError(
            f"a student is kept where it was trained, but trial {trial.number} was run elsewhere and added; take that "
            "of another trial."
        )


class Results:
    """The part of a search that looks at what it found; a base of `AutoDistillation`."""

    search_dir: Path
    _search: SearchConfig

    @property
    def _runner(self) -> TrialRunner:
        raise NotImplementedError

    @property
    def search_result(self) -> SearchResult:
        """All trials of the search directory, in order."""
        if not (self.search_dir / SEARCH_FILE).exists():
            return SearchResult([], self._search.metrics)
        return SearchResult.load(self.search_dir)

    @property
    def best_model_arch(self) -> Architecture | None:
        """The best architecture so far; None while no trial is feasible."""
        best = self.search_result.best
        return None if best is None else best.architecture

    @property
    def best_model_archs(self) -> list[Architecture]:
        """The architectures of the Pareto front."""
        return [trial.architecture for trial in self.search_result.pareto_front]

    def best_model(self) -> nn.Module:
        """The best trained student, in eval mode on the device.

        Raises:
            ConfigurationError: there is none, or students are not kept.
        """
        best = self.search_result.best
        if best is None:
            raise ConfigurationError(
                f"best_model needs a feasible trial, but {self.search_dir} holds none; "
                "run search_loop, or relax the bounds."
            )
        return self.load_model(best)

    def load_model(self, trial: Trial) -> nn.Module:
        """The trained student of a trial, in eval mode on the device.

        Raises:
            ConfigurationError: it was not kept, or its trial is paused or was added.
        """
        directory = student_directory(self.search_dir, trial.number)
        ensure_has_student(trial)
        if not directory.exists():
            raise ConfigurationError(
                f"a student must have been kept to be loaded, but that of trial {trial.number} was not; search with "
                "keep='all', or take one of the Pareto front (unless keep='none')."
            )
        return load_student(self._runner.build(trial.architecture), directory)
