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
    embedding_map_problems,
    embedding_problems,
    head_problems,
    layer_problems,
    mean_problems,
    output_problems,
    refused_problems,
    setting_problems,
    table_problems,
)
from autodistill.initialization.importance import Kind
from autodistill.initialization.outputs import output_matcher, write_outputs
from autodistill.initialization.pairing import Pairing
from autodistill.initialization.start_method import Fitted, StartMethod
from autodistill.initialization.stream import down, rotated_gain, stream_scale, write_norm_after_sum
from autodistill.models.families import Family
from autodistill.models.label_shift import predicts_next_token
from autodistill.models.weights import Affine, has_bias, norm_of, read, shape, takes_in_constants


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
        blocks = (
            [*layer_problems(pair), *setting_problems(pair)]
            or [*table_problems(pair)]
            or [*head_problems(pair), *unlike_parts(pair)]
        )
        tables = [*embedding_problems(pair), *embedding_map_problems(pair)]
        return [*refused_problems(pair)] or [*blocks, *tables, *output_problems(pair)]

    def lost_weights(self, pair: Pairing[Family]) -> Iterator[str]:
        yield from lost_weights(pair)

    def write(self, pair: Pairing[Family], *, embeddings_only: bool) -> None:
        write_embeddings(pair)
        if not embeddings_only:
            write_position_rows(pair)
            write_blocks(pair)
            write_outputs(pair)

    def matcher(self, pair: Pairing[Family]) -> Affine:
        return output_matcher(pair)


def write_embeddings(pair: Pairing[Family]) -> None:
    """Write all tables and maps that write to the stream before the first block, and the norm after them."""
    if pair.has_own_embeddings:
        _write_own_embeddings(pair)
        return
    norm = pair.family.embedding_norm
    # The norm subtracts the mean; without a norm, the first bias does, or a table with a row for every position.
    takes_off = norm is None and not pair.family.norms_before
    rest = pair.subspace.mean(0) if takes_off else torch.zeros(pair.subspace.teacher_width)
    factor = down(pair) if norm is None else pair.subspace.down
    for spec in pair.embeddings:
        table = pair.weight(spec)
        affine, (_, rows) = read(pair.teacher, table.teacher), shape(pair.student, table.student)
        off = rest if takes_in_constants(pair.student, table.student) else torch.zeros_like(rest)
        biased = has_bias(pair.student, table.student)
        weight = affine.weight[:, :rows] - (0 if biased else off[:, None])
        bias = (affine.bias if affine.bias is not None else 0) - off if biased else None
        to = factor * pair.embedding_factor
        pair.write(table.student, Affine(to.T @ weight, bias @ to if bias is not None else None))
        rest = rest - off
    if norm is not None:
        write_norm_after_sum(pair, pair.weight(norm), 0)


def _write_own_embeddings(pair: Pairing[Family]) -> None:
    """Copy embeddings that have a space of their own, and write the map from it to the stream.

    The embeddings of a teacher without such a map are its stream.
    """
    family, subspace = pair.family, pair.subspace
    for spec in pair.embeddings:
        table = pair.weight(spec)
        affine, (_, rows) = read(pair.teacher, table.teacher), shape(pair.student, table.student)
        pair.write(table.student, Affine(affine.weight[:, :rows], affine.bias))
    if family.embedding_norm is not None:
        norm = pair.weight(family.embedding_norm)
        pair.write_norm(norm.student, *norm_of(pair.teacher, norm.teacher.path))
    assert family.embedding_map is not None  # the student has it
    leads = pair.weight(family.embedding_map)
    same = Affine(torch.eye(subspace.teacher_width, dtype=torch.float64), None)
    affine = read(pair.teacher, leads.teacher) if pair.has_weight(leads).teacher else same
    bias = -subspace.mean(0) if affine.bias is None else affine.bias - subspace.mean(0)
    pair.write(leads.student, Affine(down(pair).T @ affine.weight, bias @ down(pair)))


def write_position_rows(pair: Pairing[Family]) -> None:
    """Write the table of relative positions that queries and keys read, and the norm after it.

    Its rows are no states of the stream, so the norm is corrected for the share of their own power that P keeps.
    """
    family, subspace = pair.family, pair.subspace
    table = pair.weight(family.position_rows) if family.position_rows is not None else None
    if table is None or not pair.in_both(table):
        return
    rows = read(pair.teacher, table.teacher).weight
    pair.write(table.student, Affine(subspace.down.T @ rows, None))
    norm = pair.weight(family.position_norm) if family.position_norm is not None else None
    if norm is not None and pair.in_both(norm):
        gain, bias = norm_of(pair.teacher, norm.teacher.path)
        centred = rows - rows.mean(0)
        kept = (subspace.directions.T @ centred).norm() / centred.norm().clamp(min=1e-300)
        correction = float(kept * (subspace.teacher_width / subspace.width) ** 0.5)
        scaled = rotated_gain(pair, gain, correction) / stream_scale(pair)
        pair.write_norm(norm.student, scaled, bias @ subspace.down)
