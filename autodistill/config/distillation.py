"""The settings of the two phases, flash and regular distillation: typed, immutable, checked as a whole."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import (
    BeforeValidator,
    Field,
    PlainSerializer,
    ValidationInfo,
    field_validator,
)
from torch import nn

from autodistill.config.lengths import MAPPINGS, PER_BLOCK, PER_MAPPING, block_problems, count_problems, pair_problems
from autodistill.config.section import Count, Section
from autodistill.config.temperature import Temperature
from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping, parse_mapping
from autodistill.models.taps import process_name
from autodistill.tensors import content_hash
from search_spaces.checks import did_you_mean

LossType = Literal["MSE", "NMSE", "L1", "KL", "CE", "cosine"]


LossWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


BlockLossTypes = LossType | tuple[LossType | tuple[LossType, ...], ...]


BlockLossWeights = LossWeight | tuple[LossWeight | tuple[LossWeight, ...], ...]


"""One value for all blocks, or for each block one value or a list for its mappings."""


SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)


"""The schedules of `transformers.get_scheduler` that need no arguments of their own."""


MappingFunction = Callable[[nn.Module, nn.Module], Sequence[Any]]


BlockFunction = Callable[[nn.Module], Sequence[Any]]


def _tuples(value: Any) -> Any:
    """Lists as tuples, at every depth: settings are immutable."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list | tuple) else value


def _mapping_list(value: Any) -> Any:
    """A list of layer mappings, each normalised."""
    if not isinstance(value, list | tuple):
        return value
    problems: list[str] = []
    mappings = []
    for spec in value:
        try:
            mappings.append(parse_mapping(spec))
        except ConfigurationError as error:
            problems.extend(error.problems)
    if problems:
        raise ValueError("\n".join(problems))
    return tuple(mappings)


def _only_stage(value: Any) -> Any:
    """The mappings of regular distillation, which has one stage: `[[mapping, ...]]` means `[mapping, ...]`."""
    if isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        nested = all(isinstance(item, list | tuple | LayerMapping) for item in value[0])
        return value[0] if nested and not _is_pair_of_taps(value[0]) else value
    return value


def _is_pair_of_taps(items: Sequence[Any]) -> bool:
    """Whether two lists are one mapping, `[('s', '1'), ('t', '1')]`, and not two: each ends in an output process."""
    return len(items) == 2 and all(
        isinstance(item, list | tuple) and len(item) == 2 and (callable(item[1]) or str(item[1]).isdigit())
        for item in items
    )


def _only_entry(value: Any) -> Any:
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


def _function_name(value: Any) -> Any:
    return process_name(value) if callable(value) else value


def _projection_name(value: Any) -> Any:
    """A module's name does not say what it computes: its weights enter too."""
    if isinstance(value, nn.Module):
        return f"{type(value).__qualname__} {content_hash(value.state_dict())}"
    return _function_name(value)


def _mapping_names(value: Any) -> Any:
    """Mappings as `parse_mapping` reads them, functions by their names."""
    if isinstance(value, tuple):
        return [_mapping_names(item) for item in value]
    if not isinstance(value, LayerMapping):
        return _function_name(value)
    student, teacher = value.student, value.teacher
    if student.process == teacher.process == "":
        return [student.path, teacher.path]
    return [student.path, _function_name(student.process), teacher.path, _function_name(teacher.process)]


def _one_of(name: str, known: Sequence[str], rule: str) -> str:
    if name in known:
        return name
    hint = did_you_mean(name, known, "", most=1)
    raise ValueError(f"{rule}, but got {name!r}" + (f"; {hint}" if hint else "."))


class PhaseConfig(Section):
    """What flash and regular distillation have in common.

    Attributes:
        temperature: of the KL terms; a number, an `AnnealedTemperature`, or a function of the share of steps done.
        optimizer: the name of a class in `torch.optim` that takes a weight decay.
        learning_rate: its peak.
        weight_decay: of the optimizer.
        optimizer_arguments: further keyword arguments for it.
        scheduler: one of `SCHEDULERS`, by its name in `transformers.get_scheduler`.
        warmup_ratio: the share of the steps over which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        gradient_accumulation_steps: batches for each optimizer update.
        mixed_precision: 'no', 'bf16' or 'fp16'.
        compile: run what trains through `torch.compile`: a replayed or teacher-fed block, or the whole student in
            regular distillation, unless a layer inside it is mapped. Compiled code rounds differently, and may draw
            other random numbers for dropout: the weights are no longer equal to the bit to those without it.
    """

    temperature: Annotated[Temperature, PlainSerializer(_function_name)] = 1.0
    optimizer: str = "AdamW"
    learning_rate: float = Field(default=1e-3, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    optimizer_arguments: dict[str, Any] = Field(default_factory=dict)
    scheduler: str = "linear"
    warmup_ratio: float = Field(default=0.1, ge=0, le=1)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    gradient_accumulation_steps: Count = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, name: str) -> str:
        classes = {key: value for key, value in vars(torch.optim).items() if isinstance(value, type)}
        known = [key for key, value in classes.items() if "weight_decay" in inspect.signature(value).parameters]
        return _one_of(name, known, "optimizer is the name of a class in torch.optim that takes a weight decay")

    @field_validator("optimizer_arguments")
    @classmethod
    def _known_arguments(cls, arguments: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "optimizer" in info.data:
            parameters = inspect.signature(getattr(torch.optim, info.data["optimizer"])).parameters
            known = [name for name in parameters if name not in ("params", "lr", "weight_decay")]
            for name in arguments:
                _one_of(name, known, f"optimizer_arguments are further arguments of {info.data['optimizer']}")
        return arguments

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, name: str) -> str:
        return _one_of(name, SCHEDULERS, f"scheduler is one of {', '.join(SCHEDULERS)}")


class FlashDistillationConfig(PhaseConfig):
    """Flash distillation: the student's blocks one after the other, those before it finished and frozen.

    A list has one entry for each block; a single value holds for all.

    Attributes:
        block_names: the path of each block (several paths trained as one may be given as a list), a function
            `student -> such a list`, or None for the student's repeated blocks.
        layer_mappings_for_knowledge_transfer: for each block a list of layer mappings (every form of
            `autodistill.models.layer_mappings.parse_mapping`); a function `(student, teacher) -> such a list`; or None
            for the automatic mapping: block i of n matches the teacher's block `ceil((i + 1) * m / n) - 1` of m (see
            `autodistill.distillation.automatic_mapping` for what else is mapped).
        loss_types: of each block, or a list for its mappings: 'MSE', 'NMSE' (normalised by the teacher's power), 'L1',
            'KL', 'CE' (soft cross-entropy), 'cosine'. 'NMSE' if not given. Without blocks and mappings, a pair that
            begins with 'CE' is the loss of the labels and that of the teacher's predictions, for the whole student.
        loss_weights: of each block, or a list for its mappings; 1 if not given.
        add_origin_loss: add the student's own loss (costs a full forward at every step).
        train_steps: optimizer updates of each block.
        automatic_mapping: what it maps in transformers' models: "all" is what blocks return, their attention where both
            models compute it with as many heads, and, unless `block_names` are given, the embeddings, which train with
            the first block; "blocks" is the first of these alone.
        exact: False keeps captured inputs and the teacher's features as bfloat16: half the room, at a relative error of
            up to 2⁻⁸ = 0.4% of each number.
        inputs: 'student' feeds a block what the finished blocks before it give; 'teacher' feeds it the teacher's hidden
            state at its place, and trains all blocks in one pass.
        projection: with inputs='teacher', a function that brings the teacher's hidden states (..., teacher width) to
            the student's width; None where the widths agree.
    """

    block_names: Annotated[
        tuple[str | tuple[str, ...], ...] | BlockFunction | None,
        BeforeValidator(_tuples),
        PlainSerializer(_function_name),
    ] = None
    layer_mappings_for_knowledge_transfer: Annotated[
        tuple[Annotated[tuple[LayerMapping, ...], BeforeValidator(_mapping_list)], ...] | MappingFunction | None,
        PlainSerializer(_mapping_names),
    ] = None
    loss_types: Annotated[BlockLossTypes, BeforeValidator(_tuples)] = "NMSE"
    loss_weights: Annotated[BlockLossWeights, BeforeValidator(_tuples)] = 1.0
    add_origin_loss: Annotated[bool | tuple[bool, ...], BeforeValidator(_tuples)] = False
    train_steps: Annotated[Count | tuple[Count, ...], BeforeValidator(_tuples)] = 500
    automatic_mapping: Literal["blocks", "all"] = "all"
    exact: bool = True
    inputs: Literal["student", "teacher"] = "student"
    projection: Annotated[Callable[[torch.Tensor], torch.Tensor] | None, PlainSerializer(_projection_name)] = None

    @field_validator("block_names", MAPPINGS, *PER_BLOCK)
    @classmethod
    def _fits_the_blocks(cls, value: Any, info: ValidationInfo) -> Any:
        field, blocks = str(info.field_name), info.data.get("block_names", value)
        if field == MAPPINGS and blocks is None and isinstance(value, tuple):
            raise ValueError(f"{MAPPINGS} belong to blocks: give block_names too.")
        if isinstance(blocks, tuple):
            mappings = value if field == MAPPINGS else info.data.get(MAPPINGS)
            _raise(block_problems(field, value, len(blocks), mappings))
        return value

    @field_validator("automatic_mapping")
    @classmethod
    def _is_automatic(cls, value: str, info: ValidationInfo) -> str:
        given = [MAPPINGS] if info.data.get(MAPPINGS) is not None else []
        given += ["loss_types"] if info.data.get("loss_types", "NMSE") != "NMSE" else []
        given += ["loss_weights"] if isinstance(info.data.get("loss_weights"), tuple) else []
        if value == "all" and given:
            raise ValueError(
                f"automatic_mapping='all' has mappings and losses of its own, but {' and '.join(given)} are given; "
                "leave them or it out."
            )
        return value

    @property
    def on_predictions(self) -> bool:
        """Whether there is one stage, of the whole student, whose loss is the one on predictions: a pair of loss types
        that begins with the labels' cross-entropy, and neither blocks nor mappings."""
        kinds = self.loss_types
        pair = isinstance(kinds, tuple) and len(kinds) == 2 and kinds[0] == "CE"
        return pair and self.block_names is None and self.layer_mappings_for_knowledge_transfer is None

    @field_validator("projection")
    @classmethod
    def _has_a_use(cls, value: Any, info: ValidationInfo) -> Any:
        if value is not None and info.data.get("inputs") == "student":
            raise ValueError("projection belongs to inputs='teacher', but inputs is 'student'.")
        return value

    def length_problems(self, blocks: int, mappings: Any) -> Iterator[str]:
        """What is wrong with the lengths of the lists, for so many blocks and, where they are known, their mappings."""
        if not blocks:
            yield from block_problems("block_names", (), blocks, mappings)
        yield from block_problems(MAPPINGS, mappings, blocks, mappings)
        for field in PER_BLOCK:
            yield from block_problems(field, getattr(self, field), blocks, mappings)


class RegularDistillationConfig(PhaseConfig):
    """Regular distillation: the whole student.

    A list has one entry for each mapping; a single value holds for all. `[[...]]`, a list for the only stage, means
    `[...]`.

    Attributes:
        layer_mappings_for_knowledge_transfer: a list of layer mappings; a function `(student, teacher) -> such a list`;
            or None for the predictions (logits) of both.
        loss_types: 'MSE', 'NMSE' (normalised by the teacher's power), 'L1', 'KL', 'CE' (soft cross-entropy) or
            'cosine'. If not given, 'KL' for logits and 'NMSE' for other predictions where the mapping is automatic,
            else 'MSE'. Without mappings, a pair such as `['CE', 'KL']` gives the loss of the labels and that of the
            teacher's logits: see `KnowledgeDistillationLoss`.
        loss_weights: 1 if not given. Those of such a pair are the labels' and the teacher's.
        add_origin_loss: add the student's own loss. If not given: where the mapping is automatic and there are labels.
            A pair of loss types has it as its first.
        train_steps: optimizer updates.
    """

    layer_mappings_for_knowledge_transfer: Annotated[
        Annotated[tuple[LayerMapping, ...], BeforeValidator(_mapping_list), BeforeValidator(_only_stage)]
        | MappingFunction
        | None,
        PlainSerializer(_mapping_names),
    ] = None
    loss_types: Annotated[LossType | tuple[LossType, ...] | None, BeforeValidator(_only_entry)] = None
    loss_weights: Annotated[LossWeight | tuple[LossWeight, ...], BeforeValidator(_only_entry)] = 1.0
    add_origin_loss: Annotated[bool | None, BeforeValidator(_only_entry)] = None
    train_steps: Annotated[Count, BeforeValidator(_only_entry)] = 1000

    @field_validator(MAPPINGS, *PER_MAPPING)
    @classmethod
    def _fits_the_mappings(cls, value: Any, info: ValidationInfo) -> Any:
        field, mappings = str(info.field_name), info.data.get(MAPPINGS)
        if field == MAPPINGS and value == ():
            raise ValueError(f"{MAPPINGS} must hold at least one mapping, but is empty.")
        if isinstance(mappings, tuple):
            _raise(count_problems(field, value, len(mappings)))
        elif field != MAPPINGS and MAPPINGS in info.data and mappings is None and isinstance(value, tuple):
            _raise(pair_problems(field, value, info.data.get("loss_types", value)))
        return value

    @field_validator("add_origin_loss")
    @classmethod
    def _is_not_in_a_pair(cls, value: bool | None, info: ValidationInfo) -> bool | None:
        if value is not None and info.data.get(MAPPINGS) is None and isinstance(info.data.get("loss_types"), tuple):
            raise ValueError(
                "add_origin_loss belongs to a single loss type or to mappings; in a pair the student's own loss is the "
                "first, with its weight."
            )
        return value

    @property
    def on_predictions(self) -> bool:
        """Whether the loss is the one on predictions, `KnowledgeDistillationLoss`."""
        return self.layer_mappings_for_knowledge_transfer is None and isinstance(self.loss_types, tuple)

    def length_problems(self, mappings: int) -> Iterator[str]:
        """What is wrong with the lengths of the lists, for so many mappings."""
        if mappings == 0:
            yield f"{MAPPINGS} must hold at least one mapping, but is empty."
        for field in PER_MAPPING:
            yield from count_problems(field, getattr(self, field), mappings)


DistillationConfig = RegularDistillationConfig


"""The specification's name for it; given for flash distillation, it is a stage of the whole student."""


def _raise(problems: Iterator[str]) -> None:
    found = list(problems)
    if found:
        raise ValueError("\n".join(found))
