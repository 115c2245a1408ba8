"""Students that start inside a teacher of a custom family: a table describes where its weights are.

    python examples/own_family.py

The teacher is a plain `nn.TransformerEncoder` over the eight rows of a digit. AutoDistillation does not know its
family, so the table `ENCODER` names the modules that read and write its residual stream. The students of the search
then start in the principal subspace of that stream.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

from autodistill import AutoDistillation
from autodistill.models.families import Attention, Family, FeedForward, HeadSizes, Output
from autodistill.models.weights import Part

CHANNELS = 8  # of each head


class RowEncoder(nn.Module):
    """Digits (N, 8, 8) to logits (N, 10); every row is a token."""

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.positions = nn.Parameter(torch.randn(1, 8, width) / 10)
        heads = width // CHANNELS
        layer = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, depth)
        self.head = nn.Linear(width, 10)

    def forward(self, digits: torch.Tensor) -> torch.Tensor:
        """Logits (N, 10)."""
        return self.head(self.encoder(self.rows(digits) + self.positions).mean(dim=1))


def head_sizes(model: nn.Module) -> HeadSizes:
    """The heads of a teacher or a student."""
    attention = model.encoder.layers[0].self_attn
    return HeadSizes(attention.num_heads, attention.num_heads, attention.head_dim)


ENCODER = Family(
    blocks="encoder.layers",
    parts=(
        Attention(
            Part("self_attn.in_proj", 0, of=3),  # queries, keys and values are stacked in one weight
            Part("self_attn.in_proj", 1, of=3),
            Part("self_attn.in_proj", 2, of=3),
            output="self_attn.out_proj",
            norm="norm1",
        ),
        FeedForward(("linear1",), output="linear2", norm="norm2"),
    ),
    embeddings=("rows", "positions"),
    norm_position="after",
    outputs=(Output("head"),),
    heads=head_sizes,
)


def load_data() -> tuple[list[tuple[torch.Tensor, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]:
    """Training batches, and the digits and labels that accuracy is measured on."""
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32) / 16, torch.tensor(digits.target)
    return list(zip(images[:1280].split(64), labels[:1280].split(64), strict=True)), (images[1280:], labels[1280:])


def train(model: nn.Module, batches: list[tuple[torch.Tensor, torch.Tensor]], epochs: int) -> nn.Module:
    """Train a model on the labels."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for inputs, targets in batches:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs), targets).backward()
            optimizer.step()
    return model.eval()


def main() -> None:
    """Train the teacher, search, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--search-dir", type=Path, default=Path("runs/own-family"))
    parser.add_argument("--steps", type=int, default=60, help="of each phase of the distillation")
    parser.add_argument("--trials", type=int, default=2)
    arguments = parser.parse_args()

    batches, (images, labels) = load_data()

    @torch.no_grad()
    def evaluate(model: nn.Module) -> dict[str, float]:
        return {"accuracy": (model(images).argmax(1) == labels).float().mean().item()}

    torch.manual_seed(0)
    teacher = train(RowEncoder(64, 4), batches, epochs=15)
    print(f"The teacher's accuracy is {evaluate(teacher)['accuracy']:.3f}.")
    agent = AutoDistillation(
        lambda architecture: RowEncoder(**architecture),
        {
            "search": {
                "search_space": {"width": [16, 32], "depth": [2, 4]},
                "metrics": ["accuracy"],
                "max_trials": arguments.trials,
            },
            "flash_distillation": {"train_steps": arguments.steps, "inputs": "teacher"},
            "regular_distillation": {"train_steps": arguments.steps},
            "init": {"family": ENCODER},
        },
        teacher_model=teacher,
        train_dataloader=batches,
        eval_func=evaluate,
        search_dir=arguments.search_dir,
    )
    best = agent.search_loop()
    accuracy = evaluate(agent.best_model())["accuracy"]
    print(f"The best student, {best}, has an accuracy of {accuracy:.3f}.")


if __name__ == "__main__":
    main()
