"""What the two ways to write a student from its teacher have in common: one for each kind of family."""

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
    """How students of one kind of family are written from their teacher.

    Args:
        family: of teacher and students.
    """

    def __init__(self, family: FamilyT) -> None:
        self.family = family

    @abstractmethod
    def importance_problem(self, setting: str, model: nn.Module) -> str | None:
        """The reason why a teacher's base model refuses this setting of `init.importance`; None if it does not."""

    @abstractmethod
    def importance(self, setting: str) -> Kind | None:
        """What is measured where `init.importance` has this setting; None where the weights decide."""

    @abstractmethod
    def least_squares(self, setting: str, teacher: nn.Module) -> Fitted:
        """What is fitted where `init.least_squares` has this setting."""

    @abstractmethod
    def subspace_problems(self, pair: Pairing[Any]) -> Iterator[str]:
        """What keeps students from living in a subspace, a sentence each."""

    @abstractmethod
    def problems(self, pair: Pairing[Any]) -> list[str]:
        """What does not fit of the two models' shapes, a sentence each; the student may be on the device `meta`."""

    @abstractmethod
    def lost_weights(self, pair: Pairing[Any]) -> Iterator[str]:
        """What only the teacher has, though a student of the same sizes would have it, a sentence each."""

    @abstractmethod
    def write(self, pair: Pairing[Any], *, embeddings_only: bool) -> None:
        """Write the student."""

    @abstractmethod
    def matcher(self, pair: Pairing[Any]) -> Affine:
        """The way back, from the student's last hidden states to the teacher's: a weight (D, d) and a bias (D,)."""
