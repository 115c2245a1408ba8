"""Losses between a student's feature and a teacher's: pure functions of two tensors of one shape.

Every loss is first computed per position (the last axis, the channels or classes, is reduced) and then averaged over
the positions that count, which are those of `mask`. In a feature of shape (N, C, H, W) the channels are not the last
axis, but a mean over all elements does not depend on the order of the axes.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autodistill.errors import ConfigurationError
from autodistill.losses.weights_and_temperature import check_temperature
from autodistill.models.masks import counted_labels
from autodistill.samples import IGNORED_LABEL


def in_full(feature: torch.Tensor) -> torch.Tensor:
    """The feature in at least 32 bits, regardless of the model's precision, which is too low for losses.

    Examples:
        >>> in_full(torch.zeros(1, dtype=torch.bfloat16)).dtype, in_full(torch.zeros(1, dtype=torch.float64)).dtype
        (torch.float32, torch.float64)
    """
    return feature if feature.dtype == torch.float64 else feature.float()


def mask_fits(mask: torch.Tensor, positions: torch.Size) -> bool:
    """Whether `masked_mean` applies a mask to losses of this shape.

    Examples:
        >>> mask_fits(torch.ones(2, 3), torch.Size((2, 3))), mask_fits(torch.ones(2, 3), torch.Size((2,)))
        (True, False)
    """
    return positions[: mask.dim()] == mask.shape or (len(positions) == 3 and positions[::2] == mask.shape)


def masked_mean(per_position: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """The mean over the positions that count.

    Args:
        per_position: (N, ...), one loss per position.
        mask: (N, L), True where a position counts; used where `per_position` is (N, L, ...) or, for the query axis of
            attention maps, (N, heads, L). It may have fewer axes, (N,), or more. None, or any other shape: every
            position counts.
    """
    if mask is not None:
        if per_position.shape[: mask.dim()] == mask.shape:
            return _weighted(per_position, mask.reshape(mask.shape + (1,) * (per_position.dim() - mask.dim())))
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
    """Mean squared error divided by the mean square of the teacher's feature, so that layers are comparable.

    0 is a perfect match; 1 is the loss of a student that always returns 0.

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


def variational_loss(
    mean: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None = None,
    variance: torch.Tensor | None = None,
) -> torch.Tensor:
    """VID: `log σ_c + (t - μ)² / (2 σ_c²)`, averaged over channels c and positions; it may be negative.

    The negative logarithm of the normal density of the teacher's feature given the student's, without its constant:
    it bounds their mutual information from below. Ahn et al. 2019, https://arxiv.org/abs/1904.05835, equation 5.

    Args:
        mean: μ (..., C), which a trained map computes from the student's feature.
        teacher: t, the same shape.
        mask: (N, L), True where a position counts.
        variance: σ² (C,), trained; 1 by default.

    Examples:
        >>> variational_loss(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]])).item()  # half the mean squared error
        2.5
    """
    variance = torch.ones((), device=mean.device, dtype=mean.dtype) if variance is None else in_full(variance)
    return masked_mean(((teacher - mean).square() / variance + variance.log()).mean(-1) / 2, mask)


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
    terms = F.kl_div(student, teacher, reduction="none", log_target=True)
    per_position = terms.masked_fill(teacher == float("-inf"), 0).sum(-1)  # p log p = 0 at p = 0
    return temperature**2 * masked_mean(per_position, mask)


def soft_cross_entropy(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """`-T² · Σ softmax(teacher / T) · log softmax(student / T)`, summed over classes, averaged over the positions.

    `kl_divergence` plus T² times the teacher's entropy: the gradients are equal, but a perfect match is not zero.
    Arguments and source are those of `kl_divergence`.

    Examples:
        >>> round(soft_cross_entropy(torch.zeros(1, 2), torch.zeros(1, 2)).item(), 4)
        0.6931
    """
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.softmax(teacher_logits / temperature, dim=-1)
    per_position = -(teacher * student).masked_fill(teacher == 0, 0).sum(-1)
    return temperature**2 * masked_mean(per_position, mask)


def label_cross_entropy(logits: torch.Tensor, labels: torch.Tensor, ignore_index: int = IGNORED_LABEL) -> torch.Tensor:
    """Cross-entropy with labels, averaged over the positions whose label is not `ignore_index`; 0 if none is left.

    Args:
        logits: (..., C), classes last.
        labels: (...), class numbers; or (..., C), real numbers that are class probabilities, as label smoothing and
            mixup make them (all positions count), or integers that are one-hot.
        ignore_index: the class number of positions that do not count.

    Raises:
        ConfigurationError: labels are neither, or a row of integers is not one-hot.

    Examples:
        >>> round(label_cross_entropy(torch.zeros(1, 3, 2), torch.tensor([[1, 0, -100]])).item(), 4)
        0.6931
        >>> round(label_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.9, 0.1]])).item(), 4)
        0.6931
    """
    if labels.shape == logits.shape:
        return F.cross_entropy(logits.flatten(0, -2), _class_probabilities(labels).to(logits.dtype).flatten(0, -2))
    if labels.shape != logits.shape[:-1] or labels.is_floating_point():
        raise ConfigurationError(
            f"labels are class numbers {tuple(logits.shape[:-1])} or class probabilities {tuple(logits.shape)}, one "
            f"for each position or class of the logits, but are {tuple(labels.shape)} of {labels.dtype}."
        )
    total = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), ignore_index=ignore_index, reduction="sum")
    return total / (labels != ignore_index).sum().clamp(min=1)


def _class_probabilities(labels: torch.Tensor) -> torch.Tensor:
    """Real numbers as they are; integers only if exactly one class of each row is 1 and all others are 0."""
    if not labels.is_floating_point():
        is_class = labels == 1
        if not bool((is_class | (labels == 0)).all()) or not bool((is_class.sum(-1) == 1).all()):
            raise ConfigurationError(
                f"integer labels of the logits' shape {tuple(labels.shape)} are one-hot, a single 1 in each row, but "
                "some rows are not; pass class numbers, or class probabilities as real numbers."
            )
    return labels


def label_mse_loss(predictions: torch.Tensor, labels: torch.Tensor, ignore_index: int = IGNORED_LABEL) -> torch.Tensor:
    """Mean squared error between predictions and labels that are real numbers: all of them count.

    Args:
        predictions: of any shape.
        labels: the same shape, a last axis of 1 apart.
        ignore_index: without effect on real numbers.

    Raises:
        ConfigurationError: the shapes differ otherwise.

    Examples:
        >>> label_mse_loss(torch.tensor([[1.0], [3.0]]), torch.tensor([1, 1])).item()
        2.0
    """
    if predictions.shape == (*labels.shape, 1):
        predictions = predictions.squeeze(-1)
    if predictions.shape != labels.shape:
        raise ConfigurationError(
            f"'MSE' compares predictions with labels of the same shape, but got {tuple(predictions.shape)} and "
            f"{tuple(labels.shape)}."
        )
    return F.mse_loss(predictions, labels.to(predictions.dtype))


def distillation_loss(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    labels: torch.Tensor,
    temperature: float = 1.0,
    alpha: float = 0.5,
) -> torch.Tensor:
    """`(1 - α) · CE(student, labels) + α · T² · KL(teacher / T ‖ student / T)`, positions labelled -100 left out.

    Args:
        student_logits: (N, C), or (N, L, V) with the classes last.
        teacher_logits: the same shape.
        labels: (N,) or (N, L), class numbers; or class probabilities or one-hot rows of the logits' shape.
        temperature: T, positive.
        alpha: α in [0, 1], the teacher's share.

    Raises:
        ConfigurationError: the temperature or α is out of its range, the logits differ in shape, or labels do not fit.

    Examples:
        >>> logits, labels = torch.zeros(1, 2), torch.tensor([1])
        >>> distillation_loss(logits, logits, labels, temperature=2.0, alpha=1.0).item()
        0.0
    """
    check_temperature(temperature)
    check_logits(student_logits, teacher_logits)
    if not 0 <= alpha <= 1:
        raise ConfigurationError(f"alpha, the teacher's share of the loss, must lie in [0, 1], but got {alpha}.")
    soft = kl_divergence(student_logits, teacher_logits, counted_labels(labels, student_logits), temperature)
    return (1 - alpha) * label_cross_entropy(student_logits, labels) + alpha * soft


def check_logits(student_logits: torch.Tensor, teacher_logits: torch.Tensor) -> None:
    """Raise an error for logits of different shapes, which would be broadcast.

    Raises:
        ConfigurationError: their shapes differ.
    """
    if student_logits.shape != teacher_logits.shape:
        raise ConfigurationError(
            f"logits of student and teacher must have one shape, but got {tuple(student_logits.shape)} and "
            f"{tuple(teacher_logits.shape)}."
        )


def probability_kl_divergence(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`KL(teacher ‖ student)` of features that already are probabilities, such as attention maps (N, heads, L, L).

    No softmax is taken and no temperature applies; the student's rows are normalised, since a matcher may have scaled
    them. Summed over the last axis, averaged over the other positions; rows of padded queries are left out.

    Examples:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> probability_kl_divergence(p, p).item()
        0.0
    """
    return _mean_over_queries(F.kl_div(_log_of_rows(student), teacher, reduction="none").sum(-1), mask)


def probability_cross_entropy(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None
) -> torch.Tensor:
    """`-Σ teacher · log student` of features that already are probabilities; else as `probability_kl_divergence`.

    Examples:
        >>> p = torch.tensor([[0.5, 0.5]])
        >>> round(probability_cross_entropy(p, p).item(), 4)
        0.6931
    """
    return _mean_over_queries(-(teacher * _log_of_rows(student)).sum(-1), mask)


def _log_of_rows(student: torch.Tensor) -> torch.Tensor:
    tiny = torch.finfo(student.dtype).tiny
    return student.clamp(min=tiny).log() - student.sum(-1, keepdim=True).clamp(min=tiny).log()


def _mean_over_queries(per_position: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    if per_position.dim() == 3:  # (N, heads, L): heads last, since a mask (N, L) also fits (N, heads) if heads == L
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
