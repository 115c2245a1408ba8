"""Losses between the relations of a batch's samples: student and teacher may have any width and resolution."""

from __future__ import annotations

import math

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


def similarity_preserving_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """SP: `‖G_S - G_T‖² / N²`, with G the products of all pairs of samples, each row scaled to length 1.

    Tung and Mori 2019, https://arxiv.org/abs/1907.09682, equations 1 to 4.

    Args:
        student: (N, ...), one feature per sample.
        teacher: (N, ...), of any shape.
        mask: (N, L), True where a position counts; applied to features (N, L, ...). With (N,) only these samples count.

    Raises:
        ConfigurationError: student and teacher have different numbers of samples.

    Examples:
        >>> teacher = torch.randn(6, 8)
        >>> similarity_preserving_loss(3 * teacher, teacher).item() < 1e-6
        True
    """
    student, teacher = _samples(student, teacher, mask)
    matrices = [F.normalize(each @ each.T, dim=1) for each in (student, teacher)]
    return (matrices[0] - matrices[1]).square().sum() / max(1, len(student)) ** 2


def probabilistic_transfer_loss(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """PKT: the divergence of the probabilities that a sample has each other sample as its neighbour, averaged over it.

    `Σ_{i≠j} p(i|j) log(p(i|j) / q(i|j))`, where p(i|j) of the teacher and q(i|j) of the student are (cos + 1) / 2 of
    both samples, divided by the sum over i ≠ j. Passalis and Tefas 2018, https://arxiv.org/abs/1803.10837, equations 3
    to 7 with the cosine kernel; its sum over j is a mean here.

    Args:
        student: as in `similarity_preserving_loss`, like the other arguments and the error.
        teacher: (N, ...), of any shape.
        mask: see there.

    Examples:
        >>> teacher = torch.randn(6, 8)
        >>> abs(probabilistic_transfer_loss(3 * teacher, teacher).item()) < 1e-6
        True
    """
    student, teacher = _samples(student, teacher, mask)
    q, p = (_neighbour_probabilities(each) for each in (student, teacher))
    tiny = torch.finfo(p.dtype).tiny
    return (p * (p.clamp(min=tiny).log() - q.clamp(min=tiny).log())).sum() / max(1, len(student))


def correlation_congruence_loss(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    gamma: float = 0.4,
    order: int = 2,
) -> torch.Tensor:
    """CCKD: the mean squared difference between the correlations of all pairs of samples.

    The correlation of x and y, scaled to length 1, is the Taylor expansion of the Gaussian kernel exp(-γ ‖x - y‖²),
    `Σ_{p=0}^P exp(-2γ) (2γ)^p / p! · (x · y)^p`. Peng et al. 2019, https://arxiv.org/abs/1904.01802, section 3.

    Args:
        student: as in `similarity_preserving_loss`, like the next two arguments and the error.
        teacher: (N, ...), of any shape.
        mask: see there.
        gamma: γ; the default is that of the paper, like that of `order`.
        order: P.

    Examples:
        >>> teacher = torch.randn(6, 8)
        >>> correlation_congruence_loss(3 * teacher, teacher).item() < 1e-6
        True
    """
    student, teacher = _samples(student, teacher, mask)
    factors = [math.exp(-2 * gamma) * (2 * gamma) ** power / math.factorial(power) for power in range(order + 1)]
    cosines = [F.normalize(each, dim=1) @ F.normalize(each, dim=1).T for each in (student, teacher)]
    correlations = [sum(factor * each**power for power, factor in enumerate(factors)) for each in cosines]
    return (correlations[0] - correlations[1]).square().sum() / max(1, len(student)) ** 2  # type: ignore[union-attr]


def _samples(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both features as rows (N, D), those of positions that do not count set to 0."""
    if len(student) != len(teacher):
        raise ConfigurationError(
            f"relations are compared between the same samples, but there are {len(student)} of the student and "
            f"{len(teacher)} of the teacher."
        )
    if mask is not None and mask.dim() == 1 and len(mask) == len(student):
        return student[mask].flatten(1), teacher[mask].flatten(1)
    rows = [_without_padding(losses.in_full(each), mask).flatten(1) for each in (student, teacher)]
    return rows[0], rows[1]


def _without_padding(feature: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if mask is None or feature.dim() <= mask.dim() or feature.shape[: mask.dim()] != mask.shape:
        return feature
    return torch.where(mask.reshape(mask.shape + (1,) * (feature.dim() - mask.dim())), feature, 0)


def _neighbour_probabilities(samples: torch.Tensor) -> torch.Tensor:
    """(N, N), at [j, i] the probability of sample i given j; 0 on the diagonal."""
    rows = F.normalize(samples, dim=1)
    similarities = ((rows @ rows.T + 1) / 2).clamp(min=0)
    others = similarities.masked_fill(torch.eye(len(samples), dtype=torch.bool, device=samples.device), 0)
    return others / others.sum(1, keepdim=True).clamp(min=torch.finfo(others.dtype).tiny)


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
