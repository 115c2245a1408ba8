"""The elastic student: the parameters of a largest student, of which smaller ones are slices.

A slice runs the model that `model_builder` returns for its architecture, with parameters that are cut out of the
elastic student: its forward is that of the family, not a copy of it. Gradients flow back into the elastic student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from autodistill.elastic.nested import Cut, NestedStudent
from autodistill.models.families import WeightTable


class ElasticStudent(nn.Module):
    """One set of parameters for a student and all that are smaller.

    Args:
        largest: the largest student, as it is written from the teacher; its parameters become those of the elastic
            student.
        family: the table of the models; by default that of their transformers configuration.
        projection_head: the path of a linear layer from the stream to the teacher's width.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> def bert(width):
        ...     heads = width // 4
        ...     return BertModel(BertConfig(hidden_size=width, num_attention_heads=heads, num_hidden_layers=1,
        ...                                 intermediate_size=8, vocab_size=9))
        >>> elastic = ElasticStudent(bert(8))
        >>> slice, student = elastic.slice(bert(4)), bert(4).eval()
        >>> slice.write(student)
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> torch.equal(slice.eval()(input_ids=tokens)[0], student(input_ids=tokens)[0])
        True
    """

    def __init__(
        self,
        largest: nn.Module,
        *,
        family: WeightTable | None = None,
        projection_head: str | None = None,
    ) -> None:
        super().__init__()
        self.largest = largest
        self._family, self._projection_head = family, projection_head

    def slice(self, model: nn.Module) -> Slice:
        """The slice for a student.

        Args:
            model: the student as it is built; its parameters are released.

        Raises:
            ConfigurationError: it is no part of the largest student; all reasons in one error.
        """
        parts = self._parts(model)
        release(model)
        device = next(self.largest.parameters()).device
        for module in model.modules():  # the buffers of a student are of its own size, and not cut out
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = buffer.to(device)
        return Slice(model, parts)

    @torch.no_grad()
    def write(self, student: nn.Module) -> None:
        """Write the slice for a student into its parameters.

        Args:
            student: as it is built.

        Raises:
            ConfigurationError: it is no part of the largest student; all reasons in one error.
        """
        Slice(student, self._parts(student)).write(student)

    def nested(self, model: nn.Module) -> NestedStudent:
        """A student as a part of the largest one.

        Raises:
            ConfigurationError: it is none; all reasons in one error.
        """
        return NestedStudent(model, self.largest, family=self._family, projection_head=self._projection_head)

    def _parts(self, model: nn.Module) -> dict[str, tuple[nn.Parameter, Cut]]:
        """By the name of each parameter of a student, that of the elastic student and the cut."""
        return {cut.name: (self.largest.get_parameter(cut.source), cut) for cut in self.nested(model).cuts}


class Slice:
    """A student whose parameters are cut out of an elastic student whenever it runs.

    Args:
        model: the student without parameters of its own.
        parts: by the name of each parameter, the elastic student's and the cut.
    """

    def __init__(self, model: nn.Module, parts: Mapping[str, tuple[nn.Parameter, Cut]]) -> None:
        self.model = model
        self._parts = parts

    def eval(self) -> Slice:
        """Put the student into eval mode."""
        self.model.eval()
        return self

    def train(self) -> Slice:
        """Put the student into training mode."""
        self.model.train()
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the student; gradients reach the parameters of the elastic student."""
        taken = {name: _Take.apply(whole, cut) for name, (whole, cut) in self._parts.items()}  # type: ignore[no-untyped-call]
        return torch.func.functional_call(self.model, taken, args, kwargs)

    @torch.no_grad()
    def write(self, student: nn.Module) -> None:
        """Write the slice into a student with parameters of its own, which then computes the same, to the bit.

        Args:
            student: as the model of the slice was built.
        """
        targets = dict(student.named_parameters())
        for name, (whole, cut) in self._parts.items():
            targets[name].copy_(cut.take(whole.detach()))


class _Take(torch.autograd.Function):
    """Cuts a parameter out of another one, and adds its gradient to that of the other in place.

    The gradient of an index would be as large as the whole parameter, once for every slice: a narrow slice of a large
    table of embeddings would cost as much as the whole table.
    """

    @staticmethod
    def forward(ctx: Any, whole: nn.Parameter, cut: Cut) -> torch.Tensor:
        ctx.whole, ctx.cut = whole, cut
        return cut.take(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[None, None]:
        whole: nn.Parameter = ctx.whole
        if whole.grad is None:
            whole.grad = torch.zeros_like(whole)
        ctx.cut.add_(whole.grad, gradients[0])
        return None, None


def release(model: nn.Module) -> nn.Module:
    """Replace the parameters of a model by ones without memory; its buffers stay."""
    replaced: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                empty = nn.Parameter(parameter.detach().to("meta"), requires_grad=parameter.requires_grad)
                module._parameters[name] = replaced.setdefault(parameter, empty)  # tied ones stay tied
    return model
