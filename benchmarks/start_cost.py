"""The cost of starting inside the teacher, without the teacher's pass: `python benchmarks/start_cost.py`, two minutes.

MiniLM (6 x 384) and students of four blocks. The teacher's stream is cached before, since training needs it anyway. The
costs of a search (decomposing the stream, measuring the importance of heads and neurons) and of each student (writing
its weights, fitting its norms or writers) are timed separately, in alternation, in CPU seconds of one thread; memory is
the highest increase of the resident set.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import Timing, in_turns, machine, print_table, write_results
from start_tasks import TASKS

from autodistill.batch import Batch
from autodistill.config.initialization import InitializationConfig
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.initialization.initializer import TeacherInitializer

TRIAL = 40.0  # CPU seconds
WIDTHS = (64, 128, 256)
DEPTH = 4


def main() -> None:
    """Time everything in alternation, print the table and write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    description = machine()
    task = TASKS["minilm"]()
    batches = [Batch(batch) for batch in task.train[: InitializationConfig().batches]]
    with tempfile.TemporaryDirectory() as directory:
        cache = TeacherCache(task.teacher, Path(directory))

        def initializer(**settings: Any) -> TeacherInitializer:
            made = InitializationConfig(**task.init, **settings)
            return TeacherInitializer(made, task.teacher, batches, cache)

        students = {width: task.student(DEPTH, width, 0).eval() for width in WIDTHS}
        for fitted in ("norms", "all"):  # from here on, all features of the teacher are in the cache
            initializer(least_squares=fitted).start(students[WIDTHS[0]])

        def decomposing() -> Callable[[], object]:
            fresh = initializer()
            return lambda: fresh.subspace(students[WIDTHS[0]])

        def starting(width: int, **settings: Any) -> Callable[[], Callable[[], object]]:
            def prepare() -> Callable[[], object]:
                known = initializer(**settings)
                known.start(students[width])
                return lambda: known.start(students[width])

            return prepare

        def first() -> Callable[[], object]:
            known = initializer(importance="activations", least_squares="none")
            known.subspace(students[WIDTHS[0]])
            return lambda: known.start(students[WIDTHS[0]])

        variants: dict[str, Callable[[], Callable[[], object]]] = {
            "a search: the stream decomposed": decomposing,
            f"its first student, width {WIDTHS[0]}: importance measured, weights written": first,
        }
        for width in WIDTHS:
            variants[f"a student, width {width}: weights written"] = starting(width, least_squares="none")
            variants[f"a student, width {width}: norms fitted too (default)"] = starting(width, least_squares="norms")
            variants[f"a student, width {width}: norms and writers fitted"] = starting(width, least_squares="all")
        timings = in_turns(variants, arguments.repetitions)
    print_table(
        f"Starting inside MiniLM, medians of {arguments.repetitions}",
        ["what", "CPU s", f"of a trial of {TRIAL:g} s", "memory, MiB"],
        [_row(name, timing) for name, timing in timings.items()],
    )
    rows = {name: timing.to_json() for name, timing in timings.items()}
    print("written to", write_results("start_cost", {"machine": description, "trial_seconds": TRIAL, "rows": rows}))


def _row(name: str, timing: Timing) -> list[str]:
    peak = "" if timing.peak_mib is None else f"{timing.peak_mib:.0f}"
    return [name, f"{timing.cpu_median:.2f}", f"{timing.cpu_median / TRIAL:.1%}", peak]


if __name__ == "__main__":
    main()
