"""Students made by projection: every weight is the teacher's, projected to the subspace of its stream."""

from __future__ import annotations

from collections.abc import Iterator
from typing import cast

import torch
from torch import nn

from autodistill.initialization.agreement import lost_weights, unlike_parts
from autodistill.initialization.blocks import write_blocks
from autodistill.initialization.checks import (
    boundary_problems,
    embedding_problems,
    head_problems,
    layer_problems,
    mean_problems,
    output_problems,
    table_problems,
)
from autodistill.initialization.importance import Kind
from autodistill.initialization.outputs import output_matcher, write_outputs
from autodistill.initialization.pairing import Pairing
from autodistill.initialization.start_method import Fitted, StartMethod
from autodistill.initialization.stream import down, write_norm_after_sum
from autodistill.models.families import Family
from autodistill.models.label_shift import predicts_next_token
from autodistill.models.weights import Affine, has_bias, read, shape, takes_in_constants


class Projection(StartMethod[Family]):
    """For families whose stream is read through norms, or normalised after every sum."""

    def importance_problem(self, setting: str, model: nn.Module) -> str | None:
        return None

    def importance(self, setting: str) -> Kind | None:
        return None if setting == "weights" else cast("Kind", "activations" if setting == "auto" else setting)

    def least_squares(self, setting: str, teacher: nn.Module) -> Fitted:
        if setting == "auto" and self.family.norms_before:
            return "none" if predicts_next_token(teacher) else "all"
        if setting == "auto":
            return "norms"
        return "none" if setting == "norms" and self.family.norms_before else cast("Fitted", setting)

    def subspace_problems(self, pair: Pairing[Family]) -> Iterator[str]:
        yield from boundary_problems(pair)
        yield from mean_problems(pair)

    def problems(self, pair: Pairing[Family]) -> list[str]:
        blocks = [*layer_problems(pair)] or [*table_problems(pair)] or [*head_problems(pair), *unlike_parts(pair)]
        return [*blocks, *embedding_problems(pair), *output_problems(pair)]

    def lost_weights(self, pair: Pairing[Family]) -> Iterator[str]:
        yield from lost_weights(pair)

    def write(self, pair: Pairing[Family], *, embeddings_only: bool) -> None:
        write_embeddings(pair)
        if not embeddings_only:
            write_blocks(pair)
            write_outputs(pair)

    def matcher(self, pair: Pairing[Family]) -> Affine:
        return output_matcher(pair)


def write_embeddings(pair: Pairing[Family]) -> None:
    """Write all tables and maps that write to the stream before the first block, and the norm after them."""
    norm = pair.family.embedding_norm
    # The norm subtracts the mean; without a norm, the first bias does, or a table with a row for every position.
    takes_off = norm is None and not pair.family.norms_before
    rest = pair.subspace.mean(0) if takes_off else torch.zeros(pair.subspace.teacher_width)
    for spec in pair.embeddings:
        table = pair.weight(spec)
        affine, (_, rows) = read(pair.teacher, table.teacher), shape(pair.student, table.student)
        off = rest if takes_in_constants(pair.student, table.student) else torch.zeros_like(rest)
        biased = has_bias(pair.student, table.student)
        weight = affine.weight[:, :rows] - (0 if biased else off[:, None])
        bias = (affine.bias if affine.bias is not None else 0) - off if biased else None
        pair.write(table.student, Affine(down(pair).T @ weight, bias @ down(pair) if bias is not None else None))
        rest = rest - off
    if norm is not None:
        write_norm_after_sum(pair, pair.weight(norm), 0)
