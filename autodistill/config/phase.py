"""What flash and regular distillation have in common: the settings of a training phase, and the forms of lists."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import BeforeValidator, Field, PlainSerializer, field_validator
from torch import nn

from autodistill.config.section import Count, Disagreement, Section
from autodistill.config.temperature import Temperature
from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping, parse_mapping
from autodistill.models.taps import process_name
from search_spaces.checks import did_you_mean

MAPPINGS = "layer_mappings_for_knowledge_transfer"


PER_MAPPING = ("loss_types", "loss_weights")
"""The settings that may have one entry for each mapping."""


SCHEDULERS = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "polynomial",
    "constant",
    "constant_with_warmup",
    "inverse_sqrt",
)
"""The schedules of `transformers.get_scheduler` that need no further arguments."""


MappingFunction = Callable[[nn.Module, nn.Module], Sequence[Any]]


LossWeight = Annotated[float, Field(ge=0, allow_inf_nan=False)]


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


MappingList = Annotated[tuple[LayerMapping, ...], BeforeValidator(_mapping_list)]


def function_name(value: Any) -> Any:
    """The name of a function, by which it is recorded; any other value as it is."""
    return process_name(value) if callable(value) else value


def mapping_names(value: Any) -> Any:
    """Mappings in the form that `parse_mapping` reads, functions by their names."""
    if isinstance(value, tuple):
        return [mapping_names(item) for item in value]
    if not isinstance(value, LayerMapping):
        return function_name(value)
    student, teacher = value.student, value.teacher
    if student.process == teacher.process == "":
        return [student.path, teacher.path]
    return [student.path, function_name(student.process), teacher.path, function_name(teacher.process)]


def one_entry_each(setting: str, value: Any, count: int, unit: str) -> list[str]:
    """A sentence if a list does not have one entry for each `unit`; a single value holds for all.

    Examples:
        >>> one_entry_each("train_steps", (5, 5, 5), 2, "block")
        ['train_steps must have one entry for each block, but has 3 for 2 blocks.']
        >>> one_entry_each("train_steps", 5, 2, "block")
        []
    """
    if not isinstance(value, tuple) or len(value) == count:
        return []
    return [f"{setting} must have one entry for each {unit}, but has {len(value)} for {count} {unit}s."]


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
        learning_rate: the peak of the schedule.
        weight_decay: of the optimizer.
        optimizer_arguments: further keyword arguments for it.
        scheduler: one of `SCHEDULERS`, by its name in `transformers.get_scheduler`.
        warmup_ratio: the share of the steps over which the learning rate rises.
        max_grad_norm: gradients are clipped to this norm; None for no clipping.
        gradient_accumulation_steps: batches for each optimizer update.
        mixed_precision: 'no', 'bf16' or 'fp16'.
        compile: run the trained modules through `torch.compile`: a replayed or teacher-fed block, or the whole student
            in regular distillation, unless a layer inside it is mapped. Compiled code rounds differently, and may draw
            other random numbers for dropout: the weights no longer equal those without it to the bit.
    """

    temperature: Annotated[Temperature, PlainSerializer(function_name)] = 1.0
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

    @field_validator("scheduler")
    @classmethod
    def _known_scheduler(cls, name: str) -> str:
        return _one_of(name, SCHEDULERS, f"scheduler is one of {', '.join(SCHEDULERS)}")

    def _disagreements(self) -> Iterator[Disagreement]:
        parameters = inspect.signature(getattr(torch.optim, self.optimizer)).parameters
        known = [name for name in parameters if name not in ("params", "lr", "weight_decay")]
        for name in self.optimizer_arguments:
            try:
                _one_of(name, known, f"optimizer_arguments are further arguments of {self.optimizer}")
            except ValueError as error:
                yield Disagreement("optimizer_arguments", str(error), ("optimizer",))
