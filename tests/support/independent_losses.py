"""The first losses of flash and of regular distillation, computed without the code under test: hooks, masks by the
caller, and formulas in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

Mask = Callable[[Any], torch.Tensor | None]
"""From a batch, True for each position (N, L) that counts; None if all of them do."""

Layout = Literal["NLC", "LNC", "NCHW"]


@dataclass(frozen=True)
class Row:
    """Blocks of one row, and how what they return is compared.

    Attributes:
        path: of a block, with `{}` for its number.
        mask: which positions count.
        partners: for each block of the student, the number of the teacher's block that it learns from.
        layout: of the axes of what the blocks return.
    """

    path: str
    mask: Mask
    partners: tuple[int, ...] = (1, 2)
    layout: Layout = "NLC"


@dataclass(frozen=True)
class Predictions:
    """How regular distillation compares the predictions.

    Attributes:
        mask: which positions count.
        own_loss: `(output, batch) -> loss` of the student's labels; None without labels.
        key: of the predictions in the model's output.
        kind: the loss between the predictions.
        layout: of their axes.
    """

    mask: Mask
    own_loss: Callable[[Mapping[str, torch.Tensor], Any], torch.Tensor] | None
    key: str = "logits"
    kind: Literal["KL", "NMSE"] = "KL"
    layout: Layout = "NLC"


def call(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch[0])


def block_output(model: nn.Module, path: str, batch: Any) -> torch.Tensor:
    """What a block returns, without gradients, in float64."""
    kept: list[torch.Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        kept.append((output if isinstance(output, torch.Tensor) else output[0]).detach().double())

    handle = model.get_submodule(path).register_forward_hook(keep)
    with torch.no_grad():
        call(model, batch)
    handle.remove()
    (output,) = kept
    return output


def channels_last(feature: torch.Tensor, layout: Layout) -> torch.Tensor:
    """(N, L, C) or (N, H, W, C)."""
    if layout == "LNC":
        return feature.transpose(0, 1)
    return feature.permute(0, 2, 3, 1) if layout == "NCHW" else feature


def mean(values: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return values.mean() if mask is None else values[mask].mean()


def relative_error(student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return mean((student - teacher).pow(2).mean(-1), mask) / mean(teacher.pow(2).mean(-1), mask)


def divergence(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None, temperature: float
) -> torch.Tensor:
    p, q = (teacher / temperature).softmax(-1), (student / temperature).softmax(-1)
    return temperature**2 * mean((p * (p.log() - q.log())).sum(-1), mask)


def joined_divergence(
    student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None, temperature: float, k: int
) -> torch.Tensor:
    """The divergence of distributions over the teacher's k largest classes, and all others as one event."""
    student, teacher = student.double(), teacher.double()
    kept = teacher.argsort(-1, descending=True)[..., :k]

    def joined(logits: torch.Tensor) -> torch.Tensor:
        probabilities = (logits / temperature).softmax(-1)
        return torch.cat([probabilities.gather(-1, kept), probabilities.scatter(-1, kept, 0).sum(-1, keepdim=True)], -1)

    p, q = joined(teacher), joined(student)
    return temperature**2 * mean((p * (p.log() - q.log())).sum(-1), mask)


def flash_loss(
    student: nn.Module,
    teacher: nn.Module,
    batch: Any,
    row: Row,
    number: int,
    *,
    matcher: Mapping[str, torch.Tensor],
    seed: int,
) -> float:
    """The first loss of one block, from a student whose blocks before it are as they will be then.

    Args:
        student: the student.
        teacher: the teacher.
        batch: the first one.
        row: that of the block.
        number: of the block in it.
        matcher: the weight and the bias that bring the student's channels to the teacher's; may be empty.
        seed: of the block's dropout.
    """
    target = channels_last(block_output(teacher.eval(), row.path.format(row.partners[number]), batch), row.layout)
    path = row.path.format(number)
    student.eval().get_submodule(path).train()
    torch.manual_seed(seed)
    feature = channels_last(block_output(student, path, batch), row.layout)
    student.eval()
    weights = list(matcher.values())
    if weights:
        feature = feature @ weights[0].detach().double().T + weights[1].detach().double()
    return relative_error(feature, target, row.mask(batch)).item()


def regular_loss(
    student: nn.Module, teacher: nn.Module, batch: Any, predictions: Predictions, *, temperature: float, seed: int
) -> float:
    """The first loss of the whole student; `seed` is that of its dropout."""
    with torch.no_grad():
        target = tensors(call(teacher.eval(), batch))
        torch.manual_seed(seed)
        found = tensors(call(student.train(), batch))
    student.eval()
    pair = [channels_last(output[predictions.key], predictions.layout) for output in (found, target)]
    mask = predictions.mask(batch)
    loss = divergence(*pair, mask, temperature) if predictions.kind == "KL" else relative_error(*pair, mask)
    if predictions.own_loss is not None:
        loss = loss + predictions.own_loss(found, batch)
    return loss.item()


def tensors(output: Any) -> dict[str, torch.Tensor]:
    """The floating tensors of a model's output by name, in float64; a single one is its logits."""
    if isinstance(output, torch.Tensor):
        output = {"logits": output}
    return {key: value.double() for key, value in output.items() if isinstance(value, torch.Tensor)}
