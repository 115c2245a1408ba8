"""Which positions of a feature count: those that are not padding and, between logits, those whose label counts.

Which mask belongs to a feature follows from what its axes depend on, not from sizes, which may agree by chance. A
student therefore runs once more on a batch with another number of samples, other input lengths and other target
lengths: the axes whose sizes follow the samples, `attention_mask`, or the decoder's inputs are those of samples and
positions. A feature without such an axis (images, pooled blocks) has no mask, which is logged.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.models.modes import evaluating, plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import AUTO, Tap, TapRecorder
from autodistill.samples import IGNORED_LABEL

logger = logging.getLogger(__name__)

Side = Literal["inputs", "targets", "frames"]

LABELS = ("labels", "label")

OUTPUT = Tap("", AUTO)
"""The tap of a model's predictions."""


def both_masks(left: torch.Tensor | None, right: torch.Tensor | None) -> torch.Tensor | None:
    """The positions that count in both masks; None is the mask in which every position counts."""
    if left is None or right is None:
        return left if right is None else right
    return left & right


def counted_labels(labels: object, logits: torch.Tensor, ignore_index: int = IGNORED_LABEL) -> torch.Tensor | None:
    """(N, L) or (N,), True where a position's label counts; None if `labels` are not class numbers of `logits`.

    Examples:
        >>> counted_labels(torch.tensor([[2, -100]]), torch.zeros(1, 2, 5))
        tensor([[ True, False]])
    """
    if not isinstance(labels, torch.Tensor) or labels.is_floating_point() or labels.shape != logits.shape[:-1]:
        return None
    return labels != ignore_index


@dataclass(frozen=True)
class Positions:
    """The axes of a feature, and the mask that its positions have.

    Attributes:
        side: `"inputs"`: the positions are those of `attention_mask`; `"targets"`: those of the decoder, whose mask is
            `decoder_attention_mask` or, without it, that of the labels; `"frames"`: those of an audio model, to which
            it reduces the samples of `attention_mask`.
        samples: the axis of the samples.
        axis: the axis of the positions.
    """

    side: Side
    samples: int = 0
    axis: int = 1

    def arranged(self, feature: torch.Tensor) -> torch.Tensor:
        """The feature with its samples first: (N, L, C), or (N, heads, L, ...) as it was.

        Examples:
            >>> Positions("inputs", samples=1, axis=0).arranged(torch.zeros(7, 2, 5)).shape
            torch.Size([2, 7, 5])
        """
        return feature if self.samples == 0 else feature.movedim(self.samples, 0)

    def size(self, feature: torch.Tensor) -> torch.Size:
        """(N, L) of a feature that is not arranged.

        Examples:
            >>> Positions("inputs", samples=1, axis=0).size(torch.zeros(7, 2, 5))
            torch.Size([2, 7])
        """
        return torch.Size((feature.shape[self.samples], feature.shape[self.axis]))


@dataclass(frozen=True)
class Frames:
    """How an audio model of transformers reduces the samples of its input to frames.

    Args:
        model: has the two methods that this class calls.
    """

    model: Any

    @classmethod
    def of(cls, student: nn.Module) -> Frames | None:
        """That of a student; None if it contains no such model."""
        names = ("_get_feature_vector_attention_mask", "_get_feat_extract_output_lengths")
        return next((cls(m) for m in student.modules() if all(hasattr(m, name) for name in names)), None)

    def count(self, samples: int) -> int:
        """The number of frames of an input, before an adapter, which may reduce them further."""
        method = self.model._get_feat_extract_output_lengths
        return int(method(torch.tensor(samples), **_without_adapter(method)))

    def mask(self, count: int, mask: torch.Tensor) -> torch.Tensor:
        """(N, count), True where a frame counts, from (N, samples)."""
        method = self.model._get_feature_vector_attention_mask
        frames: torch.Tensor = method(count, mask.long(), **_without_adapter(method))
        return frames.bool()


def _without_adapter(method: Callable[..., Any]) -> dict[str, bool]:
    return {"add_adapter": False} if "add_adapter" in inspect.signature(method).parameters else {}


@dataclass(frozen=True)
class Masks:
    """The masks of one student's features.

    Attributes:
        positions: for each tap of the student whose positions are known, its axes.
        label_shift: whether a position's logits predict the label of the next one; None if that is unknown, and labels
            then exclude no position.
        label_side: the positions that have labels: in an encoder-decoder the targets.
        frames: of an audio model.

    Examples:
        >>> masks = Masks({Tap("0"): Positions("inputs")})
        >>> batch = Batch({"attention_mask": torch.tensor([[1, 1, 0]])})
        >>> masks.of(Tap("0"), torch.zeros(1, 3, 5), batch)
        tensor([[ True,  True, False]])
    """

    positions: Mapping[Tap, Positions] = field(default_factory=dict)
    label_shift: bool | None = False
    label_side: Side = "inputs"
    frames: Frames | None = None

    def of(self, tap: Tap, feature: torch.Tensor, batch: Batch, *, labels: bool = False) -> torch.Tensor | None:
        """(N, L), True where a position of a feature counts; None if all count.

        Between logits, (N,) for one prediction per sample, and (N, H, W) for one per pixel, in logits (N, C, H, W).

        Args:
            tap: of the student.
            feature: recorded there, in the model's own layout.
            batch: with which the student was called.
            labels: leave out positions whose label is ignored as well, as for logits.
        """
        positions = self.positions.get(tap)
        if labels and (feature.dim() == 2 or (feature.dim() == 4 and positions is None)):
            return counted_labels(batch.targets, feature.movedim(1, -1))
        if positions is None:
            return None
        mask = self._padding(positions, feature, batch)
        if labels and self.label_shift is not None and positions.side == self.label_side:
            mask = both_masks(mask, _fitting(batch.label_mask(self.label_shift), positions, feature))
        return mask

    def _padding(self, positions: Positions, feature: torch.Tensor, batch: Batch) -> torch.Tensor | None:
        mask = batch.target_mask if positions.side == "targets" else batch.padding_mask
        if mask is not None and positions.side == "frames":
            assert self.frames is not None
            mask = self.frames.mask(positions.size(feature)[1], mask)
        return _fitting(mask, positions, feature)


def _fitting(mask: torch.Tensor | None, positions: Positions, feature: torch.Tensor) -> torch.Tensor | None:
    return mask if mask is not None and mask.shape == positions.size(feature) else None


def masks_by_shape(features: Mapping[Tap, torch.Tensor], batch: Batch) -> Masks:
    """The masks of features whose model is not known: samples first, then positions, or heads and positions.

    Args:
        features: by tap.
        batch: only features of the size of its `attention_mask` or of its labels have a mask.

    Examples:
        >>> batch = Batch({"attention_mask": torch.ones(2, 3)})
        >>> masks_by_shape({Tap("a"): torch.zeros(2, 3, 5), Tap("b"): torch.zeros(2, 5)}, batch).positions
        {Tap(path='a', process=''): Positions(side='inputs', samples=0, axis=1)}
    """
    content = batch.content if isinstance(batch.content, Mapping) else {}
    given = [tensor for tensor in (content.get("attention_mask"), batch.targets) if isinstance(tensor, torch.Tensor)]
    sizes = {tuple(tensor.shape) for tensor in given if tensor.dim() == 2}
    found = {}
    for tap, feature in features.items():
        for axis in (2, 1) if feature.dim() == 4 and feature.shape[2] == feature.shape[3] else (1,):
            if feature.dim() > axis + 1 and (feature.shape[0], feature.shape[axis]) in sizes:
                found[tap] = Positions("inputs", axis=axis)
                break
    return Masks(found)


# --- what the axes of a student's features depend on -----------------------------------------------------------------


@dataclass(frozen=True)
class Sizes:
    """The sizes of a batch; None for a length that it does not have.

    Attributes:
        samples: N.
        inputs: the length of `attention_mask`, or of the tokens.
        targets: the length of the decoder's inputs or labels, in an encoder-decoder.
    """

    samples: int
    inputs: int | None
    targets: int | None

    @classmethod
    def of(cls, content: Mapping[str, Any], *, has_decoder: bool) -> Sizes:
        """The sizes of a batch.

        Examples:
            >>> Sizes.of({"input_ids": torch.ones(2, 5), "labels": torch.ones(2, 3).long()}, has_decoder=True)
            Sizes(samples=2, inputs=5, targets=3)
        """
        tensors = {key: value for key, value in content.items() if isinstance(value, torch.Tensor) and value.dim() > 1}
        inputs = next((tensors[key] for key in ("attention_mask", "input_ids") if key in tensors), None)
        targets = next((value for key, value in tensors.items() if has_decoder and _is_target(key, value)), None)
        first = inputs if inputs is not None else targets
        lengths = (tensor.shape[1] if tensor is not None else None for tensor in (inputs, targets))
        return cls(first.shape[0] if first is not None else 1, *lengths)

    def variations(self) -> list[Sizes]:
        """Other sizes, those that reveal most first: a model may require one input length, or one number of samples."""
        inputs, targets = self.inputs, self.targets
        if inputs is not None and inputs > 1:
            inputs //= 2
        if targets is not None and targets > 1:
            targets = targets // 2 + (1 if targets == self.inputs else 0)  # the two pairs of lengths differ
        more = self.samples + 1
        return [Sizes(more, inputs, targets), Sizes(more, self.inputs, targets), Sizes(more, self.inputs, self.targets)]


def _is_target(key: str, value: Any) -> bool:
    """Whether an entry of a batch belongs to the decoder of an encoder-decoder; real numbers (N, C) are no sequence."""
    is_label = key in LABELS and isinstance(value, torch.Tensor) and (value.dim() > 2 or not value.is_floating_point())
    return key.startswith("decoder_") or is_label


def find_masks(student: nn.Module, features: Mapping[Tap, torch.Tensor], batch: Batch) -> Masks:
    """The masks of a student's features; the label shift is left at its default.

    The student runs on another batch, in eval mode and without gradients, if the batch has an `attention_mask`, tokens
    or, in an encoder-decoder, targets. Features of three or more axes that have no mask are logged.

    Args:
        student: the student.
        features: what it computed for `batch`, by tap.
        batch: any batch of the training data.
    """
    parts = _encoder_and_decoder(student)
    content = batch.content if isinstance(batch.content, Mapping) else {}
    sizes = Sizes.of(content, has_decoder=parts is not None)
    if sizes.inputs is None and sizes.targets is None:
        return masks_by_shape(features, batch)
    sequences = {tap: feature for tap, feature in features.items() if feature.dim() > 2}
    varied, others = _run_varied(student, list(sequences), content, sizes, has_decoder=parts is not None)
    frames = Frames.of(student)
    positions: dict[Tap, Positions] = {}
    for tap, feature in sequences.items():
        axes = [(before, after) for before, after in zip(feature.shape, others.get(tap, feature).shape, strict=False)]
        found = _positions(axes, sizes, varied, frames)
        derived = parts is not None and sizes.targets is None and not _is_inside(student, tap, parts[0])
        if found is not None and not derived:  # a decoder without inputs of its own shifts those of the encoder
            positions[tap] = found
    unmatched = [str(tap) for tap in sequences if tap not in positions]
    if unmatched and ("attention_mask" in content or sizes.targets is not None):
        logger.info(
            "all positions count in %s: no axis of these features follows a mask (N, L) of the batch",
            ", ".join(unmatched),
        )
    return Masks(positions, label_side="inputs" if parts is None else "targets", frames=frames)


def _encoder_and_decoder(student: nn.Module) -> tuple[nn.Module, nn.Module] | None:
    """The parts of an encoder-decoder of transformers, which may lie inside another module; None if there is none."""
    module: Any
    for module in student.modules():
        if getattr(getattr(module, "config", None), "is_encoder_decoder", False) and hasattr(module, "get_decoder"):
            encoder, decoder = module.get_encoder(), module.get_decoder()
            if encoder is not decoder and module not in (encoder, decoder):  # an encoder alone returns itself
                return encoder, decoder
    return None


def _is_inside(student: nn.Module, tap: Tap, part: nn.Module) -> bool:
    return find_module(student, tap.path, "student") in set(part.modules())


def _run_varied(
    student: nn.Module, taps: Sequence[Tap], content: Mapping[str, Any], sizes: Sizes, *, has_decoder: bool
) -> tuple[Sizes, Mapping[Tap, torch.Tensor]]:
    """Other sizes of the batch, and the student's features of them; the same sizes and none if it cannot run."""
    for varied in sizes.variations() if taps else ():
        lengths = {True: (sizes.targets, varied.targets), False: (sizes.inputs, varied.inputs)}
        resized = Batch(
            {
                key: _resized(value, sizes.samples, *lengths[has_decoder and _is_target(key, value)])
                for key, value in content.items()
            }
        )
        recorder = TapRecorder(student, taps, owner="student")
        try:
            with recorder, torch.no_grad(), evaluating(student), plain_forward(student):
                resized.call(student)
                return varied, recorder.collect()
        except Exception as error:  # of any kind: what a model requires of its inputs is not known
            logger.debug("the student does not run on %s: %s", varied, error)
    return sizes, {}


def _resized(value: Any, samples: int, length: int | None, shorter: int | None) -> Any:
    """A tensor with its first sample again at the end, cut to another length."""
    if not isinstance(value, torch.Tensor) or value.dim() == 0 or value.shape[0] != samples:
        return value
    value = torch.cat([value, value[:1]])
    axis = next((axis for axis in range(1, value.dim()) if value.shape[axis] == length), None)
    return value if axis is None or shorter is None else value.narrow(axis, 0, shorter).contiguous()


def _positions(axes: list[tuple[int, int]], sizes: Sizes, varied: Sizes, frames: Frames | None) -> Positions | None:
    """The axes of samples and positions, from the size of each axis in two batches; None if they are not certain."""
    leading = range(len(axes) - 1)  # the last axis holds the channels
    samples = [axis for axis in leading if axes[axis] == (sizes.samples, varied.samples)]
    if not samples or (len(samples) > 1 and varied.samples == sizes.samples):
        return None
    lengths: dict[Side, tuple[int | None, int | None]] = {
        "inputs": (sizes.inputs, varied.inputs),
        "targets": (sizes.targets, varied.targets),
    }
    if frames is not None and sizes.inputs is not None and varied.inputs is not None:
        lengths["frames"] = frames.count(sizes.inputs), frames.count(varied.inputs)
    found = [
        Positions(side, samples[0], axis)
        for axis in leading
        for side, length in lengths.items()
        if axis != samples[0] and axes[axis] == length
    ]
    by_size_alone = [each for each in found if lengths[each.side][0] == lengths[each.side][1]]
    if (
        not found
        or (len(found) > 1 and by_size_alone)
        or len({each.side for each in found if each.axis == found[0].axis}) > 1
    ):
        return None
    first = found[0]
    is_usual = len(axes) == 3 or (first.samples == 0 and first.axis <= (2 if len(axes) == 4 else 1))
    return first if is_usual else None
