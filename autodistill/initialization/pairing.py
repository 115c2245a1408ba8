"""Student and teacher side by side: where their weights are, and how the stream is read and written in the subspace."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.importance import Importance
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import Family, HeadSizes, Weight, require_family
from autodistill.models.layer_mappings import automatic_mapping
from autodistill.models.weights import Affine, Part, has, has_bias, join, norm_of, parameters, part, write, write_norm


@dataclass(frozen=True)
class Place:
    """One weight, in the teacher and in the student."""

    teacher: Part
    student: Part


@dataclass(frozen=True)
class Reader:
    """How the stream is read in one place, where x is `offset` + `up` times what the student has.

    Args:
        up: (D, d).
        offset: (D,).
    """

    up: torch.Tensor
    offset: torch.Tensor

    def __call__(self, affine: Affine) -> Affine:
        """The student's form of a map that reads the stream."""
        bias = affine.weight @ self.offset
        return Affine(affine.weight @ self.up, bias if affine.bias is None else bias + affine.bias)


@dataclass
class Pairing:
    """A student that is written from its teacher.

    Args:
        student: any model around a base model of the family.
        teacher: the same.
        bases: the paths of the two base models, the student's and the teacher's.
        family: of both.
        subspace: that the student lives in.
        layers: for each block of the student the teacher's.
        importance: of heads and neurons, as measured; where there is none, the weights decide.
        written: the student's parameters that are done.
        approximations: where the student cannot be the teacher's projection, and why.
    """

    student: nn.Module
    teacher: nn.Module
    bases: tuple[str, str]
    family: Family
    subspace: TeacherSubspace
    layers: tuple[int, ...]
    importance: Importance | None = None
    written: set[nn.Parameter] = field(default_factory=set)
    approximations: list[str] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        student: nn.Module,
        teacher: nn.Module,
        subspace: TeacherSubspace,
        *,
        layers: Sequence[int] | None = None,
        importance: Importance | None = None,
        family: Family | None = None,
    ) -> Pairing:
        """Find the base models; the arguments are those of `initialize_from_teacher`.

        Raises:
            ConfigurationError: one of them is of no known family, or they are of two.
        """
        teacher_path, teacher_base, table = require_family(teacher, family, "teacher")
        student_path, student_base, student_table = require_family(student, family, "student")
        if student_table is not table:
            raise ConfigurationError(
                "a student that starts inside its teacher must be of its family, but the student is a "
                f"{type(student_base).__name__} and the teacher a {type(teacher_base).__name__}; leave init out."
            )
        mapped = (
            layers if layers is not None else automatic_mapping(table.depth(student_base), table.depth(teacher_base))
        )
        bases = (student_path, teacher_path)
        return cls(student, teacher, bases, table, subspace, tuple(mapped), importance)

    # Where weights are.

    @property
    def embeddings(self) -> list[Weight]:
        """Those tables of the family that both models have."""
        return [spec for spec in self.family.embeddings if self.in_both(self.place(spec))]

    @property
    def base_models(self) -> tuple[nn.Module, nn.Module]:
        """The student's, and the teacher's."""
        student, teacher = self.bases
        return self.student.get_submodule(student), self.teacher.get_submodule(teacher)

    @property
    def head_sizes(self) -> tuple[HeadSizes, HeadSizes]:
        """The teacher's, and the student's."""
        student, teacher = self.base_models
        return self.family.heads(teacher), self.family.heads(student)

    @property
    def depths(self) -> tuple[int, int]:
        """The teacher's number of blocks, and the student's."""
        student, teacher = self.base_models
        return self.family.depth(teacher), self.family.depth(student)

    def place(self, spec: Weight, block: int | None = None) -> Place:
        """A weight of the base models, or of the student's block number `block` and its partner."""
        student, teacher = self.bases
        layer = self.layers[block] if block is not None else None
        return Place(self._within(teacher, spec, layer), self._within(student, spec, block))

    def teacher_place(self, spec: Weight, layer: int) -> Part:
        """A weight of the teacher's block number `layer`."""
        return self._within(self.bases[1], spec, layer)

    def _within(self, base: str, spec: Weight, block: int | None) -> Part:
        chosen = part(spec)
        owner = base if block is None else join(base, f"{self.family.blocks}.{block}")
        return Part(join(owner, chosen.path), chosen.index, chosen.of)

    def in_both(self, place: Place) -> bool:
        """Whether both models have this weight."""
        return has(self.teacher, place.teacher) and has(self.student, place.student)

    def write(self, spec: Weight, affine: Affine) -> None:
        """Set a map of the student."""
        write(self.student, spec, affine)
        self.written.update(parameters(self.student, spec))

    def write_norm(self, place: Place, gain: torch.Tensor, bias: torch.Tensor) -> None:
        """Set a norm of the student."""
        write_norm(self.student, place.student.path, gain, bias)
        self.written.update(parameters(self.student, place.student))

    # The stream.

    @property
    def correction(self) -> float:
        """c: what the student's directions keep of a vector, the share r of its power, lies in d channels, not in D."""
        return float((self.subspace.explained * self.subspace.teacher_width / self.subspace.width) ** 0.5)

    @property
    def scale(self) -> torch.Tensor:
        """s, one number for all channels."""
        return self.subspace.scale.square().mean().sqrt()

    def rotated_gain(self, gain: torch.Tensor) -> torch.Tensor:
        """diag(Pᵀ G P) c, (d,): the gain of a student's norm that no reader can take in."""
        return self.correction * (self.subspace.directions.square() * gain[:, None]).sum(0)

    def down(self) -> torch.Tensor:
        """What writers are multiplied by, (D, d). LayerNorms before all readers never see the mean over channels."""
        down, family = self.subspace.down, self.family
        return down - down.mean(0) if family.norms_before and family.centred and family.final_norm is not None else down

    def writer(self, affine: Affine, boundary: int) -> Affine:
        """The student's form of a map that writes to the stream.

        Where norms stand behind the sum, they need all of it: the writer adds the mean that the residual path lacks.
        """
        bias = affine.bias
        if not self.family.norms_before:
            mean = self.subspace.mean(boundary)
            bias = mean if bias is None else bias + mean
        return Affine(self.down().T @ affine.weight, bias @ self.down() if bias is not None else None)

    def reader(self, norm: Place | None, boundary: int, readers: Iterable[Part]) -> Reader:
        """How the stream is read behind a norm, which loses its gain to what reads it, and its bias where that has one.

        Args:
            norm: that stands before the readers.
            boundary: of the teacher's blocks, where they read.
            readers: of the student.
        """
        if not self.family.norms_before or norm is None:
            return Reader(self.subspace.up, self.subspace.mean(boundary))
        gain, bias = norm_of(self.teacher, norm.teacher.path)
        up = gain[:, None] * self.subspace.directions
        kept = torch.zeros(self.subspace.width, dtype=torch.float64)
        if not all(has_bias(self.student, reader) for reader in readers):
            # The norm's own bias stands in for theirs. The default driver, gelsy, gives other last bits at every call.
            kept = torch.linalg.lstsq(up, bias[:, None], driver="gelsd").solution[:, 0]
            if (up @ kept - bias).norm() > 1e-6 * bias.norm():
                self.approximations.append(
                    f"what reads the stream behind {norm.student.path!r} has no bias, and the norm's own has fewer "
                    "channels than the teacher's: a part of that bias is lost."
                )
        self.write_norm(norm, torch.full_like(kept, self.correction), kept)
        return Reader(up, bias - up @ kept)

    def norm_behind(self, norm: Place, boundary: int) -> None:
        """Write a norm that stands behind the residual sum."""
        gain, bias = norm_of(self.teacher, norm.teacher.path)
        shift = (bias - self.subspace.mean(boundary)) @ self.subspace.down
        self.write_norm(norm, self.rotated_gain(gain) / self.scale, shift)
