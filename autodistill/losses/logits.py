"""Losses between logits that weight or normalise the classes otherwise than the Kullback-Leibler divergence."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from autodistill.errors import ConfigurationError
from autodistill.losses.functions import kl_divergence, masked_mean
from autodistill.samples import IGNORED_LABEL


def standardized(logits: torch.Tensor) -> torch.Tensor:
    """Logits (..., C) with mean 0 and standard deviation 1 over the classes.

    Sun et al. 2024, https://arxiv.org/abs/2403.01427, algorithm 1, without its division by the temperature.

    Examples:
        >>> standardized(torch.tensor([[1.0, 3.0]]))
        tensor([[-1.,  1.]])
    """
    centred = logits - logits.mean(-1, keepdim=True)
    deviation = centred.square().mean(-1, keepdim=True).clamp(min=torch.finfo(logits.dtype).tiny).sqrt()
    return centred / deviation


def standardized_kl_divergence(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
) -> torch.Tensor:
    """`kl_divergence` of standardised logits: the student learns their relations, not the teacher's scale.

    Sun et al. 2024, https://arxiv.org/abs/2403.01427. Arguments are those of `kl_divergence`.

    Examples:
        >>> logits = torch.tensor([[1.0, 2.0, 4.0]])
        >>> standardized_kl_divergence(3 * logits + 1, logits).item() < 1e-6
        True
    """
    return kl_divergence(standardized(student_logits), standardized(teacher_logits), mask, temperature)


def decoupled_kl_divergence(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    labels: torch.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 8.0,
) -> torch.Tensor:
    """`T² (α · TCKD + β · NCKD)`, the two parts of the divergence with weights of their own.

    TCKD is the divergence of (p_label, 1 - p_label), NCKD that of the probabilities of the other classes among
    themselves; `kl_divergence` is TCKD + (1 - p_label of the teacher) · NCKD. Averaged over the positions that count
    and have a label. Zhao et al. 2022, https://arxiv.org/abs/2203.08679, equation 7; α and β are those of its CIFAR
    experiments.

    Args:
        student_logits: (..., C), at least 2 classes.
        teacher_logits: the same shape.
        mask: (N,) or (N, L), True where a position counts.
        temperature: T.
        labels: (...), class numbers; -100 for positions that do not count.
        alpha: α, the weight of the label's class.
        beta: β, the weight of the others.

    Raises:
        ConfigurationError: there are no labels, or they are not class numbers, one for each position.

    Examples:
        >>> logits, labels = torch.tensor([[1.0, 2.0, 4.0]]), torch.tensor([2])
        >>> decoupled_kl_divergence(logits, logits, labels=labels).abs().item() < 1e-6
        True
    """
    if labels is None or labels.is_floating_point() or labels.shape != student_logits.shape[:-1]:
        received = "there are none" if labels is None else f"they are {tuple(labels.shape)} of {labels.dtype}"
        raise ConfigurationError(
            f"decoupled distillation (DKD) needs labels that are class numbers {tuple(student_logits.shape[:-1])}, "
            f"but {received}; use KL without them."
        )
    counts = labels != IGNORED_LABEL
    if mask is not None and labels.shape[: mask.dim()] == mask.shape:
        counts = counts & mask.reshape(mask.shape + (1,) * (labels.dim() - mask.dim()))
    is_label = F.one_hot(labels.masked_fill(~counts, 0), student_logits.shape[-1]).bool()
    student, teacher = (
        _label_and_others((logits / temperature).log_softmax(-1), is_label)
        for logits in (student_logits, teacher_logits)
    )
    parts = [F.kl_div(s, t, reduction="none", log_target=True) for s, t in zip(student, teacher, strict=True)]
    target, others = (part.masked_fill(t == float("-inf"), 0).sum(-1) for part, t in zip(parts, teacher, strict=True))
    return temperature**2 * masked_mean(alpha * target + beta * others, counts)


def _label_and_others(log: torch.Tensor, is_label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logarithms of (p_label, 1 - p_label), and of the other classes' probabilities among themselves."""
    others = log.masked_fill(is_label, float("-inf"))
    pair = torch.stack([log.masked_fill(~is_label, float("-inf")).amax(-1), others.logsumexp(-1)], dim=-1)
    return pair, others.log_softmax(-1)


def correlation_distance(
    student_logits: torch.Tensor,
    teacher_logits: torch.Tensor,
    mask: torch.Tensor | None = None,
    temperature: float = 1.0,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> torch.Tensor:
    """DIST: `T² (β · inter + γ · intra)`, one minus Pearson's correlation along classes and along positions.

    Inter compares the probabilities of a position over the classes, intra those of a class over all positions of the
    batch; both are averaged. Huang et al. 2022, https://arxiv.org/abs/2205.10536, equations 7 to 10, with the factor T²
    of their published code.

    Args:
        student_logits: (..., C).
        teacher_logits: the same shape.
        mask: (N,) or (N, L), True where a position counts.
        temperature: T.
        beta: β, the weight of the relations between classes.
        gamma: γ, the weight of the relations between positions.

    Examples:
        >>> logits = torch.randn(8, 3)
        >>> correlation_distance(logits, logits).item() < 1e-6
        True
    """
    student, teacher = (logits.div(temperature).softmax(-1) for logits in (student_logits, teacher_logits))
    return temperature**2 * _correlation_distance(student, teacher, mask, beta, gamma)


def probability_correlation_distance(
    student: torch.Tensor,
    teacher: torch.Tensor,
    mask: torch.Tensor | None = None,
    *,
    beta: float = 1.0,
    gamma: float = 1.0,
) -> torch.Tensor:
    """`correlation_distance` of features that already are probabilities: no softmax is taken, no temperature applies.

    Examples:
        >>> p = torch.tensor([[0.25, 0.75], [0.6, 0.4]])
        >>> probability_correlation_distance(p, p).item() < 1e-6
        True
    """
    if student.dim() == 4:  # attention maps (N, heads, L, L): the mask is that of the queries
        student, teacher = student.movedim(1, 2), teacher.movedim(1, 2)
    return _correlation_distance(student, teacher, mask, beta, gamma)


def _correlation_distance(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None, beta: float, gamma: float
) -> torch.Tensor:
    if mask is not None and student.shape[:-1][: mask.dim()] == mask.shape:
        student, teacher = student[mask], teacher[mask]
    student, teacher = student.reshape(-1, student.shape[-1]), teacher.reshape(-1, teacher.shape[-1])
    if not len(student):
        return student.sum()
    return beta * (1 - _pearson(student, teacher)).mean() + gamma * (1 - _pearson(student.T, teacher.T)).mean()


def _pearson(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Pearson's correlation of each row."""
    return F.cosine_similarity(student - student.mean(-1, keepdim=True), teacher - teacher.mean(-1, keepdim=True))
