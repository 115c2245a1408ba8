"""A student and its teacher as a pair: their base models, corresponding blocks, and weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, Literal, TypeVar

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.heads import strongest
from autodistill.initialization.importance import Importance
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import HeadSizes, Weight, WeightTable, require_family
from autodistill.models.layer_mappings import automatic_mapping
from autodistill.models.weights import Affine, Part, has, join, norm_of, parameters, part, shape, write, write_norm

T = TypeVar("T")

Order = Literal["position", "importance", "importance and channels"]
"""The order of a student's heads and neurons: the teacher's, or the most important first; then with the channels of
each head in the order of their singular values, or as in the teacher where the sizes of heads agree."""
FamilyT = TypeVar("FamilyT", bound=WeightTable)


@dataclass(frozen=True)
class Both(Generic[T]):
    """One property of the student, and the same property of the teacher."""

    student: T
    teacher: T

    @property
    def by_owner(self) -> dict[str, T]:
        """The two by owner, in the order in which messages name them."""
        return {"teacher": self.teacher, "student": self.student}


@dataclass
class Pairing(Generic[FamilyT]):
    """A student that is written from its teacher.

    Args:
        student: a model that contains a base model of the family.
        teacher: likewise.
        base_paths: the paths of the two base models.
        family: the table of both models.
        subspace: the subspace in which the student computes.
        layers: for each block of the student, the position of the teacher's block.
        importance: the measured importance of heads and neurons; None if it is computed from the weights.
        written: the parameters of the student that are already written.
        approximations: a sentence for each reason why the student is not exactly the teacher's projection.
        order: of heads, neurons and the channels of heads; see `Order`.
    """

    student: nn.Module
    teacher: nn.Module
    base_paths: Both[str]
    family: FamilyT
    subspace: TeacherSubspace
    layers: tuple[int, ...]
    importance: Importance | None = None
    written: set[nn.Parameter] = field(default_factory=set)
    approximations: list[str] = field(default_factory=list)
    order: Order = "position"

    @classmethod
    def of(
        cls,
        student: nn.Module,
        teacher: nn.Module,
        subspace: TeacherSubspace,
        *,
        layers: Sequence[int] | None = None,
        importance: Importance | None = None,
        family: WeightTable | None = None,
        order: Order = "position",
    ) -> Pairing[Any]:
        """Find the base models; the arguments are those of `initialize_from_teacher`.

        Raises:
            ConfigurationError: one of them is of no known family, or their families differ.
        """
        teacher_path, teacher_base, table = require_family(teacher, family, "teacher")
        student_path, student_base, student_table = require_family(student, family, "student")
        if student_table is not table:
            raise ConfigurationError(
                "a student that starts inside its teacher must be of its family, but the student is a "
                f"{type(student_base).__name__} and the teacher a {type(teacher_base).__name__}; leave init out."
            )
        mapped = layers if layers is not None else _layers_by_kind(table.kinds(student_base), table.kinds(teacher_base))
        paths = Both(student_path, teacher_path)
        return Pairing[Any](student, teacher, paths, table, subspace, tuple(mapped), importance, order=order)

    def strongest(self, importance: torch.Tensor, count: int) -> torch.Tensor:
        """The indices of the `count` most important entries, in the student's order."""
        return strongest(importance, count, ordered=self.order != "position")

    @property
    def models(self) -> Both[nn.Module]:
        """The two models."""
        return Both(self.student, self.teacher)

    @property
    def base_models(self) -> Both[nn.Module]:
        """The base models inside them."""
        paths = self.base_paths
        return Both(self.student.get_submodule(paths.student), self.teacher.get_submodule(paths.teacher))

    @property
    def head_sizes(self) -> Both[HeadSizes]:
        """The sizes of their attention heads."""
        bases = self.base_models
        return Both(self.family.heads(bases.student), self.family.heads(bases.teacher))

    @property
    def depths(self) -> Both[int]:
        """Their numbers of blocks."""
        bases = self.base_models
        return Both(self.family.depth(bases.student), self.family.depth(bases.teacher))

    @property
    def embeddings(self) -> list[Weight]:
        """The embedding tables of the family that both models have."""
        return [spec for spec in self.family.embeddings if self.in_both(self.weight(spec))]

    @property
    def has_own_embeddings(self) -> bool:
        """Whether a map leads from the student's embeddings to its stream: they are the teacher's, not projected."""
        chosen = getattr(self.family, "embedding_map", None)
        return chosen is not None and has(self.student, self.weight(chosen).student)

    @property
    def correction(self) -> float:
        """c = √(r D / d): the student's d channels keep the share r of the power of a vector of D channels."""
        return float((self.subspace.explained * self.subspace.teacher_width / self.subspace.width) ** 0.5)

    def boundary(self, block: int) -> int:
        """The boundary of the teacher's blocks that corresponds to the one before the student's block number `block`.

        If `block` is the number of the student's blocks: the boundary after its last block.
        """
        return self.layers[block - 1] + 1 if block else 0

    def weight(self, spec: Weight, block: int | None = None) -> Both[Part]:
        """A weight of the base models, or of the student's block number `block` and the teacher's block for it."""
        layer = self.layers[block] if block is not None else None
        channels = self._channels(spec)
        of_student = self._within(self.base_paths.student, spec, block, channels.student)
        return Both(of_student, self.teacher_weight(spec, layer))

    def teacher_weight(self, spec: Weight, layer: int | None) -> Part:
        """A weight of the teacher's base model, or of its block number `layer`."""
        return self._within(self.base_paths.teacher, spec, layer, self._channels(spec).teacher)

    def _channels(self, spec: Weight) -> Both[int]:
        """The channels of a head in both models, where outputs are stacked by head; else 1."""
        if not part(spec).by_head:
            return Both(1, 1)
        sizes = self.head_sizes
        return Both(sizes.student.channels, sizes.teacher.channels)

    def _within(self, base: str, spec: Weight, block: int | None, channels: int) -> Part:
        chosen = part(spec)
        path = chosen.path.removeprefix("{base}.")
        owner = base if block is None or path != chosen.path else join(base, f"{self.family.blocks}.{block}")
        return replace(chosen, path=join(owner, path), channels=channels)

    def has_weight(self, weight: Both[Part]) -> Both[bool]:
        """Whether each of the two models has this weight."""
        return Both(has(self.student, weight.student), has(self.teacher, weight.teacher))

    def in_both(self, weight: Both[Part]) -> bool:
        """Whether both models have this weight."""
        return has(self.teacher, weight.teacher) and has(self.student, weight.student)

    def shapes(self, weight: Both[Part]) -> Both[tuple[int, int]]:
        """The shape (outputs, inputs) in both models."""
        return Both(shape(self.student, weight.student), shape(self.teacher, weight.teacher))

    def write(self, spec: Weight, affine: Affine) -> None:
        """Write a map of the student."""
        write(self.student, spec, affine)
        self.written.update(parameters(self.student, spec))

    def norms(self, norm: Both[Part]) -> Both[tuple[torch.Tensor, torch.Tensor]]:
        """The gain and the bias of a norm in both models, (channels,) each."""
        offset = self.family.gain_offset
        of_student, of_teacher = norm_of(self.student, norm.student.path), norm_of(self.teacher, norm.teacher.path)
        return Both((of_student[0] + offset, of_student[1]), (of_teacher[0] + offset, of_teacher[1]))

    @property
    def embedding_factor(self) -> float:
        """The factor by which the student's embeddings exceed the projection of the teacher's.

        It is not 1 if both models multiply embeddings by the square root of their own width.
        """
        scaled = getattr(self.family, "scaled_embeddings", False)
        return float((self.subspace.teacher_width / self.subspace.width) ** 0.5) if scaled else 1.0

    def write_norm(self, norm: Part, gain: torch.Tensor, bias: torch.Tensor) -> None:
        """Write a norm of the student."""
        write_norm(self.student, norm.path, gain - self.family.gain_offset, bias)
        self.written.update(parameters(self.student, norm))


def _layers_by_kind(student: Sequence[object], teacher: Sequence[object]) -> list[int]:
    """The teacher's block for each block of the student: evenly spread, or the nearest of the same kind, if any.

    Args:
        student: the kind of each of its blocks.
        teacher: the kind of each of its blocks.
    """
    return [
        min(
            (index for index, known in enumerate(teacher) if known == kind), key=lambda i: abs(i - layer), default=layer
        )
        for kind, layer in zip(student, automatic_mapping(len(student), len(teacher)), strict=True)
    ]
