"""The interface of the two methods that write a student from its teacher, one for each kind of family."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, Generic, Literal

from torch import nn

from autodistill.initialization.importance import Kind
from autodistill.initialization.pairing import FamilyT, Pairing
from autodistill.models.weights import Affine

Fitted = Literal["none", "norms", "all"]


class StartMethod(ABC, Generic[FamilyT]):
    """Writes students of one kind of family from their teacher.

    Args:
        family: the table of teacher and students.
    """

    def __init__(self, family: FamilyT) -> None:
        self.family = family

    @abstractmethod
    def importance_problem(self, setting: str, model: nn.Module) -> str | None:
        """The reason why a teacher's base model refuses this setting of `init.importance`; None if it does not."""

    @abstractmethod
    def importance(self, setting: str) -> Kind | None:
        """What is measured with this setting of `init.importance`; None if the weights decide."""

    @abstractmethod
    def least_squares(self, setting: str, teacher: nn.Module) -> Fitted:
        """What is fitted with this setting of `init.least_squares`."""

    @abstractmethod
    def subspace_problems(self, pair: Pairing[Any]) -> Iterator[str]:
        """A sentence for each reason why students cannot compute in a subspace."""

    @abstractmethod
    def problems(self, pair: Pairing[Any]) -> list[str]:
        """A sentence for each mismatch of the two models' shapes; the student may be on the device `meta`."""

    @abstractmethod
    def lost_weights(self, pair: Pairing[Any]) -> Iterator[str]:
        """A sentence for each weight that only the teacher has, though a student of the same sizes would have it."""

    @abstractmethod
    def write(self, pair: Pairing[Any], *, embeddings_only: bool) -> None:
        """Write the student."""

    @abstractmethod
    def matcher(self, pair: Pairing[Any]) -> Affine:
        """The map from the student's last hidden states to the teacher's: a weight (D, d) and a bias (D,)."""
