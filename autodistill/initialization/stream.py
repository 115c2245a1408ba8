"""How a student reads and writes its teacher's residual stream in a subspace.

With P, s and μ of the subspace (see `subspace`), a map that reads the stream becomes W P s with bias b + W μ, one that
writes to it Pᵀ W / s. Where norms stand *after* the residual sum (BERT), the student's norm has the gain
diag(Pᵀ G P) c / s; where they stand *before* the readers (Llama, GPT-2), the gain is folded into the readers, W G P.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from autodistill.initialization.pairing import Both, Pairing
from autodistill.models.families import Family
from autodistill.models.weights import Affine, Part, has_bias


@dataclass(frozen=True)
class Reader:
    """Converts maps that read the stream x, where x is `offset` + `up` times the student's state.

    Args:
        up: the matrix (D, d).
        offset: the vector (D,).
    """

    up: torch.Tensor
    offset: torch.Tensor

    def __call__(self, affine: Affine) -> Affine:
        """The student's form of a map that reads the stream."""
        bias = affine.weight @ self.offset
        return Affine(affine.weight @ self.up, bias if affine.bias is None else bias + affine.bias)

    def beside(self, affine: Affine, count: int) -> Affine:
        """The student's form of a map that reads the stream at several positions, one after the other."""
        maps = [self(Affine(weight, None)) for weight in affine.weight.chunk(count, dim=1)]
        bias = sum((one.bias for one in maps if one.bias is not None), affine.bias if affine.bias is not None else 0)
        return Affine(torch.cat([one.weight for one in maps], dim=1), torch.as_tensor(bias))


def stream_scale(pair: Pairing[Family]) -> torch.Tensor:
    """s, one number for all channels."""
    return pair.subspace.scale.square().mean().sqrt()


def rotated_gain(pair: Pairing[Family], gain: torch.Tensor, correction: float | None = None) -> torch.Tensor:
    """diag(Pᵀ G P) c, (d,): the gain of a student's norm where no reader can absorb it; by default c of the stream."""
    return (pair.correction if correction is None else correction) * (
        pair.subspace.directions.square() * gain[:, None]
    ).sum(0)


def down(pair: Pairing[Family]) -> torch.Tensor:
    """The factor of maps that write, (D, d). LayerNorms before all readers remove the mean over channels."""
    matrix, family = pair.subspace.down, pair.family
    return matrix - matrix.mean(0) if family.keeps_constant and family.final_norm is not None else matrix


def writer(pair: Pairing[Family], affine: Affine, boundary: int) -> Affine:
    """The student's form of a map that writes to the stream.

    Norms after the sum need the complete sum: the writer adds the mean that the residual path lacks.
    """
    bias = affine.bias
    if not pair.family.norms_before:
        mean = pair.subspace.mean(boundary)
        bias = mean if bias is None else bias + mean
    return Affine(down(pair).T @ affine.weight, bias @ down(pair) if bias is not None else None)


def read_after(pair: Pairing[Family], norm: Both[Part] | None, boundary: int, readers: Iterable[Part]) -> Reader:
    """Fold the gain of a norm into the maps that read it, and its bias if they have biases.

    Args:
        pair: the two models.
        norm: the norm before the readers; it is written.
        boundary: the boundary of the teacher's blocks at which they read.
        readers: the maps of the student that read the norm.
    """
    if not pair.family.norms_before or norm is None:
        return Reader(pair.subspace.up, pair.subspace.mean(boundary))
    gain, bias = pair.norms(norm).teacher
    up = gain[:, None] * pair.subspace.directions
    kept = torch.zeros(pair.subspace.width, dtype=torch.float64)
    if not all(has_bias(pair.student, reader) for reader in readers):
        # The bias of the norm replaces the biases of the readers. The default driver, gelsy, is not deterministic.
        kept = torch.linalg.lstsq(up, bias[:, None], driver="gelsd").solution[:, 0]
        if (up @ kept - bias).norm() > 1e-6 * bias.norm():
            pair.approximations.append(
                f"the maps after {norm.student.path!r} have no bias, and the bias of the norm has fewer "
                "channels than the teacher's: a part of the teacher's bias is lost."
            )
    pair.write_norm(norm.student, torch.full_like(kept, pair.correction), kept)
    return Reader(up, bias - up @ kept)


def write_norm_after_sum(pair: Pairing[Family], norm: Both[Part], boundary: int) -> None:
    """Write a norm that stands after the residual sum."""
    gain, bias = pair.norms(norm).teacher
    shift = (bias - pair.subspace.mean(boundary)) @ pair.subspace.down
    pair.write_norm(norm.student, rotated_gain(pair, gain) / stream_scale(pair), shift)
