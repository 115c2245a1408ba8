"""The samples of a batch: a key for each, their lengths without padding, and a batch of some of them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from autodistill.tensors import container_kind, content_hash, elements, map_tensors, tensors_in

IGNORED_LABEL = -100

Padded = Literal["inputs", "targets"]
"""What is padded: the inputs, by `attention_mask`; or the labels and the decoder's inputs."""


def sample_keys(inputs: Any) -> tuple[bytes, ...] | None:
    """A key of 16 bytes for each sample: a hash of its part of a model's inputs, without the padding at its end.

    A sample has the same key in batches of other sizes and lengths, with other samples. Padding at the start counts,
    since a model's positions may depend on it. Real numbers at padding count too unless they are zero, since a tensor
    may be as long as the padded tokens by chance. What is not a tensor belongs to all samples.

    Args:
        inputs: what a model is called with; its tensors have the samples on the first axis.

    Returns:
        None if there is no tensor, or one without an axis of samples.

    Examples:
        >>> alone = {"input_ids": torch.tensor([[5, 6]]), "attention_mask": torch.tensor([[1, 1]])}
        >>> tokens, mask = torch.tensor([[7, 8, 9], [5, 6, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]])
        >>> sample_keys({"input_ids": tokens, "attention_mask": mask})[1] == sample_keys(alone)[0]
        True
    """
    tensors = list(tensors_in(inputs))
    count = len(tensors[0]) if tensors and tensors[0].dim() else 0
    if not count or any(tensor.dim() == 0 or len(tensor) != count for tensor in tensors):
        return None
    common = content_hash(_in_order_of_keys(map_tensors(lambda tensor: str(tensor.dtype), inputs))).encode()
    digests = [hashlib.blake2b(common, digest_size=16) for _ in range(count)]
    for name, tensor in _named_tensors(inputs):
        padding = _padding_of(name, tensor, inputs)
        rows = tensor.detach().cpu().contiguous().view(torch.uint8).reshape(count, -1).numpy()
        for index, digest in enumerate(digests):
            length, width = (padding.lengths[index], padding.width) if padding is not None else (1, 1)
            end = rows.shape[1] // width * length
            shape = (length, *tensor.shape[2:]) if padding is not None else tuple(tensor.shape[1:])
            rest = rows[index, end:].tobytes().rstrip(b"\0") if tensor.is_floating_point() else b""
            digest.update(f"{shape}{len(rest)}".encode())
            digest.update(rows[index, :end].data)
            digest.update(rest)
    return tuple(digest.digest() for digest in digests)


@dataclass(frozen=True)
class Padding:
    """How far the samples of a batch are padded at their end.

    Attributes:
        lengths: of each sample without this padding.
        width: of all samples with it.
    """

    lengths: tuple[int, ...]
    width: int

    @classmethod
    def of(cls, inputs: Any, padded: Padded) -> Padding | None:
        """That of a model's inputs; None if nothing shows where it begins.

        Args:
            inputs: what a model is called with: a mapping with masks (N, L) or labels.
            padded: the inputs, whose mask is `attention_mask`; or the targets, whose mask is `decoder_attention_mask`
                or, without it, that of the labels which count.

        Examples:
            >>> Padding.of({"attention_mask": torch.tensor([[1, 1, 0], [0, 1, 1]])}, "inputs")
            Padding(lengths=(2, 3), width=3)
            >>> Padding.of({"labels": torch.tensor([[3, -100, -100]])}, "targets")
            Padding(lengths=(1,), width=3)
        """
        if not isinstance(inputs, Mapping):
            return None
        mask = inputs.get("attention_mask" if padded == "inputs" else "decoder_attention_mask")
        labels = inputs.get("labels", inputs.get("label"))
        if mask is None and padded == "targets" and _are_token_labels(labels):
            mask = labels != IGNORED_LABEL
        if not isinstance(mask, torch.Tensor) or mask.dim() != 2 or not mask.shape[1]:
            return None
        positions = torch.arange(1, mask.shape[1] + 1, device=mask.device)
        return cls(tuple((positions * mask.bool()).amax(dim=1).tolist()), mask.shape[1])


def take_samples(content: Any, indices: Sequence[int]) -> Any:
    """The content of a batch with some of its samples, in the order of `indices`.

    Args:
        content: its tensors have the samples on the first axis.
        indices: of the samples.

    Examples:
        >>> take_samples({"x": torch.tensor([[1], [2], [3]])}, [2, 0])
        {'x': tensor([[3],
                [1]])}
    """
    return map_tensors(lambda tensor: tensor[list(indices)], content)


def cut_padding(inputs: Any) -> Any:
    """A batch's mapping of inputs without the positions at the end that are padding in every sample.

    Examples:
        >>> cut_padding({"attention_mask": torch.tensor([[1, 1, 0], [1, 0, 0]])})
        {'attention_mask': tensor([[1, 1],
                [1, 0]])}
    """
    if not isinstance(inputs, Mapping):
        return inputs
    tensors = {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor) and value.dim() > 1}
    paddings = {name: _padding_of(name, tensor, inputs) for name, tensor in tensors.items()}
    ends: dict[int, int] = {}  # what is equally wide must stay so: a model may compute a loss from it
    for name, tensor in tensors.items():
        padding, width = paddings[name], tensor.shape[1]
        if padding is not None:
            ends[width] = max(ends.get(width, 1), *padding.lengths)
        elif tensor.dim() == 2:
            ends[width] = width
    return {
        name: value if paddings.get(name) is None else value[:, : ends[value.shape[1]]].contiguous()
        for name, value in inputs.items()
    }


def _in_order_of_keys(inputs: Any) -> Any:
    return dict(sorted(inputs.items(), key=lambda item: str(item[0]))) if isinstance(inputs, Mapping) else inputs


def _named_tensors(structure: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors, each with the key under which it is in the outermost mapping, in the order of the keys."""
    if isinstance(structure, torch.Tensor):
        yield name, structure
    elif isinstance(structure, Mapping):
        for key in sorted(structure, key=str):
            yield from _named_tensors(structure[key], name or str(key))
    elif container_kind(structure.__class__) is not None:
        for element in elements(structure) or ():
            yield from _named_tensors(element, name)


def _padding_of(name: str, tensor: torch.Tensor, inputs: Any) -> Padding | None:
    """The padding of a tensor on its second axis; None if it has none that is known."""
    if name in ("labels", "label"):
        return Padding.of({"labels": tensor}, "targets")
    padding = Padding.of(inputs, "targets" if name.startswith("decoder_") else "inputs")
    is_sequence = tensor.dim() in (2, 3)  # not the channels of an image
    return padding if padding is not None and is_sequence and tensor.shape[1] == padding.width else None


def _are_token_labels(labels: Any) -> bool:
    return isinstance(labels, torch.Tensor) and labels.dim() == 2 and not labels.is_floating_point()
