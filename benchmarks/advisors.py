"""Advisors against Optuna and scikit-optimize: `OMP_NUM_THREADS=1 python benchmarks/advisors.py`.

Finished runs are stored in `benchmarks/results/advisors.json`, and only missing runs are executed: the whole comparison
takes more than an hour on one core, most of it in the Gaussian processes of the libraries. `--again BO` repeats the
runs of a contestant; `--suites`, `--contestants` and `--seeds` choose a subset; `--quick` runs one seed of every suite
on the small space; `--table` only prints. `--seeds 100 110 --results other` repeats the comparison on new instances.

The regret after n trials is (best - minimum) / (median - minimum) of the whole space, without noise. Intervals are
95% confidence intervals of the mean difference to BO over the same instances.
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

import numpy as np  # noqa: E402
from common import RESULTS, machine, print_table, write_results  # noqa: E402
from contestants import CONTESTANTS, skopt_optimizer  # noqa: E402
from functions import KINDS, MIXED, MOBILEBERT, ORDERED, Problem, problem  # noqa: E402
from scipy import stats  # noqa: E402

from advisors import BayesianAdvisor, Observation  # noqa: E402
from search_spaces import SearchSpace  # noqa: E402

MARKS = (20, 30, 60)
TRIALS = max(MARKS)
REPETITIONS = 3  # of each instance, with different seeds; scikit-optimize is too slow for more than one
SINGLE = ("BO", "Optuna TPE", "Optuna GP", "local search", "regularised evolution", "random")
SKOPT = ("skopt gp_hedge", "skopt EI")


@dataclass(frozen=True)
class Suite:
    """A space, a variant of the functions over it, the contestants, and the number of instances of each kind."""

    space: SearchSpace
    variant: str
    contestants: Sequence[str]
    seeds: int


SUITES = {
    "576": Suite(MOBILEBERT, "plain", (*SINGLE, *SKOPT), 10),
    "two metrics": Suite(MOBILEBERT, "two metrics", ("BO", "Optuna TPE", "Optuna NSGA-II", "random"), 10),
    "noisy": Suite(MOBILEBERT, "noisy", SINGLE, 10),
    "constrained": Suite(MOBILEBERT, "constrained", SINGLE, 10),
    "ordered": Suite(ORDERED, "plain", SINGLE, 3),
    "mixed": Suite(MIXED, "plain", SINGLE, 3),
}


@dataclass(frozen=True)
class Task:
    """One contestant on one instance."""

    suite: str
    kind: str
    seed: int
    contestant: str

    @property
    def key(self) -> str:
        return " | ".join((self.suite, self.kind, str(self.seed), self.contestant))

    def run(self) -> dict[str, Any]:
        """Return a row: mean scores at the marks, the number of repeated proposals, seconds for 60 proposals."""
        suite = SUITES[self.suite]
        instance = problem(self.kind, suite.space, self.seed, suite.variant)
        scores, repeats, start = [], 0, time.perf_counter()
        repetitions = 1 if self.contestant in SKOPT else REPETITIONS
        for repetition in range(repetitions):
            positions = CONTESTANTS[self.contestant](instance, TRIALS, self.seed + 1000 * repetition)
            scores.append([_score(instance, positions[:mark]) for mark in MARKS])
            repeats += TRIALS - len(set(positions))
        return {
            "scores": np.mean(scores, axis=0).round(5).tolist(),
            "trials": repetitions * TRIALS,
            "repeats": repeats,
            "seconds": round((time.perf_counter() - start) / repetitions, 2),
        }


def _score(instance: Problem, positions: Sequence[int]) -> float:
    """The score of all trials so far: the hypervolume if there are two objectives, else the regret."""
    return instance.hypervolume(positions) if len(instance.objectives) == 2 else float(instance.regret(positions)[-1])


def tasks(arguments: argparse.Namespace) -> Iterator[Task]:
    """The requested tasks, ordered by contestant: those of this library and the fast ones first."""
    for name in arguments.suites:
        suite = SUITES[name]
        seeds = range(*arguments.seeds) if arguments.seeds else range(1 if arguments.quick else suite.seeds)
        for contestant in suite.contestants:
            if contestant in arguments.contestants:
                for seed in seeds:
                    yield from (Task(name, kind, seed, contestant) for kind in KINDS)


def tables(rows: dict[str, dict[str, Any]]) -> None:
    """Print the means of every suite, in total and by kind, and the paired interval of the difference to BO."""
    for name, suite in SUITES.items():
        found = {key: row for key, row in rows.items() if key.split(" | ")[0] == name}
        lines = [line for contestant in suite.contestants if (line := _line(found, contestant))]
        if lines:
            score = "hypervolume" if suite.variant == "two metrics" else "regret"
            marks = "/".join(map(str, MARKS))
            headers = (name, "runs", f"at {marks}", "minus BO's", *KINDS, "repeats", "s a run")
            print_table(f"{name}: {score}", headers, lines)


def _line(rows: dict[str, dict[str, Any]], contestant: str) -> list[Any]:
    selected = {key: row for key, row in rows.items() if key.split(" | ")[3] == contestant}
    if not selected:
        return []
    kinds = {kind: [row["scores"] for key, row in selected.items() if key.split(" | ")[1] == kind] for kind in KINDS}
    means = [np.mean(scores, axis=0) for scores in kinds.values() if scores]
    seconds = statistics.mean(row["seconds"] for row in selected.values())
    return [
        contestant,
        len(selected),
        _marks(np.mean(means, axis=0)),
        _difference(rows, selected, contestant),
        *(_marks(np.mean(scores, axis=0)) if scores else "" for scores in kinds.values()),
        f"{sum(row['repeats'] for row in selected.values()) / sum(row['trials'] for row in selected.values()):.1%}",
        f"{seconds:.1f}",
    ]


def _difference(rows: dict[str, dict[str, Any]], selected: dict[str, dict[str, Any]], contestant: str) -> str:
    pairs = [
        np.subtract(row["scores"], rows[key.replace(f"| {contestant}", "| BO")]["scores"])
        for key, row in selected.items()
        if key.replace(f"| {contestant}", "| BO") in rows
    ]
    if contestant == "BO" or len(pairs) < 2:
        return ""
    half = stats.sem(pairs, axis=0) * stats.t.ppf(0.975, len(pairs) - 1)
    return "  ".join(f"{mean:+.3f}±{width:.3f}" for mean, width in zip(np.mean(pairs, axis=0), half, strict=True))


def _marks(scores: np.ndarray) -> str:
    return "/".join(f"{score:.3f}" for score in scores)


def proposal_times() -> dict[str, dict[str, float]]:
    """Milliseconds of one proposal after 30, 100 and 300 trials in a space of 10,000 architectures, all scored.

    scikit-optimize fits and samples 10,000 points in one `tell` and the following `ask`, which are timed.
    """
    space = SearchSpace({f"choice_{i}": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512] for i in range(4)})
    table, rng = KINDS["smooth"](space, np.random.default_rng(0)), np.random.default_rng(0)
    everything = list(space.enumerate())
    advisor = BayesianAdvisor(space)
    taken: dict[str, dict[str, float]] = {}
    for count in (30, 100, 300):
        chosen = rng.permutation(len(everything))[:count]
        scored = [(everything[i], float(table[i])) for i in chosen]
        history = [Observation(architecture, "complete", (value,)) for architecture, value in scored]
        advisor.suggest(history, seed=0)  # enumerates the space, once

        optimizer = skopt_optimizer(space, "EI", seed=0, initial=1)
        points = [list(architecture.values()) for architecture, _ in scored]
        optimizer.tell(points[:-1], [value for _, value in scored[:-1]], fit=False)

        def tell_and_ask() -> None:
            optimizer.tell(points[-1], scored[-1][1])  # noqa: B023 called before the next round
            optimizer.ask()  # noqa: B023

        median = statistics.median(_seconds(lambda: advisor.suggest(history, seed=1)) for _ in range(3))  # noqa: B023
        taken[str(count)] = {"BO": round(1000 * median, 1), "skopt EI": round(1000 * _seconds(tell_and_ask), 1)}
        taken[str(count)]["ratio"] = round(taken[str(count)]["skopt EI"] / taken[str(count)]["BO"], 1)
    return taken


def _seconds(function: Callable[[], object]) -> float:
    start = time.perf_counter()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        function()
    return time.perf_counter() - start


def print_times(taken: dict[str, dict[str, float]]) -> None:
    rows = [[trials, *(entry[name] for name in ("BO", "skopt EI", "ratio"))] for trials, entry in taken.items()]
    print_table("milliseconds of a proposal, 10,000 candidates", ("trials", "BO", "skopt EI", "ratio"), rows)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--suites", nargs="+", choices=SUITES, default=list(SUITES))
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS))
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FIRST", "END"), help="instances, END not included")
    parser.add_argument("--again", nargs="+", choices=CONTESTANTS, default=[], help="repeat their finished runs")
    parser.add_argument("--quick", action="store_true", help="one seed, the small space, without scikit-optimize")
    parser.add_argument("--times", action="store_true", help="measure the time of a proposal again")
    parser.add_argument("--table", action="store_true", help="print the stored results")
    parser.add_argument("--results", default="advisors", help="name of the file under benchmarks/results")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.suites = [name for name in arguments.suites if SUITES[name].space is MOBILEBERT]
        arguments.contestants = [name for name in arguments.contestants if name not in SKOPT]
        arguments.results += "-quick"
    return arguments


def main() -> None:
    arguments = parse()
    logging.getLogger("optuna").setLevel(logging.ERROR)
    path = RESULTS / f"{arguments.results}.json"
    results = json.loads(path.read_text()) if path.exists() else {"machine": machine(), "rows": {}}
    rows = results["rows"]
    for key in [key for key in rows if key.split(" | ")[3] in arguments.again]:
        del rows[key]
    todo = [] if arguments.table else [task for task in tasks(arguments) if task.key not in rows]
    for number, task in enumerate(todo, 1):
        rows[task.key] = task.run()
        print(f"{number} of {len(todo)}: {task.key}: {rows[task.key]}", flush=True)
        write_results(arguments.results, results)
    if not arguments.table and not arguments.quick and (arguments.times or "times" not in results):
        results["times"] = proposal_times()
        write_results(arguments.results, results)
    tables(rows)
    if "times" in results:
        print_times(results["times"])


if __name__ == "__main__":
    main()
