"""One batch: what a model is called with, and which of its positions count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.samples import IGNORED_LABEL, sample_keys, take_samples
from autodistill.tensors import content_hash, tensors_in, to_device


@dataclass(frozen=True)
class Batch:
    """One batch as the loader yields it: a mapping (keyword arguments) or a pair `(inputs, targets)`."""

    content: Any

    def __post_init__(self) -> None:
        if isinstance(self.content, Mapping | torch.Tensor):
            return
        if isinstance(self.content, tuple | list) and 1 <= len(self.content) <= 2:
            return
        raise ConfigurationError(
            "a batch is a mapping (passed as keyword arguments) or a pair (inputs, targets), "
            f"but the data loader yielded {type(self.content).__name__}"
            + (f" of {len(self.content)}." if isinstance(self.content, Sized) else ".")
        )

    @cached_property
    def hash(self) -> str:
        """A hash of the content; the key under which the teacher's features of the batch are kept."""
        return content_hash(self.content)

    @cached_property
    def sample_keys(self) -> tuple[bytes, ...] | None:
        """A key for each sample, under which the teacher's features of the sample are kept; see `samples`."""
        return sample_keys(self.model_inputs)

    def take(self, indices: Sequence[int]) -> Batch:
        """A batch of some of the samples, in the order of `indices`."""
        part = Batch(take_samples(self.content, indices))
        keys = self.__dict__.get("sample_keys")
        if keys is not None:  # else they are computed when needed
            part.__dict__["sample_keys"] = tuple(keys[index] for index in indices)
        return part

    def to(self, device: torch.device) -> Batch:
        """The batch on `device`; it keeps its hashes."""
        if all(tensor.device == device for tensor in tensors_in(self.content)):
            return self
        moved = Batch(to_device(self.content, device))
        for name in ("hash", "sample_keys"):
            if name in self.__dict__:
                moved.__dict__[name] = self.__dict__[name]
        return moved

    def call(self, model: Callable[..., Any]) -> Any:
        """What the model returns for this batch."""
        if isinstance(self.content, Mapping):
            return model(**self.content)
        return model(self.inputs)

    @property
    def model_inputs(self) -> Any:
        """What a model is called with: all entries of a mapping, or the inputs of a pair."""
        return self.content if isinstance(self.content, Mapping) else self.inputs

    @property
    def inputs(self) -> Any:
        """The content without its targets."""
        if isinstance(self.content, Mapping):
            return {key: value for key, value in self.content.items() if key not in ("labels", "label")}
        return self.content if isinstance(self.content, torch.Tensor) else self.content[0]

    @property
    def targets(self) -> Any:
        """The labels; None if the batch has none."""
        if isinstance(self.content, Mapping):
            return self.content.get("labels", self.content.get("label"))
        return self.content[1] if isinstance(self.content, tuple | list) and len(self.content) == 2 else None

    def targets_of(self, logits: torch.Tensor, shift: bool) -> torch.Tensor | None:
        """The label that each position of the logits (..., C) predicts; None if the labels are not one tensor.

        Args:
            logits: with positions (N, L), labels may be those of the next position.
            shift: they are.
        """
        labels = self.targets
        if not isinstance(labels, torch.Tensor):
            return None
        return next_labels(labels) if shift and logits.dim() == 3 and labels.dim() == 2 else labels

    @property
    def device(self) -> torch.device:
        """The device of its tensors."""
        return next((tensor.device for tensor in tensors_in(self.content)), torch.device("cpu"))

    @property
    def size(self) -> int:
        """The number of samples: the first axis of the first tensor."""
        return next((tensor.shape[0] for tensor in tensors_in(self.content) if tensor.dim()), 1)

    @cached_property
    def padding_mask(self) -> torch.Tensor | None:
        """(N, L), True where a position is not padding; None if nothing is padded."""
        return self._mask("attention_mask")

    @cached_property
    def target_mask(self) -> torch.Tensor | None:
        """(N, L) of the decoder of an encoder-decoder: `decoder_attention_mask`, else whether a label counts.

        None if all positions count.
        """
        if isinstance(self.content, Mapping) and self.content.get("decoder_attention_mask") is not None:
            return self._mask("decoder_attention_mask")
        return self.label_mask(shift=False)

    def _mask(self, key: str) -> torch.Tensor | None:
        mask: torch.Tensor | None = self.content.get(key) if isinstance(self.content, Mapping) else None
        return mask.bool() if mask is not None and mask.dim() == 2 and not bool(mask.all()) else None

    def without_padding(self, feature: torch.Tensor) -> torch.Tensor:
        """The positions of a feature (N, L, C) that are not padding, as rows: (positions, C)."""
        mask = self.padding_mask
        if mask is not None and feature.dim() == 2 and len(feature) == mask.numel():  # (N·L, C), inside OPT's blocks
            mask = mask.flatten()
        if mask is not None and mask.shape == feature.shape[:-1]:
            return feature[mask.to(feature.device)]
        return feature.flatten(0, -2)

    def label_mask(self, shift: bool) -> torch.Tensor | None:
        """(N, L), True where the position's label counts; None if all labels count or labels are not per position.

        Args:
            shift: the logits of a position predict the *next* label, as in causal language models.
        """
        labels = self.targets
        if not isinstance(labels, torch.Tensor) or labels.dim() != 2 or labels.is_floating_point():
            return None
        mask = (next_labels(labels) if shift else labels) != IGNORED_LABEL
        return None if bool(mask.all()) else mask


def next_labels(labels: torch.Tensor, ignore_index: int = IGNORED_LABEL) -> torch.Tensor:
    """(N, L), the label that each position of a causal language model predicts: the next, or none at the end.

    Examples:
        >>> next_labels(torch.tensor([[5, 6, 7]]))
        tensor([[   6,    7, -100]])
    """
    return nn.functional.pad(labels[:, 1:], (0, 1), value=ignore_index)
