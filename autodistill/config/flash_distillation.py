"""The section `flash_distillation`: the student's blocks, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PlainSerializer
from torch import nn

from autodistill.config.phase import (
    MAPPINGS,
    PER_MAPPING,
    LossWeight,
    MappingFunction,
    MappingList,
    PhaseConfig,
    function_name,
    mapping_names,
    one_entry_each,
)
from autodistill.config.section import Count, Disagreement
from autodistill.losses.loss_types import LossName
from autodistill.models.layer_mappings import LayerMapping
from autodistill.tensors import content_hash

PER_BLOCK = (*PER_MAPPING, "add_origin_loss", "train_steps")
"""The settings that may have one entry for each block."""


BlockLossTypes = LossName | tuple[LossName | tuple[LossName, ...], ...]


BlockLossWeights = LossWeight | tuple[LossWeight | tuple[LossWeight, ...], ...]
"""One value for all blocks, or for each block one value or a list for its mappings."""


BlockFunction = Callable[[nn.Module], Sequence[Any]]


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth: settings are immutable."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _projection_name(value: Any) -> Any:
    """The name by which a projection is recorded; a module's includes a hash of its weights."""
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} {content_hash(value.state_dict())}"
    return function_name(value)


class FlashDistillationConfig(PhaseConfig):
    """Flash distillation: the student's blocks one after the other, those before the current one finished and frozen.

    A list has one entry for each block; a single value holds for all.

    Attributes:
        block_names: the path of each block (several paths trained as one may be given as a list), a function
            `student -> such a list`, or None for the student's repeated blocks.
        layer_mappings_for_knowledge_transfer: for each block a list of layer mappings (every form of
            `autodistill.models.layer_mappings.parse_mapping`); a function `(student, teacher) -> such a list`; or None
            for the automatic mapping: block i of n matches the teacher's block `ceil((i + 1) * m / n) - 1` of m (see
            `autodistill.distillation.automatic_mapping` for what else is mapped).
        loss_types: of each block, or a list for its mappings: 'MSE', 'NMSE' (normalised by the teacher's power), 'L1',
            'KL', 'CE' (soft cross-entropy), 'cosine', or another name in `LOSS_TYPES`. 'NMSE' if not given. Without
            blocks and mappings, a pair that begins with 'CE' is the loss of the labels and that of the teacher's
            predictions, for the whole student.
        loss_weights: of each block, or a list for its mappings; 1 if not given.
        add_origin_loss: add the student's own loss (costs a full forward at every step).
        train_steps: optimizer updates of each block.
        automatic_mapping: what it maps in transformers' models: "all" is what blocks return, their attention if both
            models compute it with equally many heads, and, unless `block_names` are given, the embeddings, which train
            with the first block; "blocks" is the first of these alone.
        exact: False keeps captured inputs and the teacher's features as bfloat16: half the memory, at a relative error
            of up to 2⁻⁸ = 0.4% of each number.
        flash_set_gb: the limit on the batches that the steps read in turn, and on the teacher's hidden states for them,
            in GiB; it bounds the number of these batches, at least one.
        inputs: 'student' feeds a block the output of the finished blocks before it; 'teacher' feeds it the teacher's
            hidden state at its position, and trains all blocks in one pass.
        projection: with inputs='teacher', a function that brings the teacher's hidden states (..., teacher width) to
            the student's width; None if the widths agree.
    """

    block_names: Annotated[
        tuple[str | tuple[str, ...], ...] | BlockFunction | None,
        BeforeValidator(_tuples),
        PlainSerializer(function_name),
    ] = None
    layer_mappings_for_knowledge_transfer: Annotated[
        tuple[MappingList, ...] | MappingFunction | None,
        PlainSerializer(mapping_names),
    ] = None
    loss_types: Annotated[BlockLossTypes, BeforeValidator(_tuples)] = "NMSE"
    loss_weights: Annotated[BlockLossWeights, BeforeValidator(_tuples)] = 1.0
    add_origin_loss: Annotated[bool | tuple[bool, ...], BeforeValidator(_tuples)] = False
    train_steps: Annotated[Count | tuple[Count, ...], BeforeValidator(_tuples)] = 500
    automatic_mapping: Literal["blocks", "all"] = "all"
    exact: bool = True
    # Left out of the record at its default: directories of earlier versions do not contain it.
    flash_set_gb: float = Field(default=1.0, gt=0, allow_inf_nan=False, exclude_if=lambda value: value == 1.0)
    inputs: Literal["student", "teacher"] = "student"
    projection: Annotated[Callable[[torch.Tensor], torch.Tensor] | None, PlainSerializer(_projection_name)] = None

    @property
    def on_predictions(self) -> bool:
        """Whether the only stage trains the whole student with the loss on predictions: there is a pair of loss types
        that begins with the labels' cross-entropy, and neither blocks nor mappings."""
        kinds = self.loss_types
        pair = isinstance(kinds, tuple) and len(kinds) == 2 and kinds[0] == "CE"
        return pair and self.block_names is None and self.layer_mappings_for_knowledge_transfer is None

    def length_problems(self, blocks: int, mappings: tuple[tuple[LayerMapping, ...], ...]) -> list[str]:
        """A sentence for each list whose length does not fit the number of blocks or of their mappings."""
        return [mistake.sentence for mistake in self._wrong_lengths(blocks, mappings)]

    def _wrong_lengths(self, blocks: int | None, mappings: Any) -> Iterator[Disagreement]:
        """The lists that do not fit the blocks, if their number is known, and the mappings, unless a function."""
        if blocks == 0:
            yield Disagreement("block_names", "block_names must name at least one block, but is empty.")
            return
        of_blocks = mappings if isinstance(mappings, tuple) else ()
        for setting in (MAPPINGS, *PER_BLOCK):
            value = mappings if setting == MAPPINGS else getattr(self, setting)
            if blocks is not None:
                for sentence in one_entry_each(setting, value, blocks, "block"):
                    yield Disagreement(setting, sentence, ("block_names",))
            for index, of_block in enumerate(of_blocks):
                if setting == MAPPINGS and not of_block:
                    yield Disagreement(MAPPINGS, f"{MAPPINGS}[{index}] must hold at least one mapping, but is empty.")
                if setting in PER_MAPPING and isinstance(value, tuple) and index < len(value):
                    for sentence in one_entry_each(f"{setting}[{index}]", value[index], len(of_block), "mapping"):
                        yield Disagreement(setting, sentence, (MAPPINGS,))

    def _disagreements(self) -> Iterator[Disagreement]:
        yield from super()._disagreements()
        blocks, mappings = self.block_names, self.layer_mappings_for_knowledge_transfer
        yield from self._wrong_lengths(len(blocks) if isinstance(blocks, tuple) else None, mappings)
        if blocks is None and isinstance(mappings, tuple):
            yield Disagreement(MAPPINGS, f"{MAPPINGS} belong to blocks: set block_names too.", ("block_names",))
        configured = [MAPPINGS] if mappings is not None else []
        configured += ["loss_types"] if self.loss_types != "NMSE" else []
        configured += ["loss_weights"] if isinstance(self.loss_weights, tuple) else []
        if configured and self.automatic_mapping == "all" and "automatic_mapping" in self.model_fields_set:
            sentence = (
                f"automatic_mapping='all' chooses mappings and losses, but {' and '.join(configured)} are configured; "
                "leave them or it out."
            )
            yield Disagreement("automatic_mapping", sentence, tuple(configured))
        if self.projection is not None and self.inputs == "student":
            sentence = "projection belongs to inputs='teacher', but inputs is 'student'."
            yield Disagreement("projection", sentence, ("inputs",))
