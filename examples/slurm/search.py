"""A search whose trials are SLURM jobs: digits, read by a small network.

    python examples/slurm/search.py [--cluster slurm] [--workers 8] [--trials 16] [--search-dir runs/slurm]

`--cluster local` runs the jobs as processes of this computer, to see that everything works. Run it again to resume.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import submitit
import torch
from sklearn.datasets import load_digits
from submitit_executor import SubmititExecutor
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autodistill import AutoDistillation, results_table

JOB = {"timeout_min": 60, "cpus_per_task": 2, "mem_gb": 8}
"""Of each job; for GPUs add `gpus_per_node`, and `slurm_partition` as your cluster has it."""


def build(sizes: dict[str, int]) -> nn.Module:
    """A network of some hidden layers of equal width."""
    layers: list[nn.Module] = []
    width = 64
    for _ in range(sizes["depth"]):
        layers += [nn.Linear(width, sizes["width"]), nn.ReLU()]
        width = sizes["width"]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def main() -> None:
    """Train the teacher, search, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cluster", default="slurm", choices=["slurm", "local"])
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--search-dir", type=Path, default=Path("runs/slurm"))
    arguments = parser.parse_args()

    digits = load_digits()
    images, labels = torch.tensor(digits.data, dtype=torch.float32) / 16, torch.tensor(digits.target)
    loader = DataLoader(TensorDataset(images[:1300], labels[:1300]), 64, shuffle=True)
    torch.manual_seed(0)
    teacher = build({"depth": 3, "width": 256})
    optimizer = torch.optim.Adam(teacher.parameters())
    for _ in range(10):
        for batch, targets in loader:
            optimizer.zero_grad()
            nn.functional.cross_entropy(teacher(batch), targets).backward()
            optimizer.step()

    def accuracy(student: nn.Module) -> dict[str, float]:
        return {"accuracy": (student(images[1300:]).argmax(1) == labels[1300:]).float().mean().item()}

    jobs = submitit.AutoExecutor(folder=arguments.search_dir.with_name("jobs"), cluster=arguments.cluster)
    jobs.update_parameters(**JOB)
    agent = AutoDistillation(
        build,
        {
            "search": {
                "search_space": {"depth": [1, 2, 3], "width": [8, 16, 32, 64]},
                "metrics": ["accuracy", "parameters"],
                "max_trials": arguments.trials,
            },
            "regular_distillation": {"train_steps": 200, "learning_rate": 3e-3},
        },
        teacher_model=teacher,
        train_dataloader=loader,
        eval_func=accuracy,
        search_dir=arguments.search_dir,
    )
    agent.search_loop(executor=SubmititExecutor(jobs), workers=arguments.workers)
    print(results_table(agent.search_result).title)


if __name__ == "__main__":
    main()
