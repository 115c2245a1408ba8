"""The table of loss types: the names of loss terms in a configuration, and what each of them computes.

A new loss type is one entry of `LOSS_TYPES`: the configuration, its JSON schema, the criteria and the checks read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.losses.feature_matchers import VariationalMatcher, matcher_for, no_matcher, variational_matcher_for
from autodistill.losses.functions import (
    are_probabilities,
    cosine_loss,
    kl_divergence,
    l1_loss,
    label_cross_entropy,
    label_mse_loss,
    mse_loss,
    normalized_mse_loss,
    probability_cross_entropy,
    probability_kl_divergence,
    soft_cross_entropy,
    variational_loss,
)
from autodistill.losses.logits import (
    correlation_distance,
    decoupled_kl_divergence,
    probability_correlation_distance,
    standardized_kl_divergence,
)
from autodistill.losses.relational import (
    correlation_congruence_loss,
    probabilistic_transfer_loss,
    similarity_preserving_loss,
)
from autodistill.losses.top_k import TopKLogits, top_k_kl_divergence

LossFunction = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class LossType:
    """What a loss type computes between a student and a teacher, and where it may be used.

    Attributes:
        on_features: `(student, teacher, mask) -> loss` of two features of one shape, channels or classes last. Further
            keyword arguments are `temperature` if it compares logits, `labels` if it needs them, and `variance` if the
            feature matcher has one.
        on_probabilities: `(student, teacher, mask) -> loss`, which replaces it if the rows of both features already are
            probabilities, such as attention maps.
        on_top_k: `(student, top_k_logits, mask, temperature) -> loss`, which replaces it if only the k largest of the
            teacher's logits are known; None if the type needs all of them.
        on_labels: `(predictions, labels, ignore_index) -> loss`, the labels' term of `KnowledgeDistillationLoss`; None
            if the type cannot be that term.
        compares_logits: `on_features` takes a softmax: the temperature applies, and ignored labels do not count. If
            there is no `on_probabilities`, features that already are probabilities are refused.
        on_predictions: the type may be the teacher's term of `KnowledgeDistillationLoss`.
        needs_labels: `on_features` takes `labels`, the class number of each position.
        matcher: makes the feature matcher of a mapping; called like `matcher_for`.
    """

    on_features: LossFunction
    on_probabilities: LossFunction | None = None
    on_top_k: LossFunction | None = None
    on_labels: LossFunction | None = None
    compares_logits: bool = False
    on_predictions: bool = False
    needs_labels: bool = False
    matcher: Callable[..., nn.Module] = matcher_for

    def function_for(self, student: torch.Tensor, teacher: torch.Tensor) -> LossFunction:
        """`on_probabilities` if the type has it and both features are probabilities, else `on_features`.

        Raises:
            ConfigurationError: the type compares logits only, but both features are probabilities.

        Examples:
            >>> maps = torch.full((1, 2, 4, 4), 0.25)
            >>> LOSS_TYPES["KL"].function_for(maps, maps).__name__
            'probability_kl_divergence'
            >>> LOSS_TYPES["KL"].function_for(maps, maps - 1).__name__
            'kl_divergence'
        """
        if not (self.compares_logits and are_probabilities(student) and are_probabilities(teacher)):
            return self.on_features
        if self.on_probabilities is None:
            raise ConfigurationError(
                f"{self.on_features.__name__} compares logits, but both features are probabilities "
                f"{tuple(student.shape)}; use KL, CE or DIST, or map the logits."
            )
        return self.on_probabilities

    def between(
        self,
        student: torch.Tensor,
        teacher: torch.Tensor | TopKLogits,
        mask: torch.Tensor | None,
        temperature: float,
        labels: torch.Tensor | None = None,
        matcher: nn.Module | None = None,
    ) -> torch.Tensor:
        """The loss between two features or two logits, a scalar; the temperature matters between logits only.

        Args:
            student: (..., C).
            teacher: the same shape, or the k largest logits of the same positions.
            mask: (N,) or (N, L), True where a position counts.
            temperature: T.
            labels: (...), the class number of each position, for types that need it.
            matcher: the feature matcher that the student's feature has passed, for types that read its parameters.

        Raises:
            ConfigurationError: the type needs all of the teacher's logits, but only the k largest are known.

        Examples:
            >>> LOSS_TYPES["MSE"].between(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]), None, temperature=2.0).item()
            5.0
        """
        if isinstance(teacher, TopKLogits):
            if self.on_top_k is None:
                raise ConfigurationError(
                    f"{self.on_features.__name__} needs all of the teacher's logits, but got the "
                    f"{teacher.values.shape[-1]} largest; use {' or '.join(top_k_types())}, or keep all logits."
                )
            return self.on_top_k(student, teacher, mask, temperature)
        arguments: dict[str, Any] = {"temperature": temperature} if self.compares_logits else {}
        if self.needs_labels:
            arguments["labels"] = labels
        if isinstance(matcher, VariationalMatcher):
            arguments["variance"] = matcher.variance
        return self.on_features(student, teacher, mask, **arguments)


LOSS_TYPES = {
    "MSE": LossType(mse_loss, on_labels=label_mse_loss, on_predictions=True),
    "NMSE": LossType(normalized_mse_loss),
    "L1": LossType(l1_loss),
    "KL": LossType(
        kl_divergence, probability_kl_divergence, top_k_kl_divergence, compares_logits=True, on_predictions=True
    ),
    "CE": LossType(
        soft_cross_entropy,
        probability_cross_entropy,
        on_labels=label_cross_entropy,
        compares_logits=True,
        on_predictions=True,
    ),
    "cosine": LossType(cosine_loss),
    "SP": LossType(similarity_preserving_loss, matcher=no_matcher),
    "PKT": LossType(probabilistic_transfer_loss, matcher=no_matcher),
    "CCKD": LossType(correlation_congruence_loss, matcher=no_matcher),
    "VID": LossType(variational_loss, matcher=variational_matcher_for),
    "DIST": LossType(correlation_distance, probability_correlation_distance, compares_logits=True, on_predictions=True),
    "LSKD": LossType(standardized_kl_divergence, compares_logits=True, on_predictions=True),
    "DKD": LossType(decoupled_kl_divergence, compares_logits=True, on_predictions=True, needs_labels=True),
}
"""Squared error, the same normalised by the teacher's power, absolute error, Kullback-Leibler divergence, soft
cross-entropy, cosine distance; relations of samples: similarity-preserving, probabilistic transfer, correlation
congruence; variational information distillation; between logits: correlation, standardised and decoupled divergence."""

if TYPE_CHECKING:
    LossName = str
else:
    LossName = Literal[tuple(LOSS_TYPES)]
"""The annotation of a setting that names a loss type."""


def type_problems(loss_types: Sequence[str]) -> list[str]:
    """A sentence for each loss type that is not in the table.

    Examples:
        >>> type_problems(["KL", "MAE"])
        ["a loss type is one of MSE, NMSE, L1, KL, CE, cosine, SP, PKT, CCKD, VID, DIST, LSKD, DKD, but got 'MAE'."]
    """
    return [
        f"a loss type is one of {', '.join(LOSS_TYPES)}, but got {name!r}."
        for name in loss_types
        if name not in LOSS_TYPES
    ]


def pair_type_problems(loss_types: Sequence[str]) -> list[str]:
    """A sentence for each loss type, of a pair for the labels and the teacher, that cannot be that term.

    Examples:
        >>> pair_type_problems(["KL", "KL"])
        ["the loss between student and labels is one of CE, MSE, but got 'KL'."]
    """
    labels = sorted(name for name, kind in LOSS_TYPES.items() if kind.on_labels is not None)
    teacher = sorted(name for name, kind in LOSS_TYPES.items() if kind.on_predictions)
    return [
        f"the loss between student and {partner} is one of {', '.join(known)}, but got {name!r}."
        for name, known, partner in zip(loss_types, (labels, teacher), ("labels", "teacher"), strict=False)
        if name not in known
    ]


def top_k_types() -> list[str]:
    """The loss types for which the k largest of the teacher's logits suffice.

    Examples:
        >>> top_k_types()
        ['KL']
    """
    return [name for name, kind in LOSS_TYPES.items() if kind.on_top_k is not None]
