"""What every section of the configuration has in common."""

from __future__ import annotations

from typing import Annotated

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
)

Count = Annotated[int, Field(ge=1, strict=True)]


"""A number of steps or trials; strict, since True would pass for 1."""


class Section(BaseModel):
    """A part of the configuration: immutable, and without room for misspelt keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)
