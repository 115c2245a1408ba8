"""What a student computes behind its last block, written from the teacher's: language, classes, pooling."""

from __future__ import annotations

import torch

from autodistill.initialization.heads import strongest
from autodistill.initialization.pairing import Pairing, Place, Reader
from autodistill.models.families import Hidden, Output, Weight
from autodistill.models.weights import Affine, Part, join, norm_of, parameters, part, read, shape

TIED = (
    "the student's output table is its embedding table, which cannot take in the gain of the last norm; set "
    "tie_word_embeddings=False for the exact form."
)


def write_outputs(pair: Pairing) -> None:
    """Write the last norm and everything behind it."""
    outputs = outputs_of(pair)
    reader = _final_reader(pair, outputs)
    kept: dict[str, torch.Tensor] = {}
    for output in outputs:
        _write_output(pair, output, reader, kept)


def matcher(pair: Pairing) -> Affine:
    """The way back, from the student's last hidden states to the teacher's: a weight (D, d) and a bias (D,)."""
    if not pair.family.norms_before or pair.family.final_norm is None:
        return Affine(pair.subspace.up, pair.subspace.mean(pair.layers[-1] + 1))
    norm = pair.place(pair.family.final_norm)
    gain, bias = norm_of(pair.teacher, norm.teacher.path)
    own_gain, own_bias = norm_of(pair.student, norm.student.path)
    weight = gain[:, None] * pair.subspace.directions * (pair.correction / own_gain)
    return Affine(weight, bias - weight @ own_bias)


def _final_reader(pair: Pairing, outputs: list[Output]) -> Reader:
    boundary, norm = pair.layers[-1] + 1, pair.family.final_norm
    if norm is not None and pair.family.norms_before and _tied(pair, outputs):
        place = pair.place(norm)
        gain, bias = norm_of(pair.teacher, place.teacher.path)
        pair.write_norm(place, pair.rotated_gain(gain) * pair.scale, bias @ pair.subspace.up)
        pair.approximations.append(TIED)
        return Reader(pair.subspace.down, torch.zeros_like(bias))
    if norm is not None and not pair.family.norms_before:
        pair.norm_behind(pair.place(norm), boundary)
    specs = [output.hidden.reader if output.hidden else output.last for output in outputs]
    readers = [output_place(pair, spec).student for spec in specs if spec is not None]
    return pair.reader(pair.place(norm) if norm is not None else None, boundary, readers)


def output_place(pair: Pairing, spec: Weight) -> Place:
    """Outputs lie beside the base model, or inside it where their path begins with {base}."""
    chosen = part(spec)
    paths = []
    for base in pair.bases:
        inside = chosen.path.startswith("{base}.")
        paths.append(join(base if inside else base.rpartition(".")[0], chosen.path.removeprefix("{base}.")))
    return Place(Part(paths[1], chosen.index, chosen.of), Part(paths[0], chosen.index, chosen.of))


def outputs_of(pair: Pairing) -> list[Output]:
    """Those of the family that both models have."""
    return [output for output in pair.family.outputs if _present(pair, output)]


def _present(pair: Pairing, output: Output) -> bool:
    specs = [output.last, output.hidden.reader if output.hidden else None]
    return all(pair.in_both(output_place(pair, spec)) for spec in specs if spec is not None)


def _tied(pair: Pairing, outputs: list[Output]) -> bool:
    tables = {parameters(pair.student, pair.place(spec).student)[0] for spec in pair.embeddings}
    lasts = [output.last for output in outputs if output.last is not None and output.hidden is None]
    return any(parameters(pair.student, output_place(pair, last).student)[0] in tables for last in lasts)


def _write_output(pair: Pairing, output: Output, reader: Reader, kept: dict[str, torch.Tensor]) -> None:
    if output.hidden is not None:
        _write_hidden(pair, output.hidden, reader, kept)
    if output.last is None:
        return
    place = output_place(pair, output.last)
    if pair.written.issuperset(parameters(pair.student, place.student)):
        return  # tied to the embeddings, or written by an entry of the table that says more
    given = read(pair.teacher, place.teacher)
    if output.hidden is None:
        given = reader(given)
    elif output.hidden.spans_stream:
        given = Affine(given.weight @ pair.subspace.down, given.bias)
    else:
        given = Affine(given.weight[:, kept[output_place(pair, output.hidden.reader).student.path]], given.bias)
    pair.write(place.student, given)


def _write_hidden(pair: Pairing, hidden: Hidden, reader: Reader, kept: dict[str, torch.Tensor]) -> None:
    """The strongest neurons; or, where a table of embeddings reads them, their projection."""
    place = output_place(pair, hidden.reader)
    if place.student.path in kept:
        return
    given = reader(read(pair.teacher, place.teacher))
    if not hidden.spans_stream:
        chosen = strongest(given.weight.norm(dim=1), shape(pair.student, place.student)[0])
        kept[place.student.path] = chosen
        pair.write(place.student, Affine(given.weight[chosen], given.bias[chosen] if given.bias is not None else None))
        return
    directions = pair.subspace.directions
    bias = given.bias @ directions if given.bias is not None else None
    pair.write(place.student, Affine(directions.T @ given.weight, bias))
    if hidden.norm is not None:
        norm = output_place(pair, hidden.norm)
        gain, shift = norm_of(pair.teacher, norm.teacher.path)
        pair.write_norm(norm, pair.rotated_gain(gain) * pair.scale, shift @ pair.subspace.up)
