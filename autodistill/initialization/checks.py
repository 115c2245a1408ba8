"""What must fit before a student is written from its teacher, a sentence for each mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.agreement import unlike_parts
from autodistill.initialization.channel_selection import selection_problems
from autodistill.initialization.outputs import output_place, outputs_of
from autodistill.initialization.pairing import Pairing
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.families import Attention, Family, Weight, require_family
from autodistill.models.weights import Part, has, has_bias, join, part, shape, takes_in_constants


def require_fitting(pair: Pairing) -> None:
    """See that a student can be written from its teacher.

    Raises:
        ConfigurationError: it cannot; all mistakes at once.
    """
    problems = [*_sharing_problems(pair), *_subspace_problems(pair), *_shape_problems(pair)]
    if problems:
        raise ConfigurationError(problems)


def _sharing_problems(pair: Pairing) -> Iterator[str]:
    theirs = {id(parameter) for parameter in pair.teacher.parameters()}
    shared = [name for name, parameter in pair.base_models[0].named_parameters() if id(parameter) in theirs]
    if shared:
        yield (
            "a student that is written from its teacher must share no parameter with it, but "
            f"{', '.join(map(repr, shared[:3]))}{' and others are' * (len(shared) > 3) or ' is'} the teacher's own; "
            "give the student copies (copy.deepcopy)."
        )


def why_not_inside(student: nn.Module, teacher: nn.Module) -> str | None:
    """Why a student cannot be written from its teacher, as far as their shapes tell; None where it can.

    Args:
        student: may be on the device `meta`.
        teacher: the teacher.
    """
    try:
        _, own, table = require_family(student, None, "student")
        _, base, _ = require_family(teacher, None, "teacher")
        spec = next(spec for spec in table.embeddings if has(own, spec) and has(base, spec))
        width, teacher_width = (shape(model, spec)[0] for model in (own, base))
        if width > teacher_width:
            return f"the student is wider ({width}) than the teacher ({teacher_width}); leave init out."
        subspace = TeacherSubspace(
            torch.zeros(1, teacher_width), torch.eye(teacher_width)[:, :width], torch.ones(width), explained=1.0
        )
        problems = _shape_problems(Pairing.of(student, teacher, subspace))
    except ConfigurationError as error:
        problems = error.problems
    return " ".join(problems) or None


def why_no_mean(teacher: nn.Module, path: str, family: Family) -> str | None:
    """What keeps students from taking in the mean that is taken off the stream; None where nothing does.

    Args:
        teacher: any model around a base model.
        path: of the base model.
        family: of it.
    """
    if family.norms_before:
        return "norms before what reads the stream"
    if family.final_norm is not None:
        return "a norm behind its last block"
    base = teacher.get_submodule(path)
    blocks = [f"{family.blocks}.{index}" for index in range(family.depth(base))]
    maps = [Part(join(block, spec.path), spec.index, spec.of) for block in blocks for spec in _specs(family)]
    if not all(has_bias(base, spec) for spec in maps if has(base, spec)):
        return "maps or norms without bias in its blocks"
    tables = [spec for spec in family.embeddings if has(base, spec)]
    if family.embedding_norm is None and not any(takes_in_constants(base, spec) for spec in tables):
        return "neither norm nor bias in its embeddings"
    return None


def _shape_problems(pair: Pairing) -> list[str]:
    problems = [*_layer_problems(pair)] or [*_table_problems(pair)]
    problems = problems or [*_head_problems(pair), *unlike_parts(pair)]
    problems += [*_embedding_problems(pair), *_output_problems(pair)]
    if pair.family.axes is not None and not problems:
        problems += selection_problems(pair)
    return problems


def _layer_problems(pair: Pairing) -> Iterator[str]:
    depth, own = pair.depths
    known = all(isinstance(layer, int) and 0 <= layer < depth for layer in pair.layers)
    if len(pair.layers) != own or not known:
        yield (
            f"layers must name one of the teacher's {depth} blocks (0 to {depth - 1}) for each of the student's {own}, "
            f"but is {list(pair.layers)}."
        )


def _table_problems(pair: Pairing) -> Iterator[str]:
    """What the table names must be there; one model may lack an embedding, and a block some of its readers."""
    family, blocks = pair.family, range(len(pair.layers))
    norms = [pair.place(norm) for norm in (family.embedding_norm, family.final_norm) if norm is not None]
    wanted = [[place] for place in norms]
    wanted += [[pair.place(spec, block) for spec in specs] for block in blocks for specs in _needed(family)]
    for owner, model in (("teacher", pair.teacher), ("student", pair.student)):
        places = [[getattr(place, owner) for place in alternatives] for alternatives in wanted]
        missing = [found[0].path for found in places if not any(has(model, place) for place in found)]
        if missing:
            yield (
                f"the {owner} must have the weights that the table of its family names, but has none at "
                f"{', '.join(map(repr, dict.fromkeys(missing)))}; mend the table."
            )
    embeddings = [(part(spec).path, pair.place(spec)) for spec in family.embeddings]
    nowhere = [
        repr(path)
        for path, place in embeddings
        if not has(pair.teacher, place.teacher) and not has(pair.student, place.student)
    ]
    if nowhere:
        yield f"the table of a family must name embeddings, but neither model has {', '.join(nowhere)}; mend the table."


def _needed(family: Family) -> Iterator[Sequence[Weight]]:
    """Of each block; one weight of each sequence is enough."""
    for piece in family.parts:
        yield from ([piece.output], [piece.norm])
        yield from [[piece.query], [piece.key], [piece.value]] if isinstance(piece, Attention) else [piece.readers]


def _specs(family: Family) -> list[Part]:
    return [part(spec) for specs in _needed(family) for spec in specs]


def _head_problems(pair: Pairing) -> Iterator[str]:
    if not any(isinstance(piece, Attention) for piece in pair.family.parts):
        return
    for owner, model, sizes in zip(("teacher", "student"), (pair.teacher, pair.student), pair.head_sizes, strict=True):
        if sizes.heads % sizes.key_value_heads:
            yield (
                f"the number of heads must be a multiple of the key-value heads, but the {owner} has {sizes.heads} and "
                f"{sizes.key_value_heads}."
            )
        for piece in pair.family.parts:
            if not isinstance(piece, Attention):
                continue
            if piece.rotary and sizes.channels % 2:
                yield f"rotary heads need an even number of channels, but the {owner}'s have {sizes.channels}."
            place = pair.place(piece.query, 0)
            rows, _ = shape(model, getattr(place, owner))
            if rows != sizes.heads * sizes.channels:
                yield (
                    f"queries must be divided evenly into heads, but {getattr(place, owner).path!r} of the {owner} has "
                    f"{rows} channels for {sizes.heads} heads of {sizes.channels}; choose a number of heads that "
                    "divides the width, or mend `heads` in the table of its family."
                )


def _subspace_problems(pair: Pairing) -> Iterator[str]:
    """Not every family takes in a mean; LayerNorms before the readers take off the mean over channels."""
    boundaries, known = len(pair.subspace.means), pair.depths[0] + 1
    if boundaries not in (1, known):
        yield (
            f"a subspace must have one mean, or one for each of the {known} boundaries of the teacher's "
            f"{known - 1} blocks, but it has {boundaries}; decompose this teacher's stream."
        )
    keeps_constant = pair.family.norms_before and pair.family.centred
    arguments = 'centring="none"' + (", keeps_constant=True" if keeps_constant else "")
    reason = why_no_mean(pair.teacher, pair.bases[1], pair.family)
    if reason is not None and bool(pair.subspace.means.any()):
        yield (
            f"a family with {reason} needs a subspace of mean zero, but this one has a mean; use "
            f"decompose(..., {arguments})."
        )
    rows = pair.subspace.directions.sum(1)
    if keeps_constant and float((rows - rows.mean()).norm()) > 1e-5 * float(rows.norm()):
        yield (
            "a family with LayerNorms before what reads the stream needs a subspace that keeps the constant vector "
            f"(P·1 parallel to 1), but this one does not; use decompose(..., {arguments})."
        )


def _embedding_problems(pair: Pairing) -> Iterator[str]:
    looked_up = {name for name, module in pair.student.named_modules() if isinstance(module, nn.Embedding)}
    for spec in pair.embeddings:
        place = pair.place(spec)
        (theirs, given), (ours, rows) = shape(pair.teacher, place.teacher), shape(pair.student, place.student)
        if ours != pair.subspace.width or theirs != pair.subspace.teacher_width:
            yield (
                f"the subspace must lead from the teacher's width to the student's, but it leads from "
                f"{pair.subspace.teacher_width} to {pair.subspace.width}, and {part(spec).path!r} is {theirs} wide in "
                f"the teacher, {ours} in the student."
            )
            continue
        # Where a table is looked up, the first positions are those of a shorter text; an image's grid is added whole.
        fewer = "position" in part(spec).path and place.student.path in looked_up
        if rows > given or (rows < given and not fewer):
            yield (
                "embeddings are taken row by row, so both models must have as many (of a text's positions, a student "
                f"may have fewer), but of {part(spec).path!r} the student has {rows}, the teacher {given}; build the "
                "student with the teacher's vocabulary (or size of images and patches), or leave init out."
            )


def _output_problems(pair: Pairing) -> Iterator[str]:
    lasts = [output.last for output in outputs_of(pair) if output.last is not None]
    for place in dict.fromkeys(output_place(pair, last) for last in lasts):
        theirs, ours = shape(pair.teacher, place.teacher)[0], shape(pair.student, place.student)[0]
        if theirs != ours:
            yield (
                f"outputs are taken from the teacher, so both models must have as many, but {place.student.path!r} has "
                f"{ours} in the student, {theirs} in the teacher; build the student with the teacher's, or leave init "
                "out."
            )
