"""The section `init`: how students start inside their teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import PlainSerializer, PositiveInt, model_validator

from autodistill.config.section import Section
from autodistill.models.families import ChannelFamily, Family, WeightTable

Centring = Literal["mean", "boundary", "none"]
Weighting = Literal["power", "uniform"]


def _text(family: WeightTable | None) -> str:
    return family.text if family is not None else "None"


class InitializationConfig(Section):
    """How students start inside the teacher.

    Attributes:
        weights: initialise `"all"` weights from the teacher's, or those of the `"embeddings"` only.
        batches: how many batches of the flash set are used.
        weighting: `"power"` scales all boundaries of the teacher's blocks to equal power, `"uniform"` does not.
        centring: one `"mean"` over all boundaries, or one for each `"boundary"`. No mean is subtracted if
            norms precede what reads the stream or follow the last block, or if blocks lack biases.
        least_squares: before any gradient step, fit to the teacher, block by block, the `"norms"` that follow the
            residual sum; or `"all"`, which adds the maps that write to the stream; or `"none"`. `"auto"` fits the norms
            if they follow the sum (BERT), else the maps (ViT), but nothing in a model that predicts the next token
            (GPT-2, Llama): the best choices in measurements.
        importance: which heads and neurons a student keeps: those with the largest `"weights"`, those with the largest
            `"activations"` on the flash set, or those that matter most to the teacher's loss, by `"gradients"`.
            `"auto"` is activations (the best in measurements), or weights if students are selections of channels
            (MobileBERT).
        projection_head: the path of a linear layer of the student that brings its last hidden states to the teacher's
            width; it starts as the map from the subspace back to the teacher's width.
        family: the table of weights, for models that are not in `families.FAMILIES`.
    """

    weights: Literal["all", "embeddings"] = "all"
    batches: PositiveInt = 32
    weighting: Weighting = "power"
    centring: Literal["mean", "boundary"] = "mean"
    least_squares: Literal["auto", "none", "norms", "all"] = "auto"
    importance: Literal["auto", "weights", "activations", "gradients"] = "auto"
    projection_head: str | None = None
    family: Annotated[Family | ChannelFamily | None, PlainSerializer(_text)] = None

    @model_validator(mode="before")
    @classmethod
    def _no_other_name(cls, data: Any) -> Any:
        if not isinstance(data, Mapping | InitializationConfig):
            raise ValueError(f"must be 'teacher', or a mapping of settings, but is {data!r}.")
        return data
