"""A search over the width of a linear layer, which is not trained: its score is its width."""

from __future__ import annotations

from torch import nn

from autodistill import (
    Advisor,
    AutoDistillation,
    Observation,
    SearchResult,
)

WIDTHS = [1, 2, 3, 4, 5, 6]


class Recording(Advisor):
    """Records the last history that it received; proposes the narrowest new architecture."""

    last: tuple[Observation, ...] = ()

    def suggest(self, history, *, seed):
        type(self).last = tuple(history)
        tried = [observation.architecture for observation in history]
        return next(architecture for architecture in self.space.enumerate() if architecture not in tried)


def search(directory, *, widths=WIDTHS, metrics=("score",), max_trials=6, score=lambda width: width, **arguments):
    return AutoDistillation(
        lambda architecture: nn.Linear(architecture["width"], 1),
        {"search": {"search_space": {"width": widths}, "metrics": list(metrics), "max_trials": max_trials}},
        **{
            "train_func": lambda student: student,
            "eval_func": lambda student: {"score": score(student.in_features), "other": 1.0},
            "search_dir": directory,
            "device": "cpu",
            "show_progress_bar": False,
            "advisor": Recording,
        }
        | arguments,
    )


def widths_of(directory):
    return [trial.architecture["width"] for trial in SearchResult.load(directory)]
