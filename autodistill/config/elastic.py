"""The section `elastic`: one training for all architectures of the space."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from autodistill.config.phase import PhaseConfig
from autodistill.config.section import Count, Disagreement

FINISHING_RATE = 5e-4
"""The learning rate with which slices are finished, if it is not configured: larger ones undo what was trained."""


class ElasticConfig(PhaseConfig):
    """How the elastic student is trained, of which all students of the space are slices.

    The loss is that of regular distillation, and so is its temperature.

    Attributes:
        train_steps: optimizer updates.
        samples_per_step: architectures, each with a batch of its own, whose gradients an update adds up.
        narrow_share: how the updates are divided among the widths of the space: a width w is trained in proportion to
            w to the power of minus this number. 0 trains all widths equally often; 1 trains a student of half the width
            twice as often.
        small_share: how the updates are divided among the students of one width: in proportion to the number of
            parameters in their blocks to the power of minus this number.
        learning_rate: the peak of the schedule.
    """

    train_steps: Count = 5000
    samples_per_step: Count = 1
    narrow_share: float = Field(default=0.7, ge=0, le=4, allow_inf_nan=False)
    small_share: float = Field(default=0.5, ge=0, le=4, allow_inf_nan=False)
    learning_rate: float = Field(default=2e-3, gt=0, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _is_mapping(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | ElasticConfig):
            raise ValueError(f"must be true, or a mapping of settings, but is {data!r}.")
        return data

    def _disagreements(self) -> Iterator[Disagreement]:
        yield from super()._disagreements()
        for name, instead in (
            ("gradient_accumulation_steps", "set samples_per_step"),
            ("compile", "leave it out, since every architecture runs other code"),
            ("temperature", "set that of regular_distillation"),
        ):
            if name in self.model_fields_set:
                yield Disagreement(name, f"{name} is no setting of elastic students; {instead}.", ())
