"""What a student of its teacher's family still does otherwise: weights that it lacks, and other settings."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from autodistill.initialization.pairing import Pairing, Place
from autodistill.models.families import Attention, FeedForward
from autodistill.models.weights import has, part, shape

SETTINGS = (
    "model_type",
    "is_decoder",
    *("hidden_act", "activation", "activation_function", "dense_act_fn"),
    *("pooler_act", "classifier_activation", "normalization_type"),
    *("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"),
    *("rope_parameters", "sliding_window", "relative_attention_max_distance"),
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
)
"""Keys of a transformers configuration that change what the same weights compute."""


def disagreements(pair: Pairing) -> Iterator[str]:
    """Where the two models do not do the same with the same weights, a sentence each."""
    ours, theirs = pair.base_models
    for name in SETTINGS:
        own, given = (getattr(getattr(base, "config", None), name, None) for base in (ours, theirs))
        if own != given:
            yield f"{name} is {given!r} in the teacher, {own!r} in the student: equal weights compute something else."
    if pair.family.axes is None:
        for name in dict.fromkeys([*_lost_embeddings(pair), *_lost_in_blocks(pair)]):
            yield f"the student has no {name!r}, which the teacher has: what it does is lost."


def unlike_parts(pair: Pairing) -> Iterator[str]:
    """What of the blocks cannot be brought together, a sentence each: gates, and tables of position biases."""
    for piece in pair.family.parts:
        if isinstance(piece, FeedForward):
            places = [pair.place(spec, 0) for spec in piece.readers]
            theirs = [place.teacher.path for place in places if has(pair.teacher, place.teacher)]
            ours = [place.student.path for place in places if has(pair.student, place.student)]
            if len(theirs) != len(ours):
                yield (
                    "both models' neurons must be gated, or neither's, but those of the student are read by "
                    f"{', '.join(ours)}, those of the teacher by {', '.join(theirs)}; build the student with the "
                    "teacher's feed-forward layers, or leave init out."
                )
        elif piece.position_table is not None:
            table = Place(pair.teacher_place(piece.position_table, 0), pair.place(piece.position_table, 0).student)
            if not pair.in_both(table):
                continue
            given, own = (
                shape(model, spec)[1] for model, spec in ((pair.teacher, table.teacher), (pair.student, table.student))
            )
            if own != given:
                yield (
                    "tables of position biases are taken row by row, so both models must have as many, but "
                    f"{table.student.path!r} has {own} in the student, {given} in the teacher; build the student with "
                    "the teacher's, or leave init out."
                )


def _lost_embeddings(pair: Pairing) -> Iterator[str]:
    for spec in pair.family.embeddings:
        place = pair.place(spec)
        if has(pair.teacher, place.teacher) and not has(pair.student, place.student):
            yield part(spec).path


def _lost_in_blocks(pair: Pairing) -> Iterator[str]:
    """Names within a block."""
    found = [piece.position_table for piece in pair.family.parts if isinstance(piece, Attention)]
    tables = {part(table).path for table in found if table is not None}  # one block's stands for all
    ours, theirs = (list(base.get_submodule(pair.family.blocks).children()) for base in pair.base_models)
    for block, layer in zip(ours, pair.layers, strict=True):
        own = _names(block)
        for name in _names(theirs[layer]):
            if name not in own and name.removesuffix(".weight") not in tables:
                yield name


def _names(block: nn.Module) -> dict[str, nn.Parameter]:
    return dict(block.named_parameters(remove_duplicate=False))
