"""How students start inside their teacher, as configured."""

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
        weights: write `"all"` first weights from the teacher's, or those of the `"embeddings"` only.
        batches: of the flash set; so many are looked at.
        weighting: `"power"` lets every boundary of the teacher's blocks count alike, `"uniform"` as large as it is.
        centring: one `"mean"` over all boundaries, or one for each `"boundary"`. Where norms stand before what reads
            the stream, or behind the last block, or where blocks lack biases, none is taken off.
        least_squares: before any gradient step, fit to the teacher, block by block, the `"norms"` that stand behind the
            residual sum; or `"all"`, which are the maps that write to the stream as well; or `"none"`. `"auto"` fits
            the norms where they stand behind the sum (BERT), else the maps (ViT), but none of a model that predicts the
            next token (GPT-2, Llama): measured.
        importance: which heads and neurons a student keeps: those with the largest `"weights"`, those with the largest
            `"activations"` on the flash set, or those that matter most to the teacher's loss, by `"gradients"`.
            `"auto"` takes activations (measured), and weights where students are selections of channels (MobileBERT).
        projection_head: the path of a linear layer of the student that brings its last hidden states to the teacher's
            width; it starts as the way back.
        family: where the weights are, for models that are not in `families.FAMILIES`.
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
