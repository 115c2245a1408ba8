"""The elastic student: the parameters of the largest student of a space, of which all others are slices.

A slice runs the model that `model_builder` returns for its architecture, with parameters that are cut out of the
elastic student: its forward is that of the family, not a copy of it. Gradients flow back into the elastic student.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn

from autodistill.elastic.nested import Cut, NestedStudent
from autodistill.errors import ConfigurationError
from autodistill.models.families import WeightTable


class ElasticStudent(nn.Module):
    """One set of parameters for all students of a space.

    Args:
        largest: the largest student, as it is written from the teacher; its parameters become those of the elastic
            student.
        widths: by the width of the stream the largest student of that width, which holds the private parameters of its
            width: norms, and the projection head.
        family: the table of the models; by default that of their transformers configuration.
        projection_head: the path of a linear layer from the stream to the teacher's width.

    Raises:
        ConfigurationError: a student is no part of the largest one; all reasons in one error.

    Examples:
        >>> from transformers import BertConfig, BertModel
        >>> def bert(width):
        ...     heads = width // 4
        ...     return BertModel(BertConfig(hidden_size=width, num_attention_heads=heads, num_hidden_layers=1,
        ...                                 intermediate_size=8, vocab_size=9))
        >>> elastic = ElasticStudent(bert(8), {8: bert(8), 4: bert(4)})
        >>> slice, student = elastic.slice(bert(4)), bert(4).eval()
        >>> slice.write(student)
        >>> tokens = torch.tensor([[1, 2, 3]])
        >>> torch.equal(slice.eval()(input_ids=tokens)[0], student(input_ids=tokens)[0])
        True
    """

    def __init__(
        self,
        largest: nn.Module,
        widths: Mapping[int, nn.Module],
        *,
        family: WeightTable | None = None,
        projection_head: str | None = None,
    ) -> None:
        super().__init__()
        self.largest = largest
        self._options: dict[str, Any] = {"family": family, "projection_head": projection_head}
        # Not a submodule: the models only show which parameters a width has, which are in `private`.
        self.__dict__["_of_width"] = {}
        self.private = nn.ModuleDict()
        for width, model in widths.items():
            self.add_width(width, model)

    def add_width(self, width: int, model: nn.Module) -> None:
        """Add the private parameters of a width, or replace them.

        Args:
            width: of the stream.
            model: the largest student of this width; its parameters are released.

        Raises:
            ConfigurationError: it is no part of the largest student, or of another width.
        """
        nested = NestedStudent(model, self.largest, **self._options)
        if nested.width != width:
            raise ConfigurationError(
                f"the model of a width must have this width, but the stream of the model of width {width} has "
                f"{nested.width} channels; build it with the width."
            )
        values = dict(model.named_parameters())
        own = {cut.name: values[cut.name].detach() for cut in nested.cuts if cut.private}
        device = next(self.largest.parameters()).device
        copies = {_attribute(name): nn.Parameter(value.to(device, copy=True)) for name, value in own.items()}
        self.private[str(width)] = nn.ParameterDict(copies)
        release(model)
        self.__dict__["_of_width"][width] = model

    @property
    def widths(self) -> list[int]:
        """The widths that have private parameters."""
        return [*self.__dict__["_of_width"]]

    def slice(self, model: nn.Module) -> Slice:
        """The slice for a student.

        Args:
            model: the student as it is built; its parameters are released.

        Raises:
            ConfigurationError: it is no part of the largest student, or of a width without private parameters.
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
    def write_narrower(self, student: nn.Module) -> None:
        """Write a student of a width that was not added, with the private parameters of the next wider one, cut.

        Args:
            student: as it is built.

        Raises:
            ConfigurationError: it is no part of the largest student.
        """
        self.write(student, private=False)
        width = NestedStudent(student, self.largest, **self._options).width
        wider = min(other for other in self.widths if other >= width)
        own = cast("nn.ParameterDict", self.private[str(wider)])
        nested = NestedStudent(student, self.__dict__["_of_width"][wider], private_only=True, **self._options)
        Slice(student, {cut.name: (own[_attribute(cut.source)], cut) for cut in nested.cuts}).write(student)

    @torch.no_grad()
    def write(self, student: nn.Module, *, private: bool = True) -> None:
        """Write the slice for a student into its parameters.

        Args:
            student: as it is built.
            private: False writes only what the widths share.

        Raises:
            ConfigurationError: it is no part of the largest student, or of a width without private parameters.
        """
        Slice(student, self._parts(student, private=private)).write(student)

    def _parts(self, model: nn.Module, *, private: bool = True) -> dict[str, tuple[nn.Parameter, Cut]]:
        """By the name of each parameter of a student, that of the elastic student and the cut."""
        nested = NestedStudent(model, self.largest, **self._options)
        shared = (cut for cut in nested.cuts if not cut.private)
        parts = {cut.name: (self.largest.get_parameter(cut.source), cut) for cut in shared}
        if private:
            if nested.width not in self.widths:
                raise ConfigurationError(
                    "every width must have private parameters before a student of it is cut out, but there are those "
                    f"of {', '.join(map(str, sorted(self.widths)))}, and the student's is {nested.width}; call "
                    "add_width."
                )
            own = cast("nn.ParameterDict", self.private[str(nested.width)])
            of_width = self.__dict__["_of_width"][nested.width]
            cuts = NestedStudent(model, of_width, private_only=True, **self._options).cuts
            parts |= {cut.name: (own[_attribute(cut.source)], cut) for cut in cuts}
        return parts


def _attribute(name: str) -> str:
    return name.replace(".", "/")  # names of parameters in a ParameterDict have no dots


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
