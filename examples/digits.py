"""Distil a vision transformer that reads handwritten digits into small, fast students.

    python examples/digits.py [--search-dir runs/digits] [--trials 10]

Trains a teacher on scikit-learn's digits (1,797 real images of 8 x 8 pixels), searches depth, width, heads and
feed-forward width of the student for accuracy, latency and parameters, distils each student block by block and then as
a whole, prints the results, and saves the best student. Run it again to resume.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from rich.console import Console
from safetensors.torch import load_model, save_model
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autodistill import AutoDistillation, BayesianAdvisor, Metric, SearchSpace, measure, results_table

BATCH_SIZE = 64
TEACHER = {"depth": 4, "width": 128, "heads": 4, "feed_forward": 512}
SPACE = SearchSpace(
    {"depth": [1, 2, 3, 4], "width": [24, 32, 48, 64], "heads": [2, 3, 4], "feed_forward": [48, 96, 128]},
    constraints=["width % heads == 0", "feed_forward >= width"],
)
CONFIG = {
    "search": {
        "search_space": SPACE,
        "max_trials": 10,
        "seed": 0,
    },
    "flash_distillation": {"train_steps": 100, "learning_rate": 3e-3},
    "regular_distillation": {"train_steps": 240, "learning_rate": 3e-3, "temperature": 2.0},
}


class VisionTransformer(nn.Module):
    """A vision transformer for grey images (N, 1, 8, 8) and 10 classes: a convolutional stem, 16 patches of 2 x 2."""

    def __init__(self, depth: int, width: int, heads: int, feed_forward: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width // 2, 3, padding=1), nn.GELU(), nn.Conv2d(width // 2, width, kernel_size=2, stride=2)
        )
        self.positions = nn.Parameter(0.02 * torch.randn(16, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width, heads, feed_forward, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        tokens = self.stem(images).flatten(2).transpose(1, 2) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens.mean(dim=1)))


class NoisyDigits(TensorDataset):
    """Images with fresh random noise each time they are read."""

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image, label = super().__getitem__(index)
        return image + 0.1 * torch.randn_like(image), label


def load_data() -> tuple[DataLoader, TensorDataset]:
    """A loader of training batches, and the test set: 3 to 1, the same split every time."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16  # (1797, 1, 8, 8) in [0, 1]
    labels = torch.tensor(digits.target)
    train, test = train_test_split(range(len(labels)), test_size=0.25, random_state=0, stratify=digits.target)
    loader = DataLoader(NoisyDigits(images[train], labels[train]), BATCH_SIZE, shuffle=True, drop_last=True)
    return loader, TensorDataset(images[test], labels[test])


@torch.no_grad()
def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """The share of test images that the model classifies correctly."""
    images, labels = test.tensors
    return (model(images).argmax(dim=1) == labels).float().mean().item()


def train_teacher(loader: DataLoader, epochs: int = 18) -> nn.Module:
    """Train the teacher from scratch."""
    torch.manual_seed(0)
    teacher = VisionTransformer(**TEACHER)
    steps = epochs * len(loader)
    optimizer = torch.optim.AdamW(teacher.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=3e-3, total_steps=steps, pct_start=0.2)
    for _ in range(epochs):
        for images, labels in loader:
            loss = nn.functional.cross_entropy(teacher(images), labels)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(teacher.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return teacher.eval()


def get_teacher(loader: DataLoader, path: Path) -> nn.Module:
    """The trained teacher, loaded from `path` if an earlier run saved it there."""
    if path.exists():
        teacher = VisionTransformer(**TEACHER)
        load_model(teacher, path)
        return teacher.eval()
    teacher = train_teacher(loader)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_model(teacher, str(path))
    return teacher


def main() -> None:
    """Train or load the teacher, search, print, save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--search-dir", type=Path, default=Path("runs/digits"))
    parser.add_argument("--trials", type=int, default=CONFIG["search"]["max_trials"])
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 100))
    start = time.perf_counter()

    loader, test = load_data()
    console.print("Training the teacher, a vision transformer, on 1,347 images of handwritten digits ...")
    teacher = get_teacher(loader, arguments.search_dir.with_name(arguments.search_dir.name + "-teacher.safetensors"))
    teachers_accuracy = accuracy(teacher, test)
    console.print(f"Its accuracy on 450 others is {teachers_accuracy:.1%} ({time.perf_counter() - start:.0f} s).")

    # The best student loses at most two percentage points of accuracy.
    metrics = [Metric("accuracy", at_least=round(teachers_accuracy - 0.02, 4)), "latency", "parameters"]
    agent = AutoDistillation(
        lambda architecture: VisionTransformer(**architecture),
        CONFIG | {"search": CONFIG["search"] | {"max_trials": arguments.trials, "metrics": metrics}},
        teacher_model=teacher,
        train_dataloader=loader,
        eval_func=lambda student: {"accuracy": accuracy(student, test)},
        search_dir=arguments.search_dir,
        advisor=BayesianAdvisor(SPACE, initial=5),  # the search is short: it starts with five random proposals
        device="cpu",
    )
    before = len(agent.search_result)
    if before:
        console.print(f"{arguments.search_dir} holds {before} trials of this search: resuming.")
    agent.search_loop()

    if agent.best_model_arch is None:
        console.print("No student is within two points of the teacher yet: run it again with more --trials.")
        return
    best = agent.best_model()
    compared = measure(best, ["speedup", "latency", "parameters"], example=next(iter(loader)), teacher=teacher)
    timing = compared.details["latency"]["teacher"]["median_ms"]
    size = sum(parameter.numel() for parameter in teacher.parameters())
    console.print(
        results_table(
            agent.search_result, {"accuracy": teachers_accuracy, "latency": timing, "parameters": float(size)}
        )
    )
    path = arguments.search_dir.with_name(arguments.search_dir.name + "-best.safetensors")
    save_model(best, str(path))
    console.print(
        f"The best student, {agent.best_model_arch}, reads {accuracy(best, test):.1%} of the test images with 1/"
        f"{size / compared.metrics['parameters']:.0f} of the teacher's parameters, {compared.metrics['speedup']:.1f} "
        f"times as fast. Saved as {path} ({time.perf_counter() - start:.0f} s in all)."
    )


if __name__ == "__main__":
    main()
