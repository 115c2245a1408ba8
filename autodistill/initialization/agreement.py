"""Differences between a student and a teacher of one family: weights that are missing, settings that differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import nn

from autodistill.initialization.pairing import Both, Pairing
from autodistill.models.families import Attention, Family, FeedForward
from autodistill.models.weights import left_out, part

SETTINGS = (
    "model_type",
    *("is_decoder", "use_parallel_residual", "use_bidirectional_attention"),
    *("hidden_act", "activation", "activation_function", "dense_act_fn"),
    *("pooler_act", "classifier_activation", "normalization_type"),
    *("layer_norm_eps", "layer_norm_epsilon", "rms_norm_eps"),
    *("hidden_activation", "norm_eps", "classifier_pooling"),  # ModernBERT
    *("summary_type", "summary_use_proj", "summary_activation"),  # ELECTRA
    *("relative_attention", "position_buckets", "max_relative_positions", "pos_att_type", "share_att_key"),  # DeBERTa
    *("norm_rel_ebd", "position_biased_input", "pooler_hidden_act"),
    *("rope_parameters", "sliding_window", "relative_attention_max_distance"),
    *("scale_attn_weights", "scale_attn_by_inverse_layer_idx"),
)
"""Keys of a transformers configuration that change what the same weights compute."""


def other_settings(pair: Pairing[Any]) -> Iterator[str]:
    """A sentence for each setting with which equal weights compute different results in the two models."""
    configs = {owner: getattr(base, "config", None) for owner, base in pair.base_models.by_owner.items()}
    for name in SETTINGS:
        of_teacher, of_student = (getattr(config, name, None) for config in configs.values())
        if of_student != of_teacher:
            yield (
                f"{name} is {of_teacher!r} in the teacher, {of_student!r} in the student: equal weights compute "
                "different results."
            )
    yield from _other_layer_types(pair, *configs.values())


def _other_layer_types(pair: Pairing[Any], teacher: Any, student: Any) -> Iterator[str]:
    of_teacher, of_student = (getattr(config, "layer_types", None) for config in (teacher, student))
    if of_teacher and of_student:
        for block, (kind, layer) in enumerate(zip(of_student, pair.layers, strict=False)):
            if kind != of_teacher[layer]:
                yield (
                    f"block {block} of the student has {kind!r}, block {layer} of the teacher, from which it comes, "
                    f"{of_teacher[layer]!r}: equal weights compute different results."
                )


def lost_weights(pair: Pairing[Family]) -> Iterator[str]:
    """A sentence for each weight that only the teacher has."""
    for name in dict.fromkeys([*_lost_embeddings(pair), *_lost_in_blocks(pair)]):
        yield f"the student has no {name!r}, which the teacher has: its effect is lost."


def unlike_parts(pair: Pairing[Family]) -> Iterator[str]:
    """A sentence for each incompatibility of the blocks: norms, gates, and tables of position biases."""
    yield from _unlike_norms(pair)
    for unit in pair.family.parts:
        if isinstance(unit, FeedForward):
            readers = [pair.weight(spec, 0) for spec in unit.readers]
            of_teacher = [reader.teacher.path for reader in readers if pair.has_weight(reader).teacher]
            of_student = [reader.student.path for reader in readers if pair.has_weight(reader).student]
            if len(of_teacher) != len(of_student):
                yield (
                    "the neurons of both models must be gated, or those of neither, but the student computes them from "
                    f"{', '.join(of_student)}, the teacher from {', '.join(of_teacher)}; build the student with "
                    "the teacher's feed-forward layers, or leave init out."
                )
        elif unit.position_table is not None:
            table = Both(pair.weight(unit.position_table, 0).student, pair.teacher_weight(unit.position_table, 0))
            if not pair.in_both(table):
                continue
            shapes = pair.shapes(table)
            if shapes.student[1] != shapes.teacher[1]:
                yield (
                    "tables of position biases are copied row by row, so both models must have as many rows, but "
                    f"{table.student.path!r} has {shapes.student[1]} in the student, {shapes.teacher[1]} in the "
                    "teacher; build the student with the teacher's, or leave init out."
                )


def _unlike_norms(pair: Pairing[Family]) -> Iterator[str]:
    for block in range(len(pair.layers)):
        for unit in pair.family.parts:
            norm = pair.weight(unit.norm, block)
            without = Both(left_out(pair.student, norm.student), left_out(pair.teacher, norm.teacher))
            if without.student != without.teacher:
                bare, other = ("student", "teacher") if without.student else ("teacher", "student")
                yield (
                    "a block that reads the stream without a norm must correspond to such a block, but the "
                    f"{bare}'s {norm.by_owner[bare].path!r} is none, and the {other}'s {norm.by_owner[other].path!r} "
                    "is one; choose other layers."
                )


def _lost_embeddings(pair: Pairing[Family]) -> Iterator[str]:
    for spec in pair.family.embeddings:
        found = pair.has_weight(pair.weight(spec))
        if found.teacher and not found.student:
            yield part(spec).path


def _lost_in_blocks(pair: Pairing[Family]) -> Iterator[str]:
    """Names within a block."""
    found = [unit.position_table for unit in pair.family.parts if isinstance(unit, Attention)]
    tables = {part(table).path for table in found if table is not None}  # the table of one block serves all of them
    bases = pair.base_models
    teacher_blocks = list(bases.teacher.get_submodule(pair.family.blocks).children())
    for block, layer in zip(bases.student.get_submodule(pair.family.blocks).children(), pair.layers, strict=True):
        of_student = _names(block)
        for name in _names(teacher_blocks[layer]):
            if name not in of_student and name.removesuffix(".weight") not in tables:
                yield name


def _names(block: nn.Module) -> dict[str, nn.Parameter]:
    return dict(block.named_parameters(remove_duplicate=False))
