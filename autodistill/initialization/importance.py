"""The importance of neurons and of the channels of attention heads, the inputs of a teacher's writers, on data.

The weights alone do not show how often a neuron is active. Michel et al. (2019), "Are Sixteen Heads Really Better than
One?", https://arxiv.org/abs/1905.10650, measure a head by the mean absolute value of activation times
gradient of the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.models.calls import removing
from autodistill.models.families import WeightTable, require_family
from autodistill.models.modes import evaluating, frozen, plain_forward
from autodistill.models.module_paths import find_module
from autodistill.models.taps import returned_loss
from autodistill.models.weights import has, join
from autodistill.tensor_files import read_hashed_tensors, write_hashed_tensors
from autodistill.tensors import tensors_in

Kind = Literal["activations", "gradients"]
LossFunction = Callable[[Any, Any], torch.Tensor]


@dataclass(frozen=True)
class Importance:
    """The measured importance.

    Attributes:
        kind: `"activations"`: the root mean square of each input, still to be weighted by the norm of what the writer
            computes from it; `"gradients"`: the mean of |activation x gradient|, which already depends on the writer.
        inputs: the values (inputs,) by path of the teacher's writer, float64.
    """

    kind: Kind
    inputs: Mapping[str, torch.Tensor] = field(default_factory=dict)

    def of(self, path: str, written: torch.Tensor) -> torch.Tensor | None:
        """The importance of each input of a writer, (inputs,); None if it was not measured.

        Args:
            path: the path of the writer in the teacher.
            written: the weight of the writer in the student's subspace, (d, inputs).
        """
        measured = self.inputs.get(path)
        if measured is None or self.kind == "gradients":
            return measured
        weighed: torch.Tensor = measured * written.norm(dim=0)
        return weighed

    def save(self, path: Path) -> None:
        """Write it atomically, as safetensors."""
        write_hashed_tensors(path, {name: values.contiguous() for name, values in self.inputs.items()}, cached=True)

    @classmethod
    def load(cls, path: Path, kind: Kind) -> Importance:
        """Read what `save` wrote; the file does not contain the kind.

        Raises:
            ValueError: the file is damaged.
            OSError: it cannot be read.
        """
        return cls(kind, read_hashed_tensors(path)[0])


def measure_importance(
    teacher: nn.Module,
    batches: Iterable[Any],
    kind: Kind = "activations",
    *,
    loss_func: LossFunction | None = None,
    family: WeightTable | None = None,
) -> Importance:
    """Run a teacher on a few batches, and measure what its writers receive. Padding is ignored.

    A writer that its block never calls as a module (as in `nn.MultiheadAttention`) is not measured: its
    importance is computed from the weights.

    Args:
        teacher: a model of a known family.
        batches: a few batches, as a data loader returns them.
        kind: `"activations"` or `"gradients"`. Gradients are those of the loss that the model returns, else of
            `loss_func(outputs, targets)` if there are targets and a `loss_func`, else of half the squared output.
        loss_func: the loss, for models that return none.
        family: the table of weights, for models that are not in `families.FAMILIES`.

    Raises:
        ConfigurationError: the model is of no known family, there is no batch, or the kind is unknown.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> sizes = dict(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20)
        >>> batch = {"input_ids": torch.arange(12).view(2, 6)}
        >>> found = measure_importance(BertModel(BertConfig(**sizes)), [batch], "gradients")
        >>> [(path, len(values)) for path, values in found.inputs.items()]
        [('encoder.layer.0.attention.output.dense', 8), ('encoder.layer.0.output.dense', 16)]
    """
    if kind not in get_args(Kind):
        raise ConfigurationError(f"kind must be 'activations' or 'gradients', but is {kind!r}.")
    path, base, table = require_family(teacher, family, "teacher")
    paths = [join(path, writer) for writer in table.writers(base)]
    writers = [path for path in paths if has(teacher, path)]
    sums: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}
    ran = False
    for element in batches:
        ran = True
        batch = element if isinstance(element, Batch) else Batch(element)
        for name, values in _measured(teacher, writers, batch, kind, loss_func):
            rows = batch.without_padding(values)
            sums[name] = sums.get(name, torch.zeros(())) + rows.sum(0)
            counts[name] = counts.get(name, 0) + len(rows)
    if not ran:
        raise ConfigurationError("importance is measured on a few batches, but there is none; pass a list of batches.")
    means = {name: total / counts[name] for name, total in sums.items()}
    return Importance(kind, {name: mean.sqrt() if kind == "activations" else mean for name, mean in means.items()})


def _measured(
    teacher: nn.Module, writers: Sequence[str], batch: Batch, kind: Kind, loss_func: LossFunction | None
) -> Iterator[tuple[str, torch.Tensor]]:
    """The squared inputs or |input x gradient| of each writer that ran, (..., inputs), float64."""
    graph = kind == "gradients"
    inputs_of = _inputs(teacher, writers, graph)
    with (
        evaluating(teacher),
        frozen(teacher),
        plain_forward(teacher),
        inputs_of as inputs,
        torch.set_grad_enabled(graph),
    ):
        output = batch.call(teacher)
        received = list(inputs.values())
        factors = torch.autograd.grad(_loss(output, batch, loss_func), received) if graph else received
    for name, one, factor in zip(inputs, received, factors, strict=True):
        yield name, (one.detach().double() * factor.double()).abs().cpu()


@contextmanager
def _inputs(teacher: nn.Module, writers: Sequence[str], graph: bool) -> Iterator[dict[str, torch.Tensor]]:
    """Record what the writers receive within the context; with `graph`, gradients can be computed for it."""
    inputs: dict[str, torch.Tensor] = {}

    def note(name: str) -> Callable[[nn.Module, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]:
        def hook(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            inputs[name] = args[0] if args[0].requires_grad or not graph else args[0].detach().requires_grad_()
            return (inputs[name], *args[1:])

        return hook

    with ExitStack() as stack:
        handles = [find_module(teacher, name).register_forward_pre_hook(note(name)) for name in writers]
        stack.enter_context(removing(*handles))
        yield inputs


def _loss(output: Any, batch: Batch, loss_func: LossFunction | None) -> torch.Tensor:
    loss = returned_loss(output)
    if isinstance(loss, torch.Tensor):
        return loss
    first = next(tensor for tensor in tensors_in(output) if tensor.is_floating_point())
    if loss_func is not None and batch.targets is not None:
        return loss_func(first, batch.targets)
    return first.square().sum() / 2
