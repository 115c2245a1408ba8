"""The first weights of a student, written from its teacher's: it starts in the subspace of the teacher's stream.

With P, s and μ of the subspace (see `subspace`), a map that reads the stream becomes W P s with bias b + W μ, one that
writes to it Pᵀ W / s, and embeddings E P / s. Where norms stand *behind* the residual sum (BERT), the student's norm
has the gain diag(Pᵀ G P) c / s: a rotation does not commute with per-channel gains G, so that this is exact only where
P permutes channels. Where norms stand *before* the readers (Llama, GPT-2), the gain is folded into the readers, W G P,
with μ = 0. In both, c = √(r D / d) makes up for the norm of a vector that keeps the share r of its power in d of D
channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autodistill.initialization.agreement import disagreements
from autodistill.initialization.blocks import write_blocks
from autodistill.initialization.channel_selection import write_selected
from autodistill.initialization.checks import require_fitting
from autodistill.initialization.importance import Importance
from autodistill.initialization.outputs import matcher, write_outputs
from autodistill.initialization.pairing import Pairing
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import Family
from autodistill.models.weights import Affine, has_bias, read, shape, takes_in_constants

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherStart:
    """What `initialize_from_teacher` did.

    Attributes:
        subspace: that the student lives in.
        layers: for each block of the student, the teacher's block that it comes from.
        correction: c, by which the gains of the student's norms make up for the directions it lacks.
        matcher: the way back from the student's last hidden states to the teacher's: a weight (D, d) and a bias (D,).
        approximations: where the student cannot be the teacher's projection, and why.
        untouched: the student's parameters that are as they were built.
    """

    subspace: TeacherSubspace
    layers: tuple[int, ...]
    correction: float
    matcher: Affine
    approximations: tuple[str, ...]
    untouched: tuple[str, ...]


def initialize_from_teacher(
    student: nn.Module,
    teacher: nn.Module,
    subspace: TeacherSubspace,
    *,
    layers: Sequence[int] | None = None,
    embeddings_only: bool = False,
    importance: Importance | None = None,
    family: Family | None = None,
) -> TeacherStart:
    """Write a student's first weights from its teacher's, in place.

    Heads and neurons are chosen by importance, layers evenly. Heads of other sizes keep the leading singular directions
    of what they compute; rotary ones the nearest frequencies. What the teacher lacks (more heads, channels or neurons)
    stays as built, and writes nothing to the stream until it is trained. What the student lacks (biases, norms of
    heads), or does otherwise by its configuration, is told in `approximations`.

    Args:
        student: of the teacher's family, and not wider.
        teacher: the teacher.
        subspace: that leads to the student's width; where norms stand before the readers, of mean zero.
        layers: for each block of the student a block of the teacher; evenly spread if not given.
        embeddings_only: leave everything behind the embeddings as it was built.
        importance: of heads and neurons, as `measure_importance` gives it; if not given, the weights decide.
        family: where the weights are, for models that are not in `families.FAMILIES`.

    Raises:
        ConfigurationError: the two do not fit; all mistakes at once.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=20)
        >>> teacher, student = (BertModel(BertConfig(hidden_size=width, **sizes)).eval() for width in (8, 4))
        >>> first_four = torch.eye(8, dtype=torch.float64)[:, :4]
        >>> subspace = TeacherSubspace(torch.zeros(1, 8).double(), first_four, torch.ones(4).double(), 0.5)
        >>> start = initialize_from_teacher(student, teacher, subspace)
        >>> start.layers, start.untouched
        ((0, 1), ())
        >>> torch.equal(student.embeddings.word_embeddings.weight, teacher.embeddings.word_embeddings.weight[:, :4])
        True
    """
    pair = Pairing.of(student, teacher, subspace, layers=layers, importance=importance, family=family)
    require_fitting(pair)
    pair.approximations.extend(disagreements(pair))
    if pair.family.axes is not None:
        write_selected(pair, embeddings_only=embeddings_only)
    else:
        write_embeddings(pair)
        if not embeddings_only:
            write_blocks(pair)
            write_outputs(pair)
    untouched = tuple(name for name, parameter in student.named_parameters() if parameter not in pair.written)
    start = TeacherStart(subspace, pair.layers, pair.correction, matcher(pair), tuple(pair.approximations), untouched)
    for approximation in start.approximations:
        logger.info("init='teacher': %s", approximation)
    if untouched and not embeddings_only:
        logger.info("init='teacher' leaves as built: %s", ", ".join(untouched))
    return start


def write_embeddings(pair: Pairing) -> None:
    """Write all tables and maps that write to the stream before the first block, and the norm behind them."""
    norm = pair.family.embedding_norm
    # The mean is taken off by the norm; where there is none, by the first bias, or table with a row for every position.
    takes_off = norm is None and not pair.family.norms_before
    rest = pair.subspace.mean(0) if takes_off else torch.zeros(pair.subspace.teacher_width)
    for spec in pair.embeddings:
        place = pair.place(spec)
        given, (_, rows) = read(pair.teacher, place.teacher), shape(pair.student, place.student)
        off = rest if takes_in_constants(pair.student, place.student) else torch.zeros_like(rest)
        biased = has_bias(pair.student, place.student)
        weight = given.weight[:, :rows] - (0 if biased else off[:, None])
        bias = (given.bias if given.bias is not None else 0) - off if biased else None
        pair.write(place.student, Affine(pair.down().T @ weight, bias @ pair.down() if bias is not None else None))
        rest = rest - off
    if norm is not None:
        pair.norm_behind(pair.place(norm), 0)
