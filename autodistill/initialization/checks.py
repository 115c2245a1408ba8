"""Checks before a student is written from its teacher; each yields a sentence for every mistake."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from autodistill.initialization.outputs import output_weight, outputs_of
from autodistill.initialization.pairing import Pairing
from autodistill.models.families import Attention, Family, Weight
from autodistill.models.weights import has, has_bias, left_out, part, shape


def sharing_problems(pair: Pairing[Any]) -> Iterator[str]:
    """Student and teacher must share no parameter."""
    of_teacher = {id(parameter) for parameter in pair.teacher.parameters()}
    parameters = pair.base_models.student.named_parameters()
    shared = [name for name, parameter in parameters if id(parameter) in of_teacher]
    if shared:
        yield (
            "a student that is written from its teacher must share no parameter with it, but "
            f"{', '.join(map(repr, shared[:3]))}{' and others are' * (len(shared) > 3) or ' is'} the teacher's own; "
            "give the student copies (copy.deepcopy)."
        )


def layer_problems(pair: Pairing[Any]) -> Iterator[str]:
    """Every block of the student must come from one of the teacher."""
    depths = pair.depths
    known = all(isinstance(layer, int) and 0 <= layer < depths.teacher for layer in pair.layers)
    if len(pair.layers) != depths.student or not known:
        yield (
            f"layers must name one of the teacher's {depths.teacher} blocks (0 to {depths.teacher - 1}) for each of "
            f"the student's {depths.student}, but is {list(pair.layers)}."
        )


def refused_problems(pair: Pairing[Family]) -> Iterator[str]:
    """A model must not have the modules that its table refuses."""
    for path, reason in (pair.family.refused or {}).items():
        weight = pair.weight(path)
        for owner, base in pair.base_models.by_owner.items():
            if any(name == path for name, _ in base.named_modules()):
                yield (
                    f"the table of the weights of a {type(base).__name__} does not cover every module, but the {owner} "
                    f"has {weight.by_owner[owner].path!r}, and {reason}; leave init out."
                )


def table_problems(pair: Pairing[Family]) -> Iterator[str]:
    """Weights that the table names must exist; one model may lack an embedding, and a block some of its readers."""
    family, blocks = pair.family, range(len(pair.layers))
    norms = [pair.weight(norm) for norm in (family.embedding_norm, family.final_norm) if norm is not None]
    required = [[norm] for norm in norms]
    required += [
        [pair.weight(spec, block) for spec in specs] for block in blocks for specs in family.required_weights()
    ]
    for owner, model in pair.models.by_owner.items():
        weights = [[weight.by_owner[owner] for weight in alternatives] for alternatives in required]
        present = [
            any(has(model, one) or (family.norms_before and left_out(model, one)) for one in found) for found in weights
        ]
        missing = [found[0].path for found, has_one in zip(weights, present, strict=True) if not has_one]
        if missing:
            yield (
                f"the {owner} must have the weights that the table of its family names, but has none at "
                f"{', '.join(map(repr, dict.fromkeys(missing)))}; fix the table."
            )
    yield from missing_embeddings(pair)


def setting_problems(pair: Pairing[Family]) -> Iterator[str]:
    """The table must hold for the configurations of both models."""
    for owner, base in pair.base_models.by_owner.items():
        config = getattr(base, "config", None)
        for name, required in pair.family.settings.items():
            found = getattr(config, name, required)
            if found != required:
                yield (
                    f"the table of the weights of a {type(base).__name__} holds if {name} is {required!r}, but the "
                    f"{owner} has {found!r}; use another model, or leave init out."
                )


def missing_embeddings(pair: Pairing[Any]) -> Iterator[str]:
    """An embedding that the table names must be in one of the models, unless their configurations leave it out."""
    bases, embeddings = pair.base_models.by_owner.values(), map(part, pair.family.embeddings)
    nowhere = [
        repr(spec.path) for spec in embeddings if not any(has(base, spec) or left_out(base, spec) for base in bases)
    ]
    if nowhere:
        yield f"the table of a family must name embeddings, but neither model has {', '.join(nowhere)}; fix the table."


def head_problems(pair: Pairing[Family]) -> Iterator[str]:
    """The number of heads must divide the size of their maps, and rotary heads must be of an even size."""
    attentions = [unit for unit in pair.family.parts if isinstance(unit, Attention)]
    if not attentions:
        return
    yield from _partly_rotary(pair, attentions)
    for owner, sizes in pair.head_sizes.by_owner.items():
        if sizes.heads % sizes.key_value_heads:
            yield (
                f"the number of heads must be a multiple of the key-value heads, but the {owner} has {sizes.heads} and "
                f"{sizes.key_value_heads}."
            )
        for attention in attentions:
            if attention.rotary and sizes.channels % 2:
                yield f"rotary heads need an even number of channels, but the {owner}'s have {sizes.channels}."
            query = pair.weight(attention.query, 0).by_owner[owner]
            rows, _ = shape(pair.models.by_owner[owner], query)
            if rows != sizes.heads * sizes.channels:
                yield (
                    f"queries must be divided evenly into heads, but {query.path!r} of the {owner} has "
                    f"{rows} channels for {sizes.heads} heads of {sizes.channels}; choose a number of heads that "
                    "divides the width, or fix `heads` in the table of its family."
                )


def _partly_rotary(pair: Pairing[Family], attentions: Sequence[Attention]) -> Iterator[str]:
    """Heads of which only a share of the channels rotates must be of one size in both models."""
    sizes = pair.head_sizes
    rotates = any(attention.rotary for attention in attentions) and sizes.student.channels != sizes.teacher.channels
    for owner, base in pair.base_models.by_owner.items() if rotates else ():
        share = (getattr(getattr(base, "config", None), "rope_parameters", None) or {}).get("partial_rotary_factor", 1)
        if share != 1:
            yield (
                f"heads that rotate a share of their channels (partial_rotary_factor={share}, in the {owner}) must be "
                f"of one size in both models, but the student's have {sizes.student.channels} channels, the teacher's "
                f"{sizes.teacher.channels}; choose heads of equal sizes, or leave init out."
            )


def boundary_problems(pair: Pairing[Any]) -> Iterator[str]:
    """The subspace must have means for the teacher's blocks."""
    boundaries, known = len(pair.subspace.means), pair.depths.teacher + 1
    if boundaries not in (1, known):
        yield (
            f"a subspace must have one mean, or one for each of the {known} boundaries of the teacher's "
            f"{known - 1} blocks, but it has {boundaries}; decompose this teacher's stream."
        )


def mean_problems(pair: Pairing[Family]) -> Iterator[str]:
    """Not every family can absorb a mean; LayerNorms before the readers subtract the mean over channels."""
    family = pair.family
    arguments = 'centring="none"' + (", keeps_constant=True" if family.keeps_constant else "")
    reason = family.mean_blocker(pair.base_models.teacher)
    if reason is not None and bool(pair.subspace.means.any()):
        yield (
            f"a family with {reason} needs a subspace of mean zero, but this one has a mean; use "
            f"decompose(..., {arguments})."
        )
    rows = pair.subspace.directions.sum(1)
    if family.keeps_constant and float((rows - rows.mean()).norm()) > 1e-5 * float(rows.norm()):
        yield (
            "a family with LayerNorms before what reads the stream needs a subspace that keeps the constant vector "
            f"(P·1 parallel to 1), but this one does not; use decompose(..., {arguments})."
        )


def embedding_problems(pair: Pairing[Any]) -> Iterator[str]:
    """Embeddings must have the widths of the subspace (or of a space of their own), and the same number of rows."""
    looked_up = {name for name, module in pair.student.named_modules() if isinstance(module, nn.Embedding)}
    positions = getattr(pair.family, "position_rows", None)
    rows_of_positions = [positions] if positions is not None and pair.in_both(pair.weight(positions)) else []
    for spec in [*pair.embeddings, *rows_of_positions]:
        table = pair.weight(spec)
        shapes = pair.shapes(table)
        (width, rows), (teacher_width, teacher_rows) = shapes.student, shapes.teacher
        if pair.has_own_embeddings:
            if width != teacher_width:
                yield (
                    "embeddings that a map leads to the stream are copied, so both models must have the same, but "
                    f"{part(spec).path!r} is {teacher_width} wide in the teacher, {width} in the student; build the "
                    "student with the teacher's width of embeddings, or leave init out."
                )
        elif width != pair.subspace.width or teacher_width != pair.subspace.teacher_width:
            yield (
                f"the subspace must lead from the teacher's width to the student's, but it leads from "
                f"{pair.subspace.teacher_width} to {pair.subspace.width}, and {part(spec).path!r} is {teacher_width} "
                f"wide in the teacher, {width} in the student."
            )
            continue
        if "position" in part(spec).path:
            yield from _first_row_problems(pair, spec)
        # A shorter text looks up the first rows of a position table; that of an image is added as a whole.
        fewer = "position" in part(spec).path and table.student.path in looked_up
        if rows > teacher_rows or (rows < teacher_rows and not fewer):
            yield (
                "embeddings are copied row by row, so both models must have as many rows (of a text's positions, a "
                f"student may have fewer), but of {part(spec).path!r} the student has {rows}, the teacher "
                f"{teacher_rows}; "
                "build the student with the teacher's vocabulary (or size of images and patches), or leave init out."
            )


def _first_row_problems(pair: Pairing[Any], spec: Weight) -> Iterator[str]:
    """Positions are counted after the row of padding, if a table has one, as RoBERTa's does and BERT's does not."""
    table = pair.weight(spec)
    padding = {
        owner: getattr(pair.models.by_owner[owner].get_submodule(weight.path), "padding_idx", None)
        for owner, weight in table.by_owner.items()
        if has(pair.models.by_owner[owner], weight) and weight.path in dict(pair.models.by_owner[owner].named_modules())
    }
    if len(set(padding.values())) > 1:
        yield (
            "embeddings are copied row by row, so both models must count positions from the same row, but "
            f"{part(spec).path!r} has padding_idx={padding['teacher']} in the teacher, {padding['student']} in the "
            "student; build students of the teacher's family, or leave init out."
        )


def embedding_map_problems(pair: Pairing[Family]) -> Iterator[str]:
    """A student without a map from its embeddings to its stream cannot have what the teacher's computes."""
    if pair.family.embedding_map is None:
        return
    leads = pair.weight(pair.family.embedding_map)
    found = pair.has_weight(leads)
    if found.teacher and not found.student:
        yield (
            "the student must have a map from its embeddings to its stream, since the teacher has one "
            f"({leads.teacher.path!r}) after the norm of its embeddings, but it has none, because both are of the same "
            "width; choose another width of the stream (hidden_size), or leave init out."
        )
    if found.student and not pair.family.norms_before and not has_bias(pair.student, leads.student):
        yield (
            f"a map from the embeddings to the stream must have a bias, which absorbs the mean, but "
            f"{leads.student.path!r} has none; leave init out."
        )


def output_problems(pair: Pairing[Family]) -> Iterator[str]:
    """Both models must have the same number of outputs."""
    lasts = [output.last for output in outputs_of(pair) if output.last is not None]
    for weight in dict.fromkeys(output_weight(pair, last) for last in lasts):
        shapes = pair.shapes(weight)
        if shapes.student[0] != shapes.teacher[0]:
            yield (
                "outputs are copied from the teacher, so both models must have as many, but "
                f"{weight.student.path!r} has {shapes.student[0]} in the student, {shapes.teacher[0]} in the teacher; "
                "build the student with the teacher's, or leave init out."
            )
