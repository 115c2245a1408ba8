"""Relational knowledge distillation: the distances and angles between a batch's samples."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.losses import functions as losses
from autodistill.losses.weights_and_temperature import weight_problems


class RelationalLoss(nn.Module):
    """Relational knowledge distillation: the distances and angles between samples are to match the teacher's.

    `distance_weight` times the smooth L1 loss between the pairwise Euclidean distances of both, each divided by their
    mean, averaged over pairs, plus `angle_weight` times that between the cosines of the angle at j of every
    triplet (i, j, k), averaged over triplets. Widths may differ. Park et al. 2019, https://arxiv.org/abs/1904.05068
    (equations 5 to 10, and the weights of section 4; its sums are means here).

    Args:
        distance_weight: of the pairs' term.
        angle_weight: of the triplets' term; its memory grows as N³.

    Raises:
        ConfigurationError: a weight is negative or not finite, there are fewer than 3 samples, or their
            numbers differ.

    Examples:
        >>> teacher = torch.randn(6, 8)
        >>> RelationalLoss()(3 * teacher + 1, teacher).item() < 1e-4  # shifted and scaled: the same relations
        True
    """

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0) -> None:
        super().__init__()
        problems = weight_problems([distance_weight, angle_weight])
        if problems:
            raise ConfigurationError(problems)
        self.distance_weight = distance_weight
        self.angle_weight = angle_weight

    def forward(self, student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
        """The loss of one batch, a scalar.

        Args:
            student: (N, ...), one embedding per sample.
            teacher: (N, ...), of any width.
        """
        samples = len(student)
        if samples < 3 or len(teacher) != samples:
            raise ConfigurationError(
                f"relations need at least 3 samples, equally many of student and teacher, but there are {samples} and "
                f"{len(teacher)}."
            )
        student, teacher = losses.in_full(student).flatten(1), losses.in_full(teacher).flatten(1)
        distances = F.smooth_l1_loss(_relative_distances(student), _relative_distances(teacher), reduction="sum")
        angles = F.smooth_l1_loss(_angles(student), _angles(teacher), reduction="sum")
        pairs, triplets = samples * (samples - 1), samples * (samples - 1) * (samples - 2)
        return self.distance_weight * distances / pairs + self.angle_weight * angles / triplets


def _relative_distances(samples: torch.Tensor) -> torch.Tensor:
    """(N, N) distances divided by their mean over different samples."""
    distances: torch.Tensor = torch.linalg.vector_norm(samples[:, None] - samples[None], dim=-1)
    mean = distances.sum() / (len(samples) * (len(samples) - 1))
    return distances / mean.clamp(min=torch.finfo(mean.dtype).tiny)


def _angles(samples: torch.Tensor) -> torch.Tensor:
    """(N, N, N), at [j, i, k] the cosine of the angle between samples i and k at j; 0 unless they differ."""
    directions = F.normalize(samples[None] - samples[:, None], dim=-1)
    cosines = directions @ directions.transpose(1, 2)
    return torch.where(torch.eye(len(samples), dtype=torch.bool, device=samples.device), 0, cosines)
