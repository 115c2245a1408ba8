"""The lists of a phase's settings, whose lengths must agree with its blocks and mappings."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from autodistill.losses.loss_types import pair_type_problems

MAPPINGS = "layer_mappings_for_knowledge_transfer"


PER_MAPPING = ("loss_types", "loss_weights")


PER_BLOCK = (*PER_MAPPING, "add_origin_loss", "train_steps")


def block_problems(field: str, value: Any, blocks: int, mappings: Any) -> Iterator[str]:
    """What is wrong with the length of one list of flash distillation, and with those of the lists in it."""
    if not isinstance(value, tuple):
        return
    if field == "block_names":
        if not value:
            yield "block_names must name at least one block, but is empty."
        return
    if len(value) != blocks:
        yield f"{field} must have one entry for each block, but has {len(value)} for {blocks} blocks."
    for index, block_mappings in enumerate(mappings if isinstance(mappings, tuple) else ()):
        if field == MAPPINGS and not block_mappings:
            yield f"{field}[{index}] must hold at least one mapping, but is empty."
        if field in PER_MAPPING and index < len(value):
            yield from count_problems(f"{field}[{index}]", value[index], len(block_mappings))


def count_problems(field: str, value: Any, mappings: int) -> Iterator[str]:
    """What is wrong with the length of a list that has one entry for each mapping."""
    if isinstance(value, tuple) and len(value) != mappings:
        yield f"{field} must have one entry for each mapping, but has {len(value)} for {mappings} mappings."


def pair_problems(field: str, value: tuple[Any, ...], loss_types: Any) -> Iterator[str]:
    """What is wrong with a list that, for want of mappings, holds the entries of the labels and of the teacher."""
    if len(value) != 2 or not isinstance(loss_types, tuple):
        yield (
            f"{field} without {MAPPINGS} is one value, or a pair for the labels and the teacher (loss_types and "
            f"loss_weights alike), but got {list(value)}."
        )
    elif field == "loss_types":
        yield from pair_type_problems(value)
