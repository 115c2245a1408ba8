"""Whole searches with elastic students, and the cost of their trials.

    python benchmarks/elastic_search.py [--parts trials replay]

`replay`: the hypervolume of Spearman correlation and latency over CPU time, of three searches of the 48 architectures
of MiniLM: with elastic students, without them (each trial trains its student alone for 40 CPU seconds), and Optuna's
TPE with a plain distillation loop (students with random weights, cached teacher outputs, 40 CPU seconds). The scores
are those of `elastic.json`, where every architecture was really trained in each of the three ways; the searches are
replayed on them, with their real advisors, over several seeds.

`trials`: the time of a trial of a search with slices (extract, evaluate, record) as the search grows to 500 trials.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
from common import machine, print_table, read_results, write_results
from elastic import name_of
from elastic_tasks import TASKS, Architecture, ElasticTask
from start_tasks import similarities

from advisors.base import Observation
from advisors.registry import as_advisor
from autodistill import AutoDistillation
from search_spaces import SearchSpace

SEEDS = 3
REPETITIONS = 15


def latencies(task: ElasticTask, names: Sequence[Architecture]) -> tuple[dict[str, float], float]:
    """The median latency of each student in milliseconds, and that of the teacher, in turns."""
    models = {name_of(one): task.build(one).eval() for one in names}
    models["teacher"] = task.task.teacher
    batch = {key: value[:1] for key, value in task.task.train[0].items()}
    times: dict[str, list[float]] = {name: [] for name in models}
    with torch.inference_mode():
        for _ in range(REPETITIONS + 2):
            for name, model in models.items():
                start = time.perf_counter()
                model(**batch)
                times[name].append(1000 * (time.perf_counter() - start))
    medians = {name: statistics.median(taken[2:]) for name, taken in times.items()}
    return medians, medians["teacher"]


Point = tuple[float, float]
"""A score, and a latency."""


def hypervolume(points: Sequence[Point], worst: float) -> float:
    """The area that points dominate, up to a score of 0 and the latency `worst`, relative to the whole area."""
    edges = sorted({min(latency, worst) for _, latency in points} | {worst})
    heights = [max((score for score, latency in points if latency <= edge), default=0.0) for edge in edges[:-1]]
    return float(np.dot(np.maximum(heights, 0.0), np.diff(edges))) / worst


def advised(space: SearchSpace, scores: dict[str, float], latency: dict[str, float], seed: int) -> list[str]:
    """The architectures in the order in which the default advisor proposes them."""
    advisor = as_advisor("BO", space)
    history: list[Observation] = []
    for number in range(len(scores)):
        architecture = advisor.suggest(history, seed=1000 * seed + number)
        name = name_of(architecture)
        history.append(Observation(architecture, "complete", (-scores[name], latency[name])))
    return [name_of(observed.architecture) for observed in history]


def by_tpe(space: SearchSpace, scores: dict[str, float], latency: dict[str, float], seed: int) -> list[str]:
    """The architectures in the order in which Optuna's TPE proposes them; a repeated one costs nothing."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sampler = optuna.samplers.TPESampler(seed=seed)
    study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
    order: dict[str, None] = {}

    def objective(trial: optuna.Trial) -> tuple[float, float]:
        values = {key: trial.suggest_categorical(key, list(one.values())) for key, one in space.dimensions.items()}
        name = name_of(values)
        order[name] = None
        return scores[name], latency[name]

    while len(order) < len(scores) and len(study.trials) < 20 * len(scores):
        study.optimize(objective, n_trials=1)
    return list(order)


def curve(events: Sequence[tuple[float, Point]], worst: float) -> list[tuple[float, float]]:
    """The hypervolume after each event, (seconds, hypervolume)."""
    points: list[Point] = []
    found = []
    for seconds, point in events:
        points.append(point)
        found.append((seconds, hypervolume(points, worst)))
    return found


def replay(task: ElasticTask, measured: dict[str, Any]) -> dict[str, Any]:
    """The three searches over several seeds."""
    space = SearchSpace({name: list(values) for name, values in task.space.items()})
    latency, worst = latencies(task, [dict(one) for one in space.enumerate()])
    budget, each = measured["budget"], measured["trial_seconds"]
    tables = {kind: _scores(measured[kind]) for kind in ("alone", "plain", "finished")}
    elastic = measured["elastic"][0]
    curves: dict[str, list[list[tuple[float, float]]]] = {"elastic": [], "alone": [], "TPE, plain": []}
    for seed in range(SEEDS):
        slices, now = elastic["scores"], elastic["training"]
        order = advised(space, slices, latency, seed)
        events = [(now + each * (index + 1), (slices[name], latency[name])) for index, name in enumerate(order)]
        front = [n for n in order if not any(slices[o] > slices[n] and latency[o] <= latency[n] for o in order)]
        front = [n for n in front if n in tables["finished"]]  # a third of the architectures was finished
        now, more = events[-1][0], budget / 4
        events += [(now + more * (i + 1), (tables["finished"][n], latency[n])) for i, n in enumerate(front)]
        curves["elastic"].append(curve(events, worst))
        for kind, orders, key in (("alone", advised, "alone"), ("TPE, plain", by_tpe, "plain")):
            names = orders(space, tables[key], latency, seed)
            taken = [((budget + each) * (i + 1), (tables[key][n], latency[n])) for i, n in enumerate(names)]
            curves[kind].append(curve(taken, worst))
    return {"latency": latency, "curves": curves}


def _scores(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The scores of the first seed, with the shortest budget."""
    shortest = min(row.get("budget", 0.0) for row in rows)
    first = [row for row in rows if not row["seed"] and row.get("budget", 0.0) == shortest]
    return {name_of(row["architecture"]): row["score"] for row in first}


def print_replay(found: dict[str, Any]) -> None:
    """Final hypervolumes, and the time in which each search reaches those of the others."""
    curves = found["curves"]
    goals = {name: statistics.mean(one[-1][1] for one in runs) for name, runs in curves.items()}
    rows = []
    for name, runs in curves.items():
        reached = []
        for goal in goals.values():
            times = [next((seconds for seconds, area in one if area >= goal - 1e-9), None) for one in runs]
            known = [seconds for seconds in times if seconds is not None]
            reached.append(f"{statistics.mean(known):.0f} s ({len(known)}/{len(times)})" if known else "never")
        rows.append([name, f"{goals[name]:.4f}", f"{statistics.mean(one[-1][0] for one in runs):.0f} s", *reached])
    heads = [f"reaches the end of {name!r}" for name in curves]
    print_table("hypervolume of Spearman and latency, mean over the seeds", ["search", "end", "after", *heads], rows)


def trials(task: ElasticTask, count: int) -> dict[str, Any]:
    """The time of each trial of a long search with slices, in CPU seconds."""
    held_out = task.task.train[:4]
    expected = similarities(task.task.teacher, held_out)

    def evaluate(student: torch.nn.Module) -> dict[str, float]:
        return {"error": float((similarities(student, held_out) - expected).square().mean())}

    times: list[float] = [time.process_time()]
    space = {"width": list(range(32, 257, 32)), "depth": [1, 2, 3, 4, 5, 6], "feed_forward": list(range(1, 13))}
    metrics = [{"name": "error", "greater_is_better": False}, "parameters"]
    with tempfile.TemporaryDirectory() as directory:
        agent = AutoDistillation(
            task.build,
            {
                "search": {"search_space": space, "metrics": metrics, "max_trials": count, "seed": 0},
                "regular_distillation": {"train_steps": 1, **task.task.regular},
                "init": dict(task.task.init),
                "elastic": {"train_steps": 16},
            },
            teacher_model=task.task.teacher,
            train_dataloader=task.task.train,
            eval_func=evaluate,
            search_dir=Path(directory) / "search",
            show_progress_bar=False,
            device="cpu",
            callbacks=[lambda search, trial: times.append(time.process_time())],
        )
        agent.search_loop()
    return {"seconds": np.diff(times[: count + 1]).tolist()}


def main() -> None:
    """Run the parts, write the JSON, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", default=["trials", "replay"], choices=["trials", "replay"])
    parser.add_argument("--trials", type=int, default=510)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = TASKS["minilm"]()
    results = read_results("elastic_search") or {"machine": machine()}
    for part in arguments.parts:
        if part == "trials":
            results[part] = trials(task, arguments.trials)
        else:
            measured = read_results("elastic")["tasks"]["minilm"]
            results[part] = replay(task, measured | {"trial_seconds": statistics.median(results["trials"]["seconds"])})
        write_results("elastic_search", results)
    seconds = results["trials"]["seconds"]
    rows = [[number, f"{statistics.median(seconds[number - 5 : number + 5]):.3f}"] for number in (10, 100, 250, 500)]
    print_table("CPU seconds of a trial", ["trial", "median of ten"], rows)
    if "replay" in results:
        print_replay(results["replay"])


if __name__ == "__main__":
    main()
