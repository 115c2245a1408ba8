"""The teacher's residual stream over the flash set: its mean, principal directions, and subspaces of any width.

A transformer's blocks pass a *residual stream* x (N, L, D) on to each other. A student of width d computes in a
subspace of it: z = (x - μ) P / s, where the columns of P (D, d) are orthonormal, so that x ≈ μ + s z Pᵀ. There is one
P for all boundaries of blocks, since the residual path carries z unchanged from one to the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from scipy.linalg import helmert

from autodistill.config.initialization import Centring, Weighting
from autodistill.errors import ConfigurationError
from autodistill.tensor_files import read_hashed_tensors, write_hashed_tensors


@dataclass(frozen=True)
class TeacherSubspace:
    """The subspace of a teacher's stream in which a student of some width computes; stored in float64.

    Args:
        means: μ, (B, D), subtracted from the stream at each of its B boundaries; (1, D) for all boundaries together.
        directions: P, (D, d), with orthonormal columns.
        scale: s, (d,): the root mean square of (x - μ) P, the same for all directions unless they are whitened.
        explained: the share of the stream's power about its mean that the directions keep, in [0, 1].

    Raises:
        ConfigurationError: the shapes do not fit, values are not finite, the scale is not positive, the share is not in
            [0, 1], or the columns are not orthonormal.

    Examples:
        >>> subspace = TeacherSubspace(torch.zeros(1, 3), torch.eye(3)[:, :2], torch.full((2,), 2.0), 0.9)
        >>> subspace.project(torch.tensor([2.0, 4.0, 6.0]))
        tensor([1., 2.])
        >>> subspace.lift(torch.tensor([1.0, 2.0]))
        tensor([2., 4., 0.])
    """

    means: torch.Tensor
    directions: torch.Tensor
    scale: torch.Tensor
    explained: float

    def __post_init__(self) -> None:
        for name in ("means", "directions", "scale"):
            values = getattr(self, name).double()
            _require_finite(f"a subspace must be finite, but its {name} hold", values)
            object.__setattr__(self, name, values)
        shapes = [tuple(part.shape) for part in (self.means, self.directions, self.scale)]
        fitting = [len(shape) for shape in shapes] == [2, 2, 1] and shapes[0][1] == shapes[1][0]
        if not fitting or shapes[1][1] != shapes[2][0]:
            raise ConfigurationError(
                "means, directions and scale of a subspace must have the shapes (B, D), (D, d) and (d,), but have "
                f"{', '.join(map(str, shapes))}; transpose or reshape them."
            )
        if not bool((self.scale > 0).all()) or not 0 <= self.explained <= 1 + 1e-9:
            raise ConfigurationError(
                "the scale of a subspace must be positive, and the explained share in [0, 1], but the smallest scale "
                f"is {float(self.scale.min()):.3g}, the share {self.explained:.3g}; use decompose(...).subspace(width)."
            )
        difference = self.directions.T @ self.directions - torch.eye(self.width, dtype=torch.float64)
        if float(difference.abs().max()) > 1e-4:  # more than the rounding of float32
            raise ConfigurationError(
                "the directions of a subspace must have orthonormal columns, but PᵀP is off the identity by "
                f"{float(difference.abs().max()):.2g}; use torch.linalg.qr(directions).Q."
            )

    @property
    def width(self) -> int:
        """d, the width of the student."""
        return self.directions.shape[1]

    @property
    def teacher_width(self) -> int:
        """D, the width of the teacher."""
        return self.directions.shape[0]

    @property
    def down(self) -> torch.Tensor:
        """P / s, (D, d): the factor of maps that write to the stream."""
        return self.directions / self.scale

    @property
    def up(self) -> torch.Tensor:
        """P s, (D, d): the factor of maps that read the stream."""
        return self.directions * self.scale

    def mean(self, boundary: int) -> torch.Tensor:
        """μ, (D,), at a boundary of the teacher's blocks; -1 is after the last."""
        return self.means[boundary] if len(self.means) > 1 else self.means[0]

    def project(self, stream: torch.Tensor, boundary: int = 0) -> torch.Tensor:
        """(x - μ) P / s: (..., D) to (..., d), in the precision and on the device of the stream."""
        mean, down = (part.to(stream) for part in (self.mean(boundary), self.down))
        return (stream - mean) @ down

    def lift(self, hidden: torch.Tensor, boundary: int = 0) -> torch.Tensor:
        """μ + s z Pᵀ: (..., d) to (..., D)."""
        mean, up = (part.to(hidden) for part in (self.mean(boundary), self.up))
        return hidden @ up.T + mean


class StreamMoments:
    """Accumulates means and second moments of the stream, batch by batch, in float64: activations are not stored.

    Args:
        boundaries: B, the number of boundaries of blocks.
        width: D, the number of channels.
        weighting: `"power"` weights every boundary by the inverse power of the stream there (measured on the first
            batch), so that all count equally; `"uniform"` does not weight them.

    Examples:
        >>> moments = StreamMoments(1, 2)
        >>> moments.add([torch.tensor([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])])
        >>> moments.decomposition().subspace(1).directions.abs().flatten()
        tensor([1., 0.], dtype=torch.float64)
    """

    def __init__(self, boundaries: int, width: int, weighting: Weighting = "power") -> None:
        _require_known("weighting", weighting, Weighting)
        self._weighting = weighting
        self._weights: torch.Tensor | None = None
        self._count = 0
        self._sums = torch.zeros(boundaries, width, dtype=torch.float64)
        self._second = torch.zeros(width, width, dtype=torch.float64)

    def add(self, streams: Sequence[torch.Tensor], mask: torch.Tensor | None = None) -> None:
        """Add one batch.

        Args:
            streams: the stream (..., D) at each boundary.
            mask: (...), True (or not 0) for positions that count: padding is ignored.
        """
        mask = mask.bool() if mask is not None else None
        rows = [stream.detach()[mask] if mask is not None else stream.detach().flatten(0, -2) for stream in streams]
        # A batch's sums keep the precision of the stream, at least 32 bits; batches are added in 64.
        parts = [part.float() if part.dtype in (torch.float16, torch.bfloat16) else part for part in rows]
        if not len(parts[0]):
            return
        if self._weights is None:
            powers = torch.stack([part.double().square().mean().cpu() for part in parts])
            known = powers > 0 if self._weighting == "power" else torch.zeros_like(powers, dtype=torch.bool)
            self._weights = torch.where(known, powers.reciprocal(), 1.0)
        self._count += len(parts[0])
        self._sums += torch.stack([part.sum(0).double() for part in parts]).cpu()
        for weight, part in zip(self._weights.tolist(), parts, strict=True):
            self._second += weight * (part.T @ part).double().cpu()

    def decomposition(
        self, *, centring: Centring = "mean", keeps_constant: bool = False, selects: bool = False
    ) -> StreamDecomposition:
        """The principal directions of the batches that were added.

        Args:
            centring: the definition of μ: `"mean"`, one mean over all boundaries; `"boundary"`, one for each boundary;
                `"none"`, zero, for streams that are read through a norm.
            keeps_constant: see `StreamDecomposition`.
            selects: see `StreamDecomposition`.

        Raises:
            ConfigurationError: fewer positions than channels, a stream that is not finite, or an unknown centring.
        """
        _require_known("centring", centring, Centring)
        boundaries, width = self._sums.shape
        if self._weights is None or self._count < width:
            raise ConfigurationError(
                f"the teacher's stream of {width} channels needs at least as many positions (tokens, patches) in the "
                f"flash set, but it has {self._count}; raise init.batches, or the batch size."
            )
        _require_finite("the teacher's stream must be finite, but holds", self._second)
        weights = self._weights[:, None]
        means = self._sums / self._count
        if centring == "mean":
            means = (weights * means).sum(0, keepdim=True) / weights.sum()
        elif centring == "none":
            means = torch.zeros(1, width, dtype=torch.float64)
        # Σ w (x - μ)(x - μ)ᵀ, for any choice of μ.
        cross = (weights * self._sums).T @ means.expand(boundaries, -1)
        of_means = (means.expand(boundaries, -1) * weights).T @ means.expand(boundaries, -1) * self._count
        total = self._count * float(weights.sum())
        covariance = (self._second - cross - cross.T + of_means) / total
        return StreamDecomposition.of(covariance, means, keeps_constant=keeps_constant, selects=selects)


@dataclass(frozen=True)
class StreamDecomposition:
    """The principal directions of a stream in descending order of power: one decomposition for students of every width.

    Args:
        means: μ, (B or 1, D).
        directions: orthonormal columns, (D, D) or (D, D - 1).
        power: the mean square along each direction.
        keeps_constant: whether the stream is read through LayerNorms, which subtract the mean over channels. Those of a
            student do the same over its channels, and the two agree only if P maps the constant vector to the constant
            vector. Therefore the constant direction is separate: P = V Qᵀ + 1 1ᵀ / √(D d), where V has the d - 1
            leading directions that are orthogonal to it, and Q (d, d - 1) is an orthonormal basis of the student's
            vectors of mean zero.
        selects: whether the directions are single channels, which a student has unchanged: not centred, not scaled.

    Raises:
        ConfigurationError: `subspace` is called for less than one channel, or for more than the teacher has.
    """

    means: torch.Tensor
    directions: torch.Tensor
    power: torch.Tensor
    keeps_constant: bool = False
    selects: bool = False

    @classmethod
    def of(
        cls, covariance: torch.Tensor, means: torch.Tensor, *, keeps_constant: bool, selects: bool = False
    ) -> StreamDecomposition:
        """Decompose a covariance (D, D)."""
        width = len(covariance)
        if selects:
            order = covariance.diagonal().argsort(descending=True, stable=True)
            directions = torch.eye(width, dtype=torch.float64)[:, order]
            return cls(means, directions, covariance.diagonal()[order].clamp(min=0), selects=True)
        basis = _without_constant(width) if keeps_constant else torch.eye(width, dtype=torch.float64)
        power, vectors = torch.linalg.eigh(basis.T @ covariance @ basis)
        directions = basis @ vectors.flip(-1)
        # An eigenvector's sign is arbitrary: the largest entry is made positive.
        largest = directions.gather(0, directions.abs().argmax(0, keepdim=True))
        return cls(means, directions * largest.sign(), power.flip(-1).clamp(min=0), keeps_constant)

    def subspace(self, width: int, *, whiten: bool = False) -> TeacherSubspace:
        """The leading directions for a student of this width.

        Args:
            width: d, the width of the student.
            whiten: scale every direction to unit power. The norms of the student then weight the directions
                differently from those of the teacher.
        """
        teacher_width = self.means.shape[-1]
        if width < 1:
            raise ConfigurationError(
                f"a subspace must have at least 1 channel, but {width} are requested; request more."
            )
        if width > teacher_width:
            raise ConfigurationError(
                f"a student that starts inside its teacher must not be wider than it, but the student's width is "
                f"{width}, the teacher's {teacher_width}; search narrower students, or leave init out."
            )
        if not self.keeps_constant:
            directions, power = self.directions[:, :width], self.power[:width]
        else:
            inner = _without_constant(width)
            directions = self.directions[:, : width - 1] @ inner.T + (teacher_width * width) ** -0.5
            power = self.power[: width - 1]
        total, kept = float(self.power.sum()), float(power.sum())
        if self.selects:
            means = self.means * (1 - directions.sum(1))
            return TeacherSubspace(means, directions, torch.ones(width, dtype=torch.float64), kept / (total or 1.0))
        scale = torch.full((width,), (kept / width) ** 0.5, dtype=torch.float64)
        if whiten and not self.keeps_constant:
            scale = power.sqrt()
        return TeacherSubspace(self.means, directions, scale.clamp(min=1e-12), kept / total if total else 1.0)

    def save(self, path: Path) -> None:
        """Write it atomically, as safetensors."""
        tensors = {"means": self.means, "directions": self.directions.contiguous(), "power": self.power}
        write_hashed_tensors(path, {**tensors, "selects": torch.tensor(self.selects)}, cached=True)

    @classmethod
    def load(cls, path: Path) -> StreamDecomposition:
        """Read what `save` wrote.

        Raises:
            ValueError: the file is damaged.
            KeyError: it holds something else.
            OSError: it cannot be read.
        """
        tensors, _ = read_hashed_tensors(path)
        means, directions = tensors["means"], tensors["directions"]
        keeps_constant = directions.shape[0] > directions.shape[1]
        return cls(means, directions, tensors["power"], keeps_constant, bool(tensors["selects"]))


def _require_known(name: str, value: str, known: Any) -> None:
    if value not in get_args(known):
        names = ", ".join(map(repr, get_args(known)))
        raise ConfigurationError(f"{name} must be one of {names}, but is {value!r}.")


def _require_finite(rule: str, values: torch.Tensor) -> None:
    if not bool(values.isfinite().all()):
        raise ConfigurationError(f"{rule} nan or infinity; look for them in the teacher's hidden states.")


def _without_constant(width: int) -> torch.Tensor:
    """(width, width - 1): an orthonormal basis of the vectors whose entries have mean zero."""
    return torch.from_numpy(helmert(width).T.copy())


def decompose(
    batches: Iterable[tuple[Sequence[torch.Tensor], torch.Tensor | None]],
    *,
    weighting: Weighting = "power",
    centring: Centring = "mean",
    keeps_constant: bool = False,
    selects: bool = False,
) -> StreamDecomposition:
    """Decompose a stream in one pass.

    Args:
        batches: for each batch the stream (..., D) at every boundary, and a mask of the positions that count, or None.
        weighting: see `StreamMoments`.
        centring: see `StreamMoments.decomposition`.
        keeps_constant: see `StreamDecomposition`.
        selects: see `StreamDecomposition`.

    Raises:
        ConfigurationError: fewer positions than channels, boundaries of different widths, batches with different
            numbers of boundaries, a stream that is not finite, or an unknown option.
    """
    moments: StreamMoments | None = None
    found: set[int] = set()
    numbers: set[int] = set()
    for streams, mask in batches:
        found.update(stream.shape[-1] for stream in streams)
        numbers.add(len(streams))
        if numbers != {max(1, *numbers)}:
            raise ConfigurationError(
                "every batch must have the stream at the same boundaries, at least one, but there are batches with "
                f"{' and '.join(map(str, sorted(numbers)))}; record each with the same hooks."
            )
        widths = sorted(found)
        if len(widths) > 1:
            raise ConfigurationError(
                "the teacher's stream must have one width, since one subspace serves all blocks, but its blocks have "
                f"{', '.join(map(str, widths))} channels; leave init out."
            )
        moments = moments or StreamMoments(len(streams), streams[0].shape[-1], weighting)
        moments.add(streams, mask)
    if moments is None:
        raise ConfigurationError("the teacher's stream needs a flash set, but there is no batch.")
    return moments.decomposition(centring=centring, keeps_constant=keeps_constant, selects=selects)
