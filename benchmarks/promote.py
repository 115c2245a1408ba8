"""The time that `promote` saves in the digits search, and the rank correlation of early metrics with final ones.

    python benchmarks/promote.py [--trials 24]

Two searches propose the same architectures at random: one finishes every trial, the other a third of them. Both train
the stem of a student with its first block, and the head as a last block: after flash distillation a student must be
able to classify, or its metrics cannot be ranked. A third search distils only the blocks, and shows the ranks with an
untrained head. Times are CPU times of a whole search, including its evaluations.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import machine, print_table, write_results
from scipy.stats import kendalltau, spearmanr
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from digits import CONFIG, SPACE, TEACHER, VisionTransformer, accuracy, get_teacher, load_data

from autodistill import AutoDistillation, Metric, SearchResult

SHARE = 1 / 3
FLASH, REGULAR = CONFIG["flash_distillation"], CONFIG["regular_distillation"]
RESAMPLINGS = 2000


def block_names(student: nn.Module) -> list[Any]:
    """The blocks, the stem with the first of them, and the head."""
    blocks = [f"blocks.{index}" for index in range(len(student.blocks))]
    return [("stem", blocks[0]), *blocks[1:], ("norm", "head")]


def mappings(student: nn.Module, teacher: nn.Module) -> list[Any]:
    """Block i of n learns from block ceil((i + 1) m / n) - 1 of m, the head from the head."""
    count, teacher_count = len(student.blocks), len(teacher.blocks)
    pairs = [(f"blocks.{i}", f"blocks.{-(-(i + 1) * teacher_count // count) - 1}") for i in range(count)]
    return [[pair] for pair in [*pairs, ("head", "head")]]


def search(
    directory: Path,
    promote: float | None,
    trials: int,
    scores: Callable[[nn.Module], dict[str, float]],
    blocks: Mapping[str, Any],
    **options: Any,
) -> tuple[SearchResult, float]:
    """Run a search; return its result and CPU seconds; `blocks` are settings of flash distillation."""
    metrics = [Metric("accuracy"), Metric("cross_entropy", greater_is_better=False, measured=True)]
    begin = time.process_time()
    AutoDistillation(
        lambda architecture: VisionTransformer(**architecture),
        {
            "search": {
                "search_space": SPACE,
                "search_algorithm": "Random",
                "metrics": metrics,
                "max_trials": trials,
                "promote": promote,
                "seed": 0,
            },
            "flash_distillation": FLASH | blocks,
            "regular_distillation": REGULAR,
        },
        eval_func=scores,
        search_dir=directory,
        show_progress_bar=False,
        device="cpu",
        **options,
    ).search_loop()
    return SearchResult.load(directory), time.process_time() - begin


def correlation(early: Sequence[float], late: Sequence[float]) -> dict[str, Any]:
    """Rank correlations, each with the 95% interval of a bootstrap over the architectures."""
    points = np.array([early, late])
    rng = np.random.default_rng(0)
    found = {}
    for name, statistic in (("spearman", spearmanr), ("kendall", kendalltau)):
        drawn = (points[:, rng.integers(points.shape[1], size=points.shape[1])] for _ in range(RESAMPLINGS))
        resampled = [statistic(*sample).statistic for sample in drawn if np.ptp(sample, axis=1).all()]
        low, high = np.percentile(resampled, [2.5, 97.5])
        found[name] = {"value": float(statistic(*points).statistic), "interval": [float(low), float(high)]}
    return found


def main() -> None:
    """Print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--teacher", type=Path, default=Path("runs/digits-teacher.safetensors"), help="made if missing")
    arguments = parser.parse_args()
    described = machine()
    loader, test = load_data()
    teacher = get_teacher(loader, arguments.teacher)
    images, labels = test.tensors

    def scores(student: nn.Module) -> dict[str, float]:
        loss = nn.functional.cross_entropy(student(images), labels)
        return {"accuracy": accuracy(student, test), "cross_entropy": float(loss)}

    options = {"teacher_model": teacher, "train_dataloader": loader}
    with tempfile.TemporaryDirectory() as directory:
        folder, count = Path(directory), arguments.trials
        with_head = {"block_names": block_names, "layer_mappings_for_knowledge_transfer": mappings}
        whole, whole_seconds = search(folder / "whole", None, count, scores, with_head, **options)
        rungs, rungs_seconds = search(folder / "rungs", SHARE, count, scores, with_head, **options)
        headless, _ = search(folder / "headless", 0.5 / count, count, scores, {}, **options)
    assert [trial.architecture for trial in whole] == [trial.architecture for trial in rungs]
    assert all(trial.metrics == whole[trial.number].metrics for trial in rungs.completed)

    pairs = {}
    for early, late in (("accuracy", "accuracy"), ("cross_entropy", "cross_entropy"), ("cross_entropy", "accuracy")):
        sign = 1 if early == late else -1
        values = [sign * trial.after_flash[early] for trial in rungs]
        pairs[f"{early} after flash, {late} in the end"] = correlation(values, [t.metrics[late] for t in whole])
    pairs["the same accuracies, the head as it was built"] = correlation(
        [trial.after_flash["accuracy"] for trial in headless], [trial.metrics["accuracy"] for trial in whole]
    )
    print_table(
        f"rank correlation over {len(whole)} architectures, 95% intervals",
        ["metrics", "Spearman", "Kendall"],
        [[name, *(_shown(found[kind]) for kind in ("spearman", "kendall"))] for name, found in pairs.items()],
    )
    best = {name: result.best for name, result in (("all finished", whole), ("promote=1/3", rungs))}
    seconds = {"all finished": whole_seconds, "promote=1/3": rungs_seconds}
    finished = {"all finished": len(whole.completed), "promote=1/3": len(rungs.completed)}
    print_table(
        f"the search; the teacher's accuracy is {accuracy(teacher, test):.4f}",
        ["search", "finished", "CPU s", "best accuracy", "architecture"],
        [
            [name, finished[name], f"{seconds[name]:.0f}", f"{trial.metrics['accuracy']:.4f}", trial.architecture]
            for name, trial in best.items()
        ],
    )
    position = sorted(-trial.metrics["accuracy"] for trial in whole).index(-best["promote=1/3"].metrics["accuracy"])
    print(f"CPU time saved: {1 - rungs_seconds / whole_seconds:.0%}; best with promote is number {position + 1} of all")
    write_results(
        "promote",
        {
            "machine": described,
            "teacher": TEACHER,
            "flash_distillation": FLASH,
            "regular_distillation": REGULAR,
            "correlations": pairs,
            "saved": 1 - rungs_seconds / whole_seconds,
            "searches": {
                name: {
                    "finished": finished[name],
                    "cpu_seconds": seconds[name],
                    "best": trial.architecture,
                    "metrics": trial.metrics,
                }
                for name, trial in best.items()
            },
            "place_of_the_best": position + 1,
            "trials": [
                {
                    "architecture": one.architecture,
                    "after_flash": two.after_flash,
                    "after_flash_with_the_head_as_built": three.after_flash,
                    "metrics": one.metrics,
                }
                for one, two, three in zip(whole, rungs, headless, strict=True)
            ],
        },
    )


def _shown(found: dict[str, Any]) -> str:
    low, high = found["interval"]
    return f"{found['value']:.2f} [{low:.2f}, {high:.2f}]"


if __name__ == "__main__":
    main()
