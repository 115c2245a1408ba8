"""Students of every family that are parts of one largest student, and students that are written directly.

The largest student is `case.make(WIDTH, DEPTH)` of one of `identity_cases.CASES`; a part of it is `resized`.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from identity_cases import DEPTH, WIDTH, IdentityCase, floats, randomised
from torch import nn

from autodistill.elastic.building import without_random_weights
from autodistill.elastic.student import ElasticStudent, Slice
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.importance import Importance
from autodistill.initialization.outputs import output_weight, outputs_of
from autodistill.initialization.pairing import Order, Pairing
from autodistill.initialization.subspace import StreamDecomposition, TeacherSubspace
from autodistill.models.families import Attention, Family, family_of
from autodistill.models.weights import Affine, join, part, read, write

NARROW = WIDTH // 2
NEURONS = {
    "DistilBERT": "hidden_dim",
    "GPT-2": "n_inner",
    "T5 encoder": "d_ff",
    "DINOv2": "mlp_ratio",
    "OPT": "ffn_dim",
}
HEADS = {"DistilBERT": "n_heads", "GPT-2": "n_head", "T5 encoder": "num_heads"}
"""What configurations call their sizes, where it is not `intermediate_size` and `num_attention_heads`."""


def family_name(case: str) -> str:
    return case.split(",")[0]


def resized(case: IdentityCase, width: int, depth: int, **sizes: Any) -> nn.Module:
    """A model of a case with other sizes, by the names of its configuration."""
    with without_random_weights():
        model = case.make(width, depth)
        if not sizes:
            return model
        config = copy.deepcopy(model.config)
        for name, value in sizes.items():
            setattr(config, name, value)
        return type(model)(config)


def architectures(name: str) -> Iterator[tuple[int, int, dict[str, Any]]]:
    """Parts of the largest student of a case: width, depth, and other sizes."""
    family = family_name(name)
    neurons, heads = NEURONS.get(family, "intermediate_size"), HEADS.get(family, "num_attention_heads")
    few = {neurons: 1 if family == "DINOv2" else 10}
    yield WIDTH, DEPTH, {}
    yield WIDTH, 2, few
    if family == "MobileBERT":
        smaller = {"num_feedforward_networks": 2, "num_attention_heads": 1}
        yield WIDTH, 2, smaller | {"intra_bottleneck_size": 4, "true_hidden_size": 4}
        yield NARROW, 2, smaller | few
        return
    yield NARROW, 1, few
    if family in ("Llama", "Mistral", "Qwen2", "Qwen3", "Gemma"):  # heads apart from the width, in groups
        yield WIDTH, 2, {heads: 2, "num_key_value_heads": 1} | few
        yield NARROW, 2, {heads: 2, "num_key_value_heads": 2, "head_dim": 2}
    elif family == "T5 encoder":
        yield WIDTH, 2, {heads: 2}
        yield NARROW, 2, {heads: 3, "d_kv": 3}
    elif family != "GPT-NeoX" and name != "Phi-3, partly rotary":  # whose heads are of one size
        more = {"num_key_value_heads": 4} if family == "Phi-3" else {}
        yield NARROW, 2, {heads: 4} | more


def elastic_student(case: IdentityCase) -> ElasticStudent:
    """An elastic student with random parameters."""
    return ElasticStudent(randomised(case.make(WIDTH, DEPTH), 0).float())


@torch.no_grad()
def outputs_of_both(
    slice: Slice | nn.Module, student: nn.Module, batch: dict[str, Any]
) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The tensors that a slice and a student compute, in pairs, and last their hidden states."""
    found = [floats(one(**batch)) for one in (slice.eval(), student.eval())]
    return list(zip(*found, strict=True))


# --- students that are written directly from their teacher ------------------------------------------------------------


def norms(model: nn.Module) -> dict[str, torch.Tensor]:
    """The gains and biases of the norms and scales of a model."""
    return {
        f"{path}.{name}": value
        for path, module in model.named_modules()
        if re.search("Norm|LayerScale", type(module).__name__)
        for name, value in module.named_parameters(recurse=False)
    }


def ordered_hidden_layers(teacher: nn.Module) -> nn.Module:
    """The teacher, with neurons before its outputs whose order of importance is the same in every subspace."""
    base = torch.eye(WIDTH, dtype=torch.float64)[:, :1]
    pair = Pairing.of(teacher, teacher, TeacherSubspace(torch.zeros(1, WIDTH), base, torch.ones(1), 1.0))
    outputs = outputs_of(pair) if isinstance(pair.family, Family) else []
    for hidden in (output.hidden for output in outputs if output.hidden is not None and not output.hidden.spans_stream):
        spec = output_weight(pair, hidden.reader).teacher
        affine, generator = read(teacher, spec), torch.Generator().manual_seed(5)
        factors = 1.3 ** -torch.randperm(len(affine.weight), generator=generator).double()
        write(teacher, spec, Affine(factors[:, None] * (affine.weight[:1] + 0.05 * affine.weight), affine.bias))
    return teacher


def without_last_bias(teacher: nn.Module) -> nn.Module:
    """The teacher without the bias of a last LayerNorm before maps without bias.

    The bias of a student's norm is its least-squares fit, which has a mean over channels; P of a width is that of the
    largest student but for a vector times 1ᵀ, which drops out only if there is no mean.
    """
    _, base, family = family_of(teacher)
    if family.keeps_constant and family.final_norm is not None:
        bias = getattr(base.get_submodule(family.final_norm), "bias", None)
        if bias is not None:
            bias.data.zero_()
    return teacher


def fixed_importance(teacher: nn.Module) -> Importance | None:
    """Importance that is the same in every subspace, in an order of its own in every block."""
    _, base, family = family_of(teacher)
    if not isinstance(family, Family):
        return None
    generator, inputs = torch.Generator().manual_seed(6), {}
    path_of_base = family_of(teacher)[0]
    sizes = family.heads(base)
    for block in range(family.depth(base)):
        for unit in family.parts:
            path = join(path_of_base, f"{family.blocks}.{block}", part(unit.output).path)
            if isinstance(unit, Attention) and family.heads_agree and block:  # those of the first block are chosen
                first = join(path_of_base, f"{family.blocks}.0", part(unit.output).path)
                inputs[path] = inputs[first]
            elif isinstance(unit, Attention):
                groups = torch.randperm(sizes.key_value_heads, generator=generator)
                per_group = sizes.heads // sizes.key_value_heads
                ranks = [group * per_group + torch.randperm(per_group, generator=generator) for group in groups]
                importance = (1.0 + sizes.heads - torch.cat(ranks)).double().sqrt()
                inputs[path] = importance.repeat_interleave(sizes.channels)
            else:
                neurons = read(teacher, path).weight.shape[1]
                inputs[path] = 1.0 + torch.randperm(neurons, generator=generator).double()
    return Importance("gradients", inputs)


def decomposition(teacher: nn.Module, *, centred: bool) -> StreamDecomposition:
    """Random principal directions, as the family of the teacher requires them; with a mean where it absorbs one.

    Not where channels are selected: there, biases hold the mean of the channels that a width leaves out.
    """
    _, base, family = family_of(teacher)
    generator = torch.Generator().manual_seed(7)
    streams = torch.randn(3 * WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    streams = streams @ torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)
    means = torch.zeros(1, WIDTH, dtype=torch.float64)
    if centred and not family.selects_channels and family.mean_blocker(base) is None:
        means = torch.randn(1, WIDTH, generator=generator, dtype=torch.float64)
    return StreamDecomposition.of(
        streams.T @ streams / len(streams),
        means,
        keeps_constant=family.keeps_constant,
        selects=family.selects_channels,
    )


@dataclass
class Direct:
    """Writes students of a case from one teacher, in one scale of the stream.

    Attributes:
        case: the case.
        order: see `initialize_from_teacher`.
        centred: whether the subspace has means, where the family allows it.
        sizes: of the teacher and of the largest student, by the names of the configuration.
    """

    case: IdentityCase
    order: Order = "importance"
    centred: bool = True
    sizes: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        teacher = randomised(resized(self.case, WIDTH, DEPTH, **(self.sizes or {})), 1)
        self.teacher = without_last_bias(ordered_hidden_layers(teacher))
        self.found = decomposition(self.teacher, centred=self.centred)
        self.scale = self.found.subspace(WIDTH).scale[0] * 1.25
        self.importance = fixed_importance(self.teacher)

    def subspace(self, width: int) -> TeacherSubspace:
        subspace = self.found.subspace(width)
        scale = torch.ones(width).double() if self.found.selects else self.scale.expand(width)
        return replace(subspace, scale=scale)

    def write(self, student: nn.Module, width: int, order: Order) -> nn.Module:
        """Write a student in the subspace of its width."""
        randomised(student, 3)
        initialize_from_teacher(student, self.teacher, self.subspace(width), importance=self.importance, order=order)
        return student

    def error(self, width: int, depth: int, **sizes: Any) -> float:
        """How far the outputs of a slice are from those of the same student that is written directly.

        The slice has the norms of a student of its own width: their gains depend on the width, so that those of a wider
        one are fitted again.
        """
        largest = self.write(resized(self.case, WIDTH, DEPTH, **(self.sizes or {})), WIDTH, self.order)
        student = self.write(resized(self.case, width, depth, **sizes), width, self.order)
        full = self.write(resized(self.case, width, DEPTH, **{**(self.sizes or {}), **sizes}), width, self.order)
        slice, of_width = (resized(self.case, width, depth, **sizes).double() for _ in range(2))
        ElasticStudent(largest).write(slice)
        ElasticStudent(full).write(of_width)
        slice.load_state_dict(norms(of_width), strict=False)
        pairs = outputs_of_both(slice, student, self.case.batch())
        return max(float((b - a).abs().max() / b.abs().max().clamp(min=1)) for a, b in pairs)
