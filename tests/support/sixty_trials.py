"""A search of 60 trials as a program that can be killed: python sixty_trials.py SEARCH_DIR EXECUTOR WORKERS."""

from __future__ import annotations

import sys
import time

from toy_search import make_config, make_search

from autodistill import SearchResult

TRIALS = 60


def evaluate(student):
    time.sleep(0.3)
    return {"accuracy": -sum(parameter.abs().sum().item() for parameter in student.parameters())}


def make_sixty(search_dir, **arguments):
    space = {"width": list(range(4, 104, 4)), "depth": [1, 2, 3]}
    config = make_config(search_space=space, max_trials=TRIALS)
    config |= {"regular_distillation": {"train_steps": 40}, "checkpoint_steps": 5}
    return make_search(search_dir, config, eval_func=evaluate, **arguments)


def problems_of(search_dir):
    """What is not as it must be after the search, in words."""
    trials = list(SearchResult.load(search_dir))
    found = [f"trial {trial.number} is {trial.state}" for trial in trials if trial.state != "complete"]
    architectures = {tuple(trial.architecture.items()) for trial in trials}
    if (len(trials), len(architectures)) != (TRIALS, TRIALS):
        found.append(f"{len(trials)} trials of {len(architectures)} architectures")
    students = list(search_dir.glob("trials/*/student/model.safetensors"))
    if len(students) != TRIALS:
        found.append(f"{len(students)} students")
    return found + [f"{folder} is left" for folder in search_dir.glob("trials/*/checkpoint")]


if __name__ == "__main__":
    make_sixty(sys.argv[1]).search_loop(executor=sys.argv[2], workers=int(sys.argv[3]))
