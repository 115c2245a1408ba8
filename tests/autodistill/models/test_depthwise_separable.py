"""The depthwise-separable student: its shapes, its size by the formula, and a search among such students of digits."""

from __future__ import annotations

import itertools

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from autodistill import AutoDistillation
from autodistill.models.depthwise_separable import DepthwiseSeparableConv, DepthwiseSeparableStudent
from search_spaces import depthwise_separable_space


def test_each_channel_is_convolved_alone_before_they_are_mixed() -> None:
    torch.manual_seed(0)
    layer = DepthwiseSeparableConv(3, 5, kernel_size=3).eval()
    images = torch.randn(2, 3, 6, 6)
    alone = torch.cat(
        [nn.functional.conv2d(images[:, c : c + 1], layer[0].weight[c : c + 1], padding=1) for c in range(3)], dim=1
    )
    scale = (1 + layer[1].eps) ** -0.5  # of a batch normalisation before its first batch
    mixed = torch.einsum("nchw,dc->ndhw", (scale * alone).relu(), layer[3].weight[:, :, 0, 0])
    torch.testing.assert_close(layer(images), (scale * mixed).relu())


@pytest.mark.parametrize("architecture", list(depthwise_separable_space().enumerate()), ids=str)
def test_every_architecture_of_the_space_is_a_student_of_the_expected_size(architecture) -> None:
    student = DepthwiseSeparableStudent(10, in_channels=1, **architecture)
    assert student(torch.zeros(2, 1, 8, 8)).shape == (2, 10)
    width, depth, side = architecture["width"], architecture["depth"], architecture["kernel_size"]
    channels = [width * 2**number for number in range(depth + 1)]
    expected = width * side**2 + 2 * width + channels[-1] * 10 + 10
    for before, after in itertools.pairwise(channels):
        expected += before * side**2 + 2 * before + before * after + 2 * after
    assert sum(parameter.numel() for parameter in student.parameters()) == expected


def test_a_search_of_such_students_reads_digits(tmp_path) -> None:
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32).unsqueeze(1) / 16
    labels = torch.tensor(digits.target)
    batches = list(zip(images[:1280].split(64), labels[:1280].split(64), strict=True))
    torch.manual_seed(0)
    teacher = DepthwiseSeparableStudent(10, in_channels=1, width=32, depth=2)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=5e-3)
    for inputs, targets in batches * 4:
        optimizer.zero_grad()
        nn.functional.cross_entropy(teacher(inputs), targets).backward()
        optimizer.step()
    agent = AutoDistillation(
        lambda architecture: DepthwiseSeparableStudent(10, in_channels=1, **architecture),
        {
            "search": {
                "search_space": depthwise_separable_space(),
                "search_algorithm": "Random",
                "metrics": ["accuracy", "parameters"],
                "max_trials": 2,
            },
            "regular_distillation": {
                "temperature": 2.0,
                "loss_types": ["CE", "KL"],
                "loss_weights": [0.5, 0.5],
                "train_steps": 60,
                "learning_rate": 1e-2,
            },
        },
        teacher_model=teacher.eval(),
        train_dataloader=batches,
        eval_func=lambda student: {"accuracy": (student(images[1280:]).argmax(1) == labels[1280:]).float().mean()},
        search_dir=tmp_path / "search",
    )
    agent.search_loop()
    assert len(agent.search_result.completed) == 2
    assert max(trial.metrics["accuracy"] for trial in agent.search_result.completed) > 0.7
