"""The first weights of a student, written from its teacher's: it starts in the subspace of the teacher's stream.

With P, s and μ of the subspace (see `subspace`), a map that reads the stream becomes W P s with bias b + W μ, one that
writes to it Pᵀ W / s, and embeddings E P / s. Where norms stand *after* the residual sum (BERT), the student's norm
has the gain diag(Pᵀ G P) c / s: a rotation does not commute with per-channel gains G, so this is exact only where P
permutes channels. Where norms stand *before* the readers (Llama, GPT-2), the gain is folded into the readers, W G P,
with μ = 0. In both cases, c = √(r D / d) corrects the norm of a vector that keeps the share r of its power in d
of D channels.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.agreement import other_settings
from autodistill.initialization.channel_selection import ChannelSelection
from autodistill.initialization.checks import sharing_problems
from autodistill.initialization.coverage import coverage_problems
from autodistill.initialization.importance import Importance
from autodistill.initialization.pairing import Order, Pairing
from autodistill.initialization.projection import Projection
from autodistill.initialization.start_method import StartMethod
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import ChannelFamily, Family, WeightTable, require_family
from autodistill.models.weights import Affine

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TeacherStart:
    """The result of `initialize_from_teacher`.

    Attributes:
        subspace: the subspace of the teacher's stream in which the student computes.
        layers: for each block of the student, the position of the teacher's block that it comes from.
        correction: c, the factor by which the gains of the student's norms compensate for the missing directions.
        matcher: the map from the student's last hidden states to the teacher's: a weight (D, d) and a bias (D,).
        approximations: a sentence for each reason why the student is not exactly the teacher's projection.
        untouched: names of the student's parameters that are as they were built.
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
    family: WeightTable | None = None,
    order: Order = "position",
) -> TeacherStart:
    """Write a student's first weights from its teacher's, in place.

    Heads and neurons are selected by importance, layers evenly. Heads of another size keep the leading singular
    directions of what they compute; rotary heads keep the nearest frequencies. Heads, channels or neurons that the
    teacher lacks stay as built, and write nothing to the stream until they are trained. Weights that the student lacks
    (biases, norms of heads) and settings that differ are listed in `approximations`.

    Args:
        student: a model of the teacher's family that is not wider than the teacher.
        teacher: the teacher.
        subspace: a subspace of the student's width; its mean must be zero where norms stand before the readers.
        layers: for each block of the student, the position of a block of the teacher; by default evenly spread.
        embeddings_only: leave everything after the embeddings as it was built.
        importance: the importance of heads and neurons, as `measure_importance` returns it; by default it is computed
            from the weights.
        family: the table of weights, for models that are not in `families.FAMILIES`.
        order: of heads, neurons and the channels of heads; see `autodistill.initialization.pairing.Order`.

    Raises:
        ConfigurationError: the two do not fit; all mistakes in one error.

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
    pair = Pairing.of(student, teacher, subspace, layers=layers, importance=importance, family=family, order=order)
    require_fitting(pair)
    method = start_method(pair.family)
    pair.approximations += [*other_settings(pair), *method.lost_weights(pair)]
    method.write(pair, embeddings_only=embeddings_only)
    untouched = tuple(name for name, parameter in student.named_parameters() if parameter not in pair.written)
    start = TeacherStart(
        subspace, pair.layers, pair.correction, method.matcher(pair), tuple(pair.approximations), untouched
    )
    for approximation in start.approximations:
        logger.info("init='teacher': %s", approximation)
    if untouched and not embeddings_only:
        logger.info("init='teacher' leaves as built: %s", ", ".join(untouched))
    return start


def start_method(family: WeightTable) -> StartMethod[Any]:
    """The method that writes students of a family."""
    if isinstance(family, ChannelFamily):
        return ChannelSelection(family)
    if isinstance(family, Family):
        return Projection(family)
    raise TypeError(f"a table must be a Family or a ChannelFamily, but is a {type(family).__name__}.")


def require_fitting(pair: Pairing[Any]) -> None:
    """Check that a student can be written from its teacher.

    Raises:
        ConfigurationError: it cannot; all mistakes in one error.
    """
    method = start_method(pair.family)
    problems = [*coverage_problems(pair), *sharing_problems(pair), *method.subspace_problems(pair)]
    problems += method.problems(pair)
    if problems:
        raise ConfigurationError(problems)


def start_blocker(student: nn.Module, teacher: nn.Module) -> str | None:
    """The reason why the shapes of a student prevent writing it from its teacher; None if nothing does.

    Args:
        student: may be on the device `meta`.
        teacher: the teacher.
    """
    try:
        _, student_base, table = require_family(student, None, "student")
        _, teacher_base, _ = require_family(teacher, None, "teacher")
        width, teacher_width = table.width(student_base), table.width(teacher_base)
        if width is None or teacher_width is None:
            return "it lacks the embeddings that the table of its family names."
        if width > teacher_width:
            return f"the student is wider ({width}) than the teacher ({teacher_width}); leave init out."
        subspace = TeacherSubspace(
            torch.zeros(1, teacher_width), torch.eye(teacher_width)[:, :width], torch.ones(width), explained=1.0
        )
        pair = Pairing.of(student, teacher, subspace)
        problems = [*coverage_problems(pair), *start_method(pair.family).problems(pair)]
    except ConfigurationError as error:
        problems = error.problems
    return " ".join(problems) or None
