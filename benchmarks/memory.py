"""Peak memory of flash distillation with and without a budget: `python benchmarks/memory.py`, about three minutes.

Three blocks of width 512 are distilled over 600 batches; a block's inputs alone take 2.3 GiB. Each run is a
separate process. The resident memory must not exceed that of the models and the data by more than 120% of the budget,
and the weights must be the same.

The allocator of the C library is configured to keep its default threshold of 128 KiB, above which blocks get their own
pages (MALLOC_MMAP_THRESHOLD_). By default glibc raises that threshold, and then keeps the holes that tensors of equal
size leave in its heap, which here take as much memory as the data that are kept.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

import torch  # noqa: E402
from common import machine, peak_memory, print_table, write_results  # noqa: E402
from torch import nn  # noqa: E402

from autodistill.config import AutoDistillationConfig  # noqa: E402
from autodistill.distiller import Distiller, Storage  # noqa: E402
from autodistill.tensors import content_hash  # noqa: E402
from autodistill.training import StageRecord, TrainingContext  # noqa: E402

BATCHES, SAMPLES, WIDTH = 600, 2000, 512
BUDGETS = (64.0, 0.5)  # GiB
HEADERS = ("budget, GiB", "peak, GiB", "peak / budget", "modes", "weights")


class Blocks(nn.Module):
    """Three blocks of one linear layer each on rows of 16 numbers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embedding = nn.Linear(16, width)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(width, width), nn.Tanh()) for _ in range(3))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        hidden = self.embedding(rows)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden


def run(budget: float) -> dict[str, object]:
    """Distil one student as a search does, within a budget."""
    torch.manual_seed(0)
    teacher, student = Blocks(64), Blocks(WIDTH)
    data = [(torch.randn(SAMPLES, 16), torch.zeros(SAMPLES)) for _ in range(BATCHES)]
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [WIDTH]}, "metrics": ["loss"]},
            "flash_distillation": {"train_steps": BATCHES},
        }
    )
    with tempfile.TemporaryDirectory() as directory:
        distiller = Distiller(
            teacher,
            config,
            data,
            torch.device("cpu"),
            Storage(Path(directory) / "teacher_cache", activation_budget_gb=budget),
        )
        records: list[StageRecord] = []
        context = TrainingContext(seed=0, checkpoint_directory=Path(directory) / "trial")
        peak = peak_memory(lambda: records.extend(distiller.train(student, context).stages))
    return {
        "budget_gib": budget,
        "peak_gib": None if peak is None else peak / 1024,
        "modes": sorted({str(record.mode) for record in records}),
        "weights": content_hash(student.state_dict()),
    }


def main() -> None:
    """Run each budget in a separate process, print the table and write it."""
    if len(sys.argv) > 1:
        print(json.dumps(run(float(sys.argv[1]))))
        return
    description = machine()
    rows = []
    for budget in BUDGETS:
        output = subprocess.run(
            [sys.executable, __file__, str(budget)],
            env=os.environ | {"MALLOC_MMAP_THRESHOLD_": str(2**17)},
            check=True,
            capture_output=True,
            text=True,
        )
        rows.append(json.loads(output.stdout.splitlines()[-1]))
    print_table(
        "Peak memory of flash distillation over the models and the data",
        HEADERS,
        [
            [
                row["budget_gib"],
                f"{row['peak_gib']:.2f}",
                f"{row['peak_gib'] / row['budget_gib']:.2f}",
                ", ".join(row["modes"]),
                row["weights"],
            ]
            for row in rows
        ],
    )
    print("the same weights:", rows[0]["weights"] == rows[1]["weights"])
    print("written to", write_results("memory", {"machine": description, "runs": rows}))


if __name__ == "__main__":
    main()
