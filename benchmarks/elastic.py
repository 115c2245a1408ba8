"""Students as slices of elastic students, against the same architectures trained alone.

    python benchmarks/elastic.py [--tasks minilm digits gpt2 llama] [--seeds 3] [--report]

Each architecture of a space is trained alone for a budget of CPU seconds (40 on MiniLM), from its start inside the
teacher, with the teacher's outputs cached: all of them with one seed, a third with all seeds, and, on MiniLM, some
with four times the budget. The elastic students of the space are trained once for every seed, in about a fifth of the
time of all runs alone; their slices are evaluated as they are, and after a quarter of the budget of regular
distillation.

The cost of a step of each architecture is measured first, on a quiet machine, and kept; budgets are converted into
numbers of steps by these costs, so that the results do not depend on what else runs. Rows that the result file has are
not computed again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import machine, read_results, write_results
from elastic_report import report
from elastic_tasks import TASKS, Architecture, ElasticTask
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.training import NoReport, TrainingContext

FEW, MORE = 3, 11
"""Steps; the difference of their times is the cost of the others."""

FINISHING_RATE = 5e-4
"""The learning rate with which slices are finished: the default of elastic searches."""

ELASTIC_STEPS = {"minilm": 5000, "digits": 1500, "gpt2": 600, "llama": 600}
"""The steps of the elastic students, which take about this share; their measured cost is reported."""


def name_of(architecture: Architecture) -> str:
    """The name of an architecture in tables: its values."""
    return "x".join(map(str, architecture.values()))


@dataclass
class Bench:
    """Trains the students of one task.

    Attributes:
        task: the task.
        directory: of the teacher's features and of elastic students, which all runs share.
    """

    task: ElasticTask
    directory: Path
    _filled: set[int] = field(default_factory=set)

    @property
    def architectures(self) -> list[Architecture]:
        """All architectures of the space."""
        return [
            dict(zip(self.task.space, values, strict=True)) for values in itertools.product(*self.task.space.values())
        ]

    @property
    def some(self) -> list[Architecture]:
        """Those with the smallest feed-forward layers, which are run with several seeds."""
        least = min(self.task.space["feed_forward"])
        return [one for one in self.architectures if one["feed_forward"] == least]

    @property
    def mixed(self) -> list[Architecture]:
        """One architecture for each width and depth, with all sizes of feed-forward layers."""
        space = self.task.space
        pairs = itertools.product(range(len(space["width"])), range(len(space["depth"])))
        return [
            {
                "width": space["width"][i],
                "depth": space["depth"][j],
                "feed_forward": space["feed_forward"][(i + j) % len(space["feed_forward"])],
            }
            for i, j in pairs
        ]

    def distiller(self, steps: int, seed: int, rate: float | None = None, **sections: Any) -> Distiller:
        """A distiller for these steps of regular distillation, by default with the learning rate of the task."""
        task = self.task
        train = task.task.train
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed)).tolist()
        space = {name: list(values) for name, values in task.space.items()}
        config = AutoDistillationConfig.load(
            {
                "search": {"search_space": space, "metrics": ["score"], "seed": seed},
                "regular_distillation": {
                    "train_steps": steps,
                    "learning_rate": rate or task.learning_rate,
                    **task.task.regular,
                },
                "init": dict(task.task.init),
                **sections,
            }
        )
        elastic = self.directory / f"elastic-{seed}"
        elastic.mkdir(parents=True, exist_ok=True)
        distiller = Distiller(
            task.task.teacher,
            config,
            [train[number] for number in order],
            torch.device("cpu"),
            Storage(self.directory, teacher_cache_gb=16, activation_budget_gb=10, elastic=elastic),
            build=task.build,
        )
        self._fill(distiller, seed)
        return distiller

    def _fill(self, distiller: Distiller, seed: int) -> None:
        """Compute everything of the teacher that is kept for all students of a search."""
        if seed in self._filled:
            return
        self._filled.add(seed)
        student = self.student(self.architectures[0], seed)
        plan = distiller.resolve(student)
        read = distiller.stream.reader()
        for number in range(len(self.task.task.train)):
            distiller.cache.outputs(read(number), plan.stages[-1].teacher_taps)
        distiller.cache.flush()

    def student(self, architecture: Architecture, seed: int) -> nn.Module:
        """An untrained student."""
        torch.manual_seed(seed)
        return self.task.build(architecture).eval()

    def alone(self, architecture: Architecture, steps: int, seed: int) -> tuple[nn.Module, float]:
        """Train a student alone; return it with the CPU seconds."""
        distiller = self.distiller(steps, seed)
        distiller.initialize(self.student(architecture, seed), distiller.resolve(self.student(architecture, seed)))
        student = self.student(architecture, seed)
        start = time.process_time()
        distiller.train(student, TrainingContext(seed))
        return student.eval(), time.process_time() - start

    def costs(self, architecture: Architecture) -> tuple[float, float]:
        """The CPU seconds of the start of a student, and of a step."""
        few = min(self.alone(architecture, FEW, 0)[1] for _ in range(2))
        more = min(self.alone(architecture, MORE, 0)[1] for _ in range(2))
        step = (more - few) / (MORE - FEW)
        return max(0.0, few - FEW * step), step

    def score(self, student: nn.Module) -> float:
        """The score of a student on held-out data."""
        return self.task.task.score(student.eval())


def run_alone(bench: Bench, found: dict[str, Any], seeds: int) -> Iterator[None]:
    """Train every architecture alone; yields after each result."""
    costs, budget = found.setdefault("costs", {}), bench.task.budget
    for architecture in bench.architectures:
        if name_of(architecture) not in costs:
            costs[name_of(architecture)] = bench.costs(architecture)
            sizes = found.setdefault("parameters", {})
            sizes[name_of(architecture)] = sum(one.numel() for one in bench.student(architecture, 0).parameters())
            yield
    rows = found.setdefault("alone", [])
    plan = [(one, budget, 0) for one in bench.architectures]
    plan += [(one, budget, seed) for seed in range(1, seeds) for one in bench.some]
    plan += [(one, 4 * budget, 0) for one in bench.mixed] if bench.task.task.name == "minilm" else []
    known = {(name_of(row["architecture"]), row["budget"], row["seed"]) for row in rows}
    for architecture, seconds, seed in plan:
        if (name_of(architecture), seconds, seed) not in known:
            start, step = costs[name_of(architecture)]
            steps = max(1, int((seconds - start) / step))
            student, cpu = bench.alone(architecture, steps, seed)
            row = {"architecture": dict(architecture), "budget": seconds, "seed": seed, "steps": steps}
            rows.append({**row, "score": bench.score(student), "cpu_seconds": cpu})
            yield


def run_plain(bench: Bench, found: dict[str, Any], seeds: int) -> Iterator[None]:
    """Train every architecture alone from random weights, with half the learning rate, which suits them."""
    rows, budget = found.setdefault("plain", []), bench.task.budget
    known = {name_of(row["architecture"]) for row in rows}
    for architecture in bench.architectures:
        if name_of(architecture) not in known:
            steps = max(1, int(budget / found["costs"][name_of(architecture)][1]))
            distiller = bench.distiller(steps, 0, rate=bench.task.learning_rate / 2, init=None)
            student = bench.student(architecture, 0)
            distiller.train(student, TrainingContext(0))
            row = {"architecture": dict(architecture), "budget": budget, "seed": 0, "steps": steps}
            rows.append({**row, "score": bench.score(student)})
            yield


def run_elastic(bench: Bench, found: dict[str, Any], seeds: int) -> Iterator[None]:
    """Train the elastic students of each seed, and evaluate every slice; yields after each seed."""
    rows = found.setdefault("elastic", [])
    settings = {"train_steps": ELASTIC_STEPS[bench.task.task.name.split("-")[0]]}
    for seed in range(seeds):
        if any(row["seed"] == seed for row in rows):
            continue
        distiller = bench.distiller(1, seed, elastic=settings)
        start = time.process_time()
        distiller.prepare(NoReport())
        trained = time.process_time() - start
        scores = {}
        start = time.process_time()
        students = {name_of(one): bench.student(one, seed) for one in bench.architectures}
        for student in students.values():
            distiller.elastic.write(student)
        extracted = time.process_time() - start
        scores = {name: bench.score(student) for name, student in students.items()}
        rows.append({"seed": seed, **settings, "training": trained, "extraction": extracted, "scores": scores})
        yield


def run_finished(bench: Bench, found: dict[str, Any], seeds: int) -> Iterator[None]:
    """Finish the mixed slices of the first seed in a quarter of the budget; yields after each."""
    rows, costs = found.setdefault("finished", []), found["costs"]
    known = {(name_of(row["architecture"]), row["seed"]) for row in rows}
    for architecture, seed in ((one, 0) for one in bench.mixed):
        if (name_of(architecture), seed) in known:
            continue
        steps = max(1, int(bench.task.budget / 4 / costs[name_of(architecture)][1]))
        row = next(row for row in found["elastic"] if row["seed"] == seed)
        elastic = {"train_steps": row["train_steps"]}
        distiller = bench.distiller(steps, seed, rate=FINISHING_RATE, elastic=elastic)
        student = bench.student(architecture, seed)
        distiller.train(student, TrainingContext(seed))
        rows.append({"architecture": dict(architecture), "seed": seed, "steps": steps, "score": bench.score(student)})
        yield


def main() -> None:
    """Run what is missing, write after every result, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--parts", nargs="+", default=["alone", "elastic", "finished"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path("runs/elastic"), help="of the teacher's features")
    parser.add_argument("--results", default="elastic", help="the name of the result file")
    parser.add_argument("--report", action="store_true", help="print the tables of the result file, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs = {"alone": run_alone, "elastic": run_elastic, "finished": run_finished, "plain": run_plain}
    results = read_results(arguments.results) or {"machine": machine(), "tasks": {}}
    for name in () if arguments.report else arguments.tasks:
        bench = Bench(TASKS[name](), arguments.directory / name)
        found = results["tasks"].setdefault(name, {"metric": bench.task.task.metric, "budget": bench.task.budget})
        found["greater_is_better"] = bench.task.task.greater_is_better
        for part in arguments.parts:
            for _ in runs[part](bench, found, arguments.seeds):
                write_results(arguments.results, results)
                rows: Sequence[Any] = found.get(part, [])
                print(json.dumps(rows[-1]) if rows else part, flush=True)
    report(results)


if __name__ == "__main__":
    main()
