"""The largest logits of a large vocabulary with the mass of the rest: small to store, and a bound on the divergence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch

from autodistill.errors import ConfigurationError
from autodistill.losses.functions import in_full, masked_mean
from autodistill.losses.weights_and_temperature import check_temperature
from autodistill.models.taps import Tap


class TopKLogits(NamedTuple):
    """The k largest logits of each position, and the mass of the others at one temperature.

    Attributes:
        values: (..., k) logits, in descending order.
        indices: (..., k) their classes, of 4 bytes each.
        rest: (...) `log Σ exp(logit / T)` over the other classes, in at least 32 bits.
        temperature: (N,) T, the same in all entries.
    """

    values: torch.Tensor
    indices: torch.Tensor
    rest: torch.Tensor
    temperature: torch.Tensor

    def arranged(self, function: Callable[[torch.Tensor], torch.Tensor]) -> TopKLogits:
        """The same logits with their positions rearranged.

        Args:
            function: moves axes before the last, of `values` and `indices`, and the same ones of `rest`.

        Examples:
            >>> top = top_k_logits(torch.zeros(7, 2, 5), k=3)
            >>> [tuple(field.shape) for field in top.arranged(lambda field: field.movedim(1, 0))][:3]
            [(2, 7, 3), (2, 7, 3), (2, 7)]
        """
        return self._replace(values=function(self.values), indices=function(self.indices), rest=function(self.rest))


TeacherFeatures = Mapping[Tap, torch.Tensor | TopKLogits]
"""A teacher's features by tap: logits may be reduced to the k largest."""


@dataclass(frozen=True)
class TopK:
    """Which of a teacher's logits are reduced to the k largest.

    Attributes:
        taps: of the teacher, at which logits (N, C) or (N, L, C) are recorded.
        k: how many are kept.
        temperature: T at which they are compared.
    """

    taps: tuple[Tap, ...]
    k: int
    temperature: float


def keep_top_k(features: Mapping[Tap, torch.Tensor], top_k: TopK | None) -> TeacherFeatures:
    """A teacher's features, of which some logits are reduced to the k largest.

    Args:
        features: of one batch.
        top_k: which logits; None for none of them. Features of other taps are returned as they are, as are logits of at
            most k classes: those of an answer's start are as many as the positions of the batch.

    Examples:
        >>> logits = Tap("head")
        >>> kept = keep_top_k({logits: torch.zeros(2, 7, 5), Tap("body"): torch.ones(2)}, TopK((logits,), 3, 2.0))
        >>> kept[logits].values.shape, kept[Tap("body")].shape
        (torch.Size([2, 7, 3]), torch.Size([2]))
    """
    if top_k is None:
        return features
    return {
        tap: top_k_logits(feature, top_k.k, top_k.temperature)
        if tap in top_k.taps and feature.shape[-1] > top_k.k
        else feature
        for tap, feature in features.items()
    }


def top_k_logits(logits: torch.Tensor, k: int, temperature: float = 1.0) -> TopKLogits:
    """The k largest logits of each position, and the mass of the others.

    Args:
        logits: (N, ..., C).
        k: how many are kept, fewer than C.
        temperature: T at which they will be compared; the mass of the others is valid only for it.

    Raises:
        ConfigurationError: k is not between 1 and C - 1, or the temperature is not positive and finite.

    Examples:
        >>> top = top_k_logits(torch.tensor([[0.0, 3.0, 0.0, 2.0]]), k=2)
        >>> top.values.tolist(), top.indices.tolist(), round(top.rest.item(), 4)  # log(1 + 1)
        ([[3.0, 2.0]], [[1, 3]], 0.6931)
    """
    check_temperature(temperature)
    if not 0 < k < logits.shape[-1]:
        raise ConfigurationError(
            f"top_k must lie between 1 and the number of classes less 1, but is {k} for {logits.shape[-1]} classes; "
            "to keep all logits, leave it out."
        )
    values, indices = logits.topk(k, dim=-1)
    rest = _log_mass_of_others(in_full(logits) / temperature, indices)  # half precision would lose small masses
    return TopKLogits(values, indices.int(), rest, torch.full((len(logits),), float(temperature), device=logits.device))


def top_k_kl_divergence(
    student_logits: torch.Tensor, teacher: TopKLogits, mask: torch.Tensor | None = None, temperature: float = 1.0
) -> torch.Tensor:
    """`T² · KL(p ‖ q)` of distributions over k + 1 events, the teacher's k largest classes and all others as one event.

    `p_j = exp(v_j / T) / Z` for the kept logits v, `p_rest = exp(rest) / Z`, `Z = Σ_j exp(v_j / T) + exp(rest)`; q_j is
    the student's probability of class j at T, and `q_rest = 1 - Σ_j q_j`. Joining events never raises a divergence: it
    is at most `kl_divergence` of all logits, and equal to it if student and teacher distribute the rest alike. What is
    missing is `T² · p_rest · KL` of the two distributions within the rest, so the error is small where p_rest is: for
    a teacher with confident predictions, and at a low temperature. docs/losses.md has measured errors.

    Args:
        student_logits: (..., C).
        teacher: of the same positions.
        mask: (N, L), True where a position counts.
        temperature: T, the one that `teacher` was stored for.

    Raises:
        ConfigurationError: another temperature, other positions, or a class that the student does not have.

    Examples:
        >>> logits = torch.tensor([[0.0, 3.0, 0.0, 2.0]])
        >>> abs(top_k_kl_divergence(logits, top_k_logits(logits, k=2)).item()) < 1e-6
        True
    """
    _check(student_logits, teacher, temperature)
    student, indices = student_logits / temperature, teacher.indices.long()
    values = teacher.values.to(student.dtype) / temperature
    rest = teacher.rest.to(student.dtype).unsqueeze(-1)
    teacher_log = torch.cat([values, rest], dim=-1).log_softmax(-1)  # (..., k + 1)
    others = _log_mass_of_others(student, indices).unsqueeze(-1)
    student_log = torch.cat([student.gather(-1, indices), others], dim=-1).log_softmax(-1)
    terms = teacher_log.exp() * (teacher_log - student_log)
    per_position = terms.masked_fill(teacher_log == float("-inf"), 0).sum(-1)
    return temperature**2 * masked_mean(per_position, mask)


def _log_mass_of_others(scaled: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    return scaled.scatter(-1, indices, float("-inf")).logsumexp(-1)


def _check(student_logits: torch.Tensor, teacher: TopKLogits, temperature: float) -> None:
    if not bool((teacher.temperature == temperature).all()):
        raise ConfigurationError(
            f"stored logits hold the mass of the rest at temperature {teacher.temperature.flatten()[0].item():g}, "
            f"but are compared at {temperature:g}; store them for that temperature."
        )
    if student_logits.shape[:-1] != teacher.indices.shape[:-1]:
        raise ConfigurationError(
            f"student and teacher must have the same positions, but got {tuple(student_logits.shape[:-1])} and "
            f"{tuple(teacher.indices.shape[:-1])}."
        )
    if int(teacher.indices.max()) >= student_logits.shape[-1]:
        raise ConfigurationError(
            f"the student must have every class of the teacher, but has {student_logits.shape[-1]} and the teacher "
            f"stored class {int(teacher.indices.max())}."
        )
