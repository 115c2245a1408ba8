"""Writes what follows a student's last block from the teacher: language-model heads, classifiers, pooling."""

from __future__ import annotations

import torch

from autodistill.initialization.pairing import Both, Pairing
from autodistill.initialization.stream import Reader, read_after, rotated_gain, stream_scale, write_norm_after_sum
from autodistill.models.families import Family, Hidden, Output, Weight, output_path
from autodistill.models.weights import Affine, Part, parameters, part, read, shape

TIED = (
    "the student's output table is its embedding table, which cannot absorb the gain of the last norm; set "
    "tie_word_embeddings=False for the exact form."
)


def write_outputs(pair: Pairing[Family]) -> None:
    """Write the last norm and everything after it."""
    outputs = outputs_of(pair)
    reader = _final_reader(pair, outputs)
    kept: dict[str, torch.Tensor] = {}
    for output in outputs:
        _write_output(pair, output, reader, kept)


def output_matcher(pair: Pairing[Family]) -> Affine:
    """The map from the student's last hidden states to the teacher's: a weight (D, d) and a bias (D,)."""
    if not pair.family.norms_before or pair.family.final_norm is None:
        return Affine(pair.subspace.up, pair.subspace.mean(pair.boundary(len(pair.layers))))
    norm = pair.weight(pair.family.final_norm)
    norms = pair.norms(norm)
    (gain, bias), (student_gain, student_bias) = norms.teacher, norms.student
    weight = gain[:, None] * pair.subspace.directions * (pair.correction / student_gain)
    return Affine(weight, bias - weight @ student_bias)


def _final_reader(pair: Pairing[Family], outputs: list[Output]) -> Reader:
    boundary = pair.boundary(len(pair.layers))
    norm = pair.weight(pair.family.final_norm) if pair.family.final_norm is not None else None
    if norm is not None and pair.family.norms_before and _tied(pair, outputs):
        gain, bias = pair.norms(norm).teacher
        scale = stream_scale(pair) / pair.embedding_factor
        pair.write_norm(norm.student, rotated_gain(pair, gain) * scale, bias @ pair.subspace.up)
        pair.approximations.append(TIED)
        return Reader(pair.subspace.down, torch.zeros_like(bias))
    if norm is not None and not pair.family.norms_before:
        write_norm_after_sum(pair, norm, boundary)
    specs = [output.hidden.reader if output.hidden else output.last for output in outputs]
    readers = [output_weight(pair, spec).student for spec in specs if spec is not None]
    return read_after(pair, norm, boundary, readers)


def output_weight(pair: Pairing[Family], spec: Weight) -> Both[Part]:
    """Outputs are next to the base model, or inside it if their path begins with {base}."""
    chosen, paths = part(spec), pair.base_paths
    of_student, of_teacher = (output_path(spec, base) for base in (paths.student, paths.teacher))
    return Both(Part(of_student, chosen.index, chosen.of), Part(of_teacher, chosen.index, chosen.of))


def outputs_of(pair: Pairing[Family]) -> list[Output]:
    """The outputs of the family that both models have."""
    return [output for output in pair.family.outputs if _present(pair, output)]


def _present(pair: Pairing[Family], output: Output) -> bool:
    specs = [output.last, output.hidden.reader if output.hidden else None]
    return all(pair.in_both(output_weight(pair, spec)) for spec in specs if spec is not None)


def _tied(pair: Pairing[Family], outputs: list[Output]) -> bool:
    tables = {parameters(pair.student, pair.weight(spec).student)[0] for spec in pair.embeddings}
    lasts = [output.last for output in outputs if output.last is not None and output.hidden is None]
    return any(parameters(pair.student, output_weight(pair, last).student)[0] in tables for last in lasts)


def _write_output(pair: Pairing[Family], output: Output, reader: Reader, kept: dict[str, torch.Tensor]) -> None:
    if output.hidden is not None:
        _write_hidden(pair, output.hidden, reader, kept)
    if output.bias is not None:
        bias = output_weight(pair, output.bias)
        pair.write(bias.student, read(pair.teacher, bias.teacher))
    if output.last is None:
        return
    last = output_weight(pair, output.last)
    if pair.written.issuperset(parameters(pair.student, last.student)):
        return  # tied to the embeddings, or written by a more specific entry of the table
    affine = read(pair.teacher, last.teacher)
    if output.hidden is None:
        affine = reader.beside(affine, output.reads)
    elif output.hidden.spans_stream and pair.has_own_embeddings:
        pass  # the hidden layer has the channels of the teacher's
    elif output.hidden.spans_stream:
        affine = Affine(affine.weight @ pair.subspace.down, affine.bias)
    else:
        affine = Affine(affine.weight[:, kept[output_weight(pair, output.hidden.reader).student.path]], affine.bias)
    pair.write(last.student, affine)


def _write_hidden(pair: Pairing[Family], hidden: Hidden, reader: Reader, kept: dict[str, torch.Tensor]) -> None:
    """Select the strongest neurons; where a table of embeddings reads them, project them as it is projected."""
    layer = output_weight(pair, hidden.reader)
    if layer.student.path in kept:
        return
    affine = reader(read(pair.teacher, layer.teacher))
    norm = output_weight(pair, hidden.norm) if hidden.norm is not None else None
    if not hidden.spans_stream or pair.has_own_embeddings:
        count = shape(pair.student, layer.student)[0]
        # A table of embeddings reads the channels in the order of the teacher's.
        chosen = torch.arange(count) if hidden.spans_stream else pair.strongest(affine.weight.norm(dim=1), count)
        kept[layer.student.path] = chosen
        bias = affine.bias[chosen] if affine.bias is not None else None
        pair.write(layer.student, Affine(affine.weight[chosen], bias))
        if norm is not None:
            gain, shift = pair.norms(norm).teacher
            pair.write_norm(norm.student, gain[chosen], shift[chosen])
        return
    directions = pair.subspace.directions
    bias = affine.bias @ directions if affine.bias is not None else None
    pair.write(layer.student, Affine(directions.T @ affine.weight, bias))
    if norm is not None:
        gain, shift = pair.norms(norm).teacher
        pair.write_norm(norm.student, rotated_gain(pair, gain) * stream_scale(pair), shift @ pair.subspace.up)
