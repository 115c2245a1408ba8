"""Losses between a student's feature and a teacher's: pure functions of two tensors of one shape.

Every loss is computed per position in a first step (the last axis, the channels or classes, is reduced) and then
averaged over the positions that count; `mask` says which do. A feature of shape (N, C, H, W) has no channel axis at its
end: its positions are its pixels all the same, since the mean over everything does not depend on the order.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

FeatureLoss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def masked_mean(per_position: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean over the positions that count.

    Args:
        per_position: (N, ...), one loss a position.
        mask: (N, L), True where a position counts; used where `per_position` is (N, L, ...) or, for the query axis of
            attention maps, (N, heads, L). None, or any other shape: every position counts.
    """
    if mask is not None and per_position.dim() >= 2:
        if per_position.shape[:2] == mask.shape:
            return _weighted(per_position, mask.reshape(mask.shape + (1,) * (per_position.dim() - 2)))
        if per_position.dim() == 3 and per_position.shape[::2] == mask.shape:
            return _weighted(per_position, mask[:, None, :])
    return per_position.mean()


def _weighted(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    mask = mask.expand_as(values)
    return torch.where(mask, values, 0).sum() / mask.sum().clamp(min=1)


def mse_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error over channels and positions.

    Examples:
        >>> mse_loss(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])).item()
        5.0
    """
    return masked_mean((student - teacher).square().mean(-1), mask)


def normalized_mse_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean squared error divided by the teacher feature's own mean square, so that losses compare between layers.

    0 is a perfect match; 1 is what a student that always answers 0 gets.

    Examples:
        >>> normalized_mse_loss(torch.zeros(1, 2), torch.tensor([[10.0, 30.0]])).item()
        1.0
    """
    power = masked_mean(teacher.square().mean(-1), mask)
    return mse_loss(student, teacher, mask) / power.clamp(min=torch.finfo(power.dtype).tiny)


def l1_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Mean absolute error over channels and positions.

    Examples:
        >>> l1_loss(torch.zeros(1, 2), torch.tensor([[1.0, -3.0]])).item()
        2.0
    """
    return masked_mean((student - teacher).abs().mean(-1), mask)


def cosine_loss(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """One minus the cosine between the channels of student and teacher, averaged over positions.

    Examples:
        >>> cosine_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item()
        1.0
    """
    return masked_mean(1 - F.cosine_similarity(student, teacher, dim=-1), mask)


def kl_divergence(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """`T² · KL(softmax(teacher / T) ‖ softmax(student / T))`, summed over classes, averaged over the other positions.

    Args:
        student_logits: (..., C).
        teacher_logits: (..., C).
        mask: (N, L), True where a position counts.
        temperature: T; the factor T² keeps the gradient's size independent of it (Hinton et al. 2015,
            https://arxiv.org/abs/1503.02531, section 2).

    Examples:
        >>> kl_divergence(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 2.0]]), temperature=4.0).item()
        0.0
    """
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    per_position = F.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)
    return temperature**2 * masked_mean(per_position, mask)


def probability_kl_divergence(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`KL(teacher ‖ student)` of features that are probabilities already, such as attention maps (N, heads, L, L).

    No softmax is taken and no temperature applies; the student's rows are normalised, since a matcher may have scaled
    them. Summed over the last axis, averaged over the other positions; rows of padded queries are left out.

    Examples:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> probability_kl_divergence(p, p).item()
        0.0
    """
    tiny = torch.finfo(student.dtype).tiny
    log_student = student.clamp(min=tiny).log() - student.sum(-1, keepdim=True).clamp(min=tiny).log()
    per_position = F.kl_div(log_student, teacher, reduction="none").sum(-1)
    if per_position.dim() == 3:  # (N, heads, L): heads last, so that as many heads as positions are not mistaken
        per_position = per_position.movedim(1, -1)
    return masked_mean(per_position, mask)


def are_probabilities(feature: torch.Tensor) -> bool:
    """Whether the rows of a feature are non-negative and sum to one, as those of attention maps are.

    Examples:
        >>> are_probabilities(torch.tensor([[0.25, 0.75]])), are_probabilities(torch.tensor([[-1.0, 2.0]]))
        (True, False)
    """
    if not feature.is_floating_point() or feature.dim() < 2:
        return False
    sums = feature.sum(-1)
    tolerance = 1e-2 if feature.dtype in (torch.float16, torch.bfloat16) else 1e-4
    return bool((feature >= 0).all()) and bool(torch.allclose(sums, torch.ones_like(sums), atol=tolerance))
