"""Students that start inside their teacher, against the same students from random weights, at equal CPU time.

    python benchmarks/teacher_start.py [--tasks minilm digits-128 digits-48 gpt2 llama] [--students 4x128]
                                       [--budgets 40] [--seeds 5] [--learning-rates 1e-3 2e-3] [--variants ...]

Every variant distils the same student for the same CPU time, a part of it (`share`) in flash distillation and the rest
in regular distillation; the teacher's features are cached before (as they are from the second trial of a search), and
the time includes the cost of starting inside the teacher. The number of steps follows from the cost of a step, which is
measured first. The first seed is run with every learning rate, the others with the best one of each variant. Rows that
the result file already has are kept, and not run again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import RESULTS, machine, print_table, write_results
from scipy.stats import t as student_t
from start_tasks import TASKS, Batch, Task
from torch import nn

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.training import StageRecord, TrainingContext

STUDENTS = {"minilm": "4x128", "digits-128": "2x32", "digits-48": "2x32", "gpt2": "2x64", "llama": "2x64"}
FEW, MORE = 4, 12  # steps; the difference of their times is the cost of the others
BATCHES = 200  # maximum of the flash set, for which the teacher's stream is cached


@dataclass(frozen=True)
class Variant:
    """One way to initialize and train a student.

    Attributes:
        init: settings of the start inside the teacher; None for random weights.
        flash: the source of the blocks' inputs in flash distillation, `"student"` or `"teacher"`; None to skip it.
        share: the share of the CPU time for flash distillation.
    """

    init: dict[str, Any] | None
    flash: str | None = None
    share: float = 0.0


EMBEDDINGS = {"weights": "embeddings"}
DEFAULT: dict[str, Any] = {}  # by activations; what is fitted depends on the family, see the guide


def chosen_by(importance: str, fitted: str) -> dict[str, Any]:
    """Settings for all first weights: the importance of heads and neurons, and what least squares fits."""
    return {"importance": importance, "least_squares": fitted}


VARIANTS = {
    "random, regular": Variant(None),
    "random, flash, regular": Variant(None, "student", 0.4),
    "embeddings, regular": Variant(EMBEDDINGS),
    "embeddings, subspace, regular": Variant(EMBEDDINGS, "teacher", 0.4),
    "all by weights, regular": Variant(chosen_by("weights", "none")),
    "all by weights, writers fitted, regular": Variant(chosen_by("weights", "all")),
    "all by activations, regular": Variant(chosen_by("activations", "none")),
    "all by activations, norms fitted, regular": Variant(chosen_by("activations", "norms")),
    "all by activations, writers fitted, regular": Variant(chosen_by("activations", "all")),
    "all by default, subspace, regular": Variant(DEFAULT, "teacher", 0.4),
    "all by default, flash, regular": Variant(DEFAULT, "student", 0.4),
}
"""Norms after the residual sum are fitted together with the writers; other norms are not fitted."""


@dataclass(frozen=True)
class Costs:
    """CPU seconds of a step of each phase, and of the work before the first step."""

    regular: float
    flash: float
    fixed: float


@dataclass
class Bench:
    """The runs of one task and one student.

    Attributes:
        task: the task.
        depth: the number of blocks of the student.
        width: the width of the student.
        directory: the directory of the teacher's features, which all runs share.
    """

    task: Task
    depth: int
    width: int
    directory: Path
    _steps: dict[str | None, float] = field(default_factory=dict)
    _fixed: dict[str, float] = field(default_factory=dict)

    def batches(self, seed: int) -> list[Batch]:
        """Batches in the order of the seed: students that start inside their teacher differ in nothing else."""
        order = torch.randperm(len(self.task.train), generator=torch.Generator().manual_seed(seed))
        return [self.task.train[number] for number in order.tolist()]

    def distiller(self, variant: Variant, steps: tuple[int, int], seed: int, rate: float) -> Distiller:
        """A distiller for these numbers of steps of flash and of regular distillation."""
        config: dict[str, Any] = {
            "search": {"search_space": {"width": [self.width]}, "metrics": ["score"], "seed": seed},
            "regular_distillation": {
                "train_steps": steps[1],
                "learning_rate": rate,
                **self.task.regular,
            },
        }
        if variant.init is not None:
            config["init"] = {**self.task.init, **variant.init}
        if variant.flash is not None:
            config["flash_distillation"] = {
                "inputs": variant.flash,
                "automatic_mapping": "blocks",
                "train_steps": steps[0],
                "learning_rate": rate,
            }
        return Distiller(
            self.task.teacher,
            AutoDistillationConfig.load(config),
            self.batches(seed),
            torch.device("cpu"),
            Storage(self.directory, teacher_cache_gb=16, activation_budget_gb=10),
        )

    def timed(
        self, variant: Variant, steps: tuple[int, int], seed: int = 0, rate: float = 1e-3
    ) -> tuple[nn.Module, float, Sequence[StageRecord]]:
        """Distil a student; return it with the CPU seconds and the records of the stages."""
        distiller = self.distiller(variant, steps, seed, rate)
        self._fill_cache(distiller, variant, steps, seed)
        student = self.task.student(self.depth, self.width, seed).eval()
        start = time.process_time()
        records = distiller.train(student, TrainingContext(seed)).stages
        return student.eval(), time.process_time() - start, records

    def _fill_cache(self, distiller: Distiller, variant: Variant, steps: tuple[int, int], seed: int) -> None:
        """All features of the teacher that any variant reads."""
        student = self.task.student(self.depth, self.width, seed).eval()
        if variant.init is not None:
            self.distiller(variant, (1, 1), seed, 1e-3).train(student, TrainingContext(seed))
        plan = distiller.resolve(student)
        for batch in distiller.flash_set.batches if variant.flash is not None else ():
            distiller.cache.features(batch, plan.teacher_taps)
        read = distiller.stream.reader()
        for number in range(min(steps[1], len(self.task.train))):
            distiller.cache.features(read(number), plan.stages[-1].teacher_taps)

    def costs(self, name: str) -> Costs:
        """The costs of a variant. A step costs all variants the same, and is measured once, as a median of three."""
        variant = VARIANTS[name]
        for kind in {None, variant.flash} - {*self._steps}:
            self._steps[kind] = statistics.median(self._step_cost(kind) for _ in range(3))
        regular, flash = self._steps[None], self._steps[variant.flash] if variant.flash is not None else 0.0
        if name not in self._fixed:
            least = min(self.timed(variant, (FEW, FEW))[1] for _ in range(2))
            self._fixed[name] = max(0.0, least - FEW * (regular + flash))
        return Costs(regular, flash, self._fixed[name])

    def _step_cost(self, flash: str | None) -> float:
        """The seconds of a step of flash distillation, or of regular distillation if `flash` is None."""
        variant = Variant(None if flash is None else DEFAULT, flash, 0.4)
        steps = (MORE, FEW) if flash is not None else (FEW, MORE)
        return (self.timed(variant, steps)[1] - self.timed(variant, (FEW, FEW))[1]) / (MORE - FEW)

    def run(self, name: str, budget: float, seed: int, rate: float) -> dict[str, Any]:
        """Run a variant for a budget of CPU seconds, with one learning rate; return a row."""
        variant, costs = VARIANTS[name], self.costs(name)
        flash_steps = FEW
        if variant.flash is not None:
            flash_steps = min(BATCHES, int(variant.share * (budget - costs.fixed) / costs.flash))
        rest = budget - costs.fixed - flash_steps * costs.flash
        steps = flash_steps, max(1, int(rest / costs.regular))
        student, cpu, records = self.timed(variant, steps, seed, rate)
        return {
            "task": self.task.name,
            "student": f"{self.depth}x{self.width}",
            "variant": name,
            "budget": budget,
            "seed": seed,
            "learning_rate": rate,
            "score": self.task.score(student),
            "metric": self.task.metric,
            "greater_is_better": self.task.greater_is_better,
            "cpu_seconds": cpu,
            "fixed_seconds": costs.fixed,
            "flash_steps": steps[0] if variant.flash else 0,
            "regular_steps": steps[1],
            "losses": {record.stage: [record.first_loss, record.last_loss] for record in records},
        }


Row = dict[str, Any]


def setting(row: Row) -> tuple[str, str, str, float]:
    """The key that runs share if they differ only in seed and learning rate."""
    return row["task"], row["student"], row["variant"], row["budget"]


def best_rate(rows: Sequence[Row]) -> float:
    """The learning rate with the best score of the first seed, among rows of one setting."""
    first = [row for row in rows if row["seed"] == 0]
    sign = 1 if first[0]["greater_is_better"] else -1
    return float(max(first, key=lambda row: sign * row["score"])["learning_rate"])


def report(rows: Sequence[Row], teachers: dict[str, float]) -> None:
    """Print a table for each task and student: variants and budgets, mean and 95% interval over the seeds."""
    by_setting: dict[tuple[str, str, str, float], list[Row]] = {}
    for row in rows:
        by_setting.setdefault(setting(row), []).append(row)
    for task, student in dict.fromkeys((row["task"], row["student"]) for row in rows):
        settings = [key for key in by_setting if key[:2] == (task, student)]
        budgets = sorted({budget for *_, budget in settings})
        known = [name for name in VARIANTS if any(variant == name for _, _, variant, _ in settings)]
        metric = by_setting[settings[0]][0]["metric"]
        print_table(
            f"{task}, student {student}: {metric} (teacher {teachers.get(task, float('nan')):.3f})",
            ["first weights, then", *(f"{budget:g} s" for budget in budgets)],
            [
                [name, *(cell(by_setting.get((task, student, name, budget), [])) for budget in budgets)]
                for name in known
            ],
        )


def cell(alike: Sequence[Row]) -> str:
    """Mean and interval with the best learning rate; empty if there are no runs."""
    if not alike:
        return ""
    rate = best_rate(alike)
    return f"{interval([row['score'] for row in alike if row['learning_rate'] == rate])} at {rate:g}"


def interval(scores: Sequence[float]) -> str:
    """Mean and half width of the 95% interval of the mean."""
    if len(scores) < 2:
        return f"{scores[0]:.3f}"
    half = student_t.ppf(0.975, len(scores) - 1) * statistics.stdev(scores) / len(scores) ** 0.5
    return f"{statistics.mean(scores):.3f} ± {half:.3f} ({len(scores)})"


def main() -> None:
    """Run what is missing, write after every row, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--students", nargs="+", help="depth x width, as 4x128; by default that of the task")
    parser.add_argument("--variants", nargs="+", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--budgets", nargs="+", type=float, default=[40.0], help="CPU seconds")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[1e-3, 2e-3])
    parser.add_argument("--report", action="store_true", help="print the tables of the result file, run nothing")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    path = RESULTS / "teacher_start.json"
    known = json.loads(path.read_text()) if path.exists() else {"rows": [], "teachers": {}}
    rows, teachers = known["rows"], known["teachers"]
    for name in () if arguments.report else arguments.tasks:
        task = TASKS[name]()
        teachers[name] = task.score(task.teacher)
        variants = [variant for variant in arguments.variants if name == "minilm" or "norms" not in variant]
        with tempfile.TemporaryDirectory() as directory:
            for student in arguments.students or [STUDENTS[name]]:
                depth, width = map(int, student.split("x"))
                bench = Bench(task, depth, width, Path(directory))
                for seed, budget, variant in itertools.product(range(arguments.seeds), arguments.budgets, variants):
                    alike = [row for row in rows if setting(row) == (name, student, variant, budget)]
                    rates = arguments.learning_rates if seed == 0 else [best_rate(alike)]
                    for rate in rates:
                        if any((row["seed"], row["learning_rate"]) == (seed, rate) for row in alike):
                            continue
                        rows.append(bench.run(variant, budget, seed, rate))
                        print(json.dumps(rows[-1]), flush=True)
                        write_results("teacher_start", {"machine": machine(), "teachers": teachers, "rows": rows})
    report(rows, teachers)


if __name__ == "__main__":
    main()
