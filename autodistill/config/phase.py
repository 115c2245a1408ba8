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


SCHEDULERS: dict[str, tuple[str, ...]] = {
    "linear": (),
    "cosine": ("num_cycles",),
    "cosine_with_restarts": ("num_cycles",),
    "polynomial": ("lr_end", "power"),
    "constant": (),
    "constant_with_warmup": (),
    "inverse_sqrt": ("timescale",),
    "cosine_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate", "num_cycles", "warmup_lr_rate"),
    "warmup_stable_decay": (
        "num_decay_steps",
        "num_stable_steps",
        "warmup_type",
        "decay_type",
        "min_lr_ratio",
        "num_cycles",
    ),
}
"""The schedules of `transformers.get_scheduler` that depend on the step alone, and the arguments that each accepts."""


REQUIRED_ARGUMENTS = {
    "cosine_with_min_lr": ("min_lr", "min_lr_rate"),
    "cosine_warmup_with_min_lr": ("min_lr", "min_lr_rate"),
    "warmup_stable_decay": ("num_decay_steps",),
}
"""The arguments of which a schedule needs exactly one."""


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
        optimizer_arguments: further keyword arguments for it. Adam and AdamW are `fused` unless these set that or
            `foreach`.
        decay_biases_and_norms: False excludes parameters with fewer than two axes, such as biases and the gains of
            normalisations, from the weight decay.
        scheduler: one of `SCHEDULERS`, by its name in `transformers.get_scheduler`.
        scheduler_arguments: further keyword arguments for it, such as `min_lr` for 'cosine_with_min_lr'.
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
    # The next two are left out of the record at their default: directories of earlier versions do not contain them.
    decay_biases_and_norms: bool = Field(default=True, exclude_if=bool)
    scheduler: str = "linear"
    scheduler_arguments: dict[str, int | float | str] = Field(default_factory=dict, exclude_if=lambda value: not value)
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
        return _one_of(name, list(SCHEDULERS), f"scheduler is one of {', '.join(SCHEDULERS)}")

    def _disagreements(self) -> Iterator[Disagreement]:
        parameters = inspect.signature(getattr(torch.optim, self.optimizer)).parameters
        known = [name for name in parameters if name not in ("params", "lr", "weight_decay")]
        yield from self._unknown_arguments("optimizer", known)
        yield from self._unknown_arguments("scheduler", SCHEDULERS[self.scheduler])
        required = REQUIRED_ARGUMENTS.get(self.scheduler, ())
        received = [name for name in required if name in self.scheduler_arguments]
        if required and len(received) != 1:
            sentence = (
                f"{self.scheduler} needs {' or '.join(required)} in scheduler_arguments, but got "
                f"{' and '.join(received) or 'neither' if len(required) > 1 else 'none'}."
            )
            yield Disagreement("scheduler_arguments", sentence, ("scheduler",))

    def _unknown_arguments(self, setting: str, known: Sequence[str]) -> Iterator[Disagreement]:
        """A mistake for each argument that the configured optimizer or scheduler does not take."""
        arguments = f"{setting}_arguments"
        for name in getattr(self, arguments):
            try:
                _one_of(name, known, f"{arguments} are further arguments of {getattr(self, setting)}")
            except ValueError as error:
                yield Disagreement(arguments, str(error), (setting,))
