"""Slices run as the students that are extracted from them, and add their gradients to the elastic student's."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from elastic_cases import NARROW, Direct, architectures, elastic_student, outputs_of_both, resized
from families import LLAMA_LIKE, hugging_face
from identity_cases import CASES, DEPTH, UNTIED, WIDTH, IdentityCase, floats, randomised
from torch import nn

from autodistill.elastic.nested import NestedStudent
from autodistill.elastic.student import ElasticStudent, Slice, release
from autodistill.errors import ConfigurationError

TIED = {"tie_word_embeddings": True, "use_cache": False}
TIED_CASES = {
    f"{name}, tied": IdentityCase(hugging_face(f"{name}ForCausalLM", **LLAMA_LIKE | TIED), "")
    for name in ("Llama", "Gemma")
}
SLICED = CASES | TIED_CASES


def single(batch: Any) -> Any:
    return {name: value.float() if value.is_floating_point() else value for name, value in batch.items()}


@torch.no_grad()
def change_all(elastic: Any, seed: Any) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in elastic.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("name", SLICED)
def test_slice_computes_what_the_extracted_student_does_to_the_bit(name: Any) -> None:
    """Also after the parameters of the elastic student have changed, as training changes them."""
    elastic, batch = elastic_student(SLICED[name]), single(SLICED[name].batch())
    for seed, (width, depth, sizes) in enumerate(architectures(name)):
        slice, student = (resized(SLICED[name], width, depth, **sizes) for _ in range(2))
        slice = elastic.slice(slice)
        change_all(elastic, seed)
        slice.write(student)
        for of_slice, of_student in outputs_of_both(slice, student, batch):
            assert of_student.isfinite().all()
            assert torch.equal(of_slice, of_student)


EXACT_CASES = [name for name in CASES if not name.startswith("ModernBERT")]
"""Not ModernBERT, whose first block reads the stream without a LayerNorm, which would remove its mean over channels."""


@pytest.mark.parametrize("name", EXACT_CASES)
def test_slice_is_the_student_that_is_written_directly_into_the_subspace_of_its_width(name: Any) -> None:
    case = CASES[name]
    assert Direct(case).error(NARROW, 2) < max(case.error, 1e-9)


GROUPED = IdentityCase(hugging_face("LlamaForCausalLM", **LLAMA_LIKE | UNTIED), "", error=1e-4)
EIGHT = {"num_attention_heads": 8, "num_key_value_heads": 4}


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("BERT, classes", {"intermediate_size": 10}),
        ("GPT-2, classes", {"n_inner": 10}),
        ("Llama, words", {"intermediate_size": 10}),
        ("T5 encoder", {"num_heads": 2}),
        ("MobileBERT, classes", {"intra_bottleneck_size": 4, "true_hidden_size": 4, "num_attention_heads": 1}),
        ("MobileBERT, words", {"embedding_size": 4, "num_feedforward_networks": 2}),
    ],
)
def test_slice_with_fewer_inner_units_is_the_student_that_is_written_directly(name: Any, sizes: Any) -> None:
    assert Direct(CASES[name]).error(NARROW, DEPTH, **sizes) < max(CASES[name].error, 1e-9)


@pytest.mark.parametrize("heads", [(4, 4), (4, 2), (2, 2), (2, 1), (8, 8), (1, 1)])
def test_slice_with_fewer_key_value_heads_is_the_student_that_is_written_directly(heads: Any) -> None:
    sizes = dict(zip(("num_attention_heads", "num_key_value_heads"), heads, strict=True))
    assert Direct(GROUPED, sizes=EIGHT).error(NARROW, 2, **sizes) < GROUPED.error


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("T5 encoder", {"d_kv": 3}),
        ("Llama, words", {"head_dim": 2}),
        ("Qwen3, words", {"head_dim": 2}),
        ("Gemma, words", {"head_dim": 2}),
    ],
)
def test_slice_with_smaller_heads_is_the_student_that_is_written_directly(name: Any, sizes: Any) -> None:
    """At the width of the largest: the singular directions of heads depend on the subspace."""
    error = Direct(CASES[name], order="importance and channels").error(WIDTH, DEPTH, **sizes)
    assert error < max(CASES[name].error, 1e-9)


# --- gradients --------------------------------------------------------------------------------------------------------


def scalar(output: Any) -> Any:
    return sum((value * torch.linspace(-1, 1, value.numel()).reshape(value.shape)).sum() for value in floats(output))


def gradients_by_indexing(cuts: Any, wholes: Any, of_student: Any) -> Any:
    """The gradients of the whole parameters, by explicit indices, from those of the student's own parameters."""
    found = {}
    for cut in cuts:
        whole = torch.zeros_like(wholes[cut.source]).requires_grad_()
        taken = whole
        for axis, kept in enumerate(cut.axes):
            if kept is not None:
                taken = torch.stack([taken.select(axis, entry) for entry in kept.tolist()], dim=axis)
        taken = taken * (cut.factor if cut.factor is not None else 1)
        found[cut.source] = torch.autograd.grad(taken, whole, of_student[cut.name])[0]
    return found


@pytest.mark.parametrize(
    ("case", "sizes"),
    [
        (GROUPED, {"num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 2, "intermediate_size": 10}),
        (TIED_CASES["Gemma, tied"], {"head_dim": 2}),
        (CASES["GPT-2, classes"], {}),
        (CASES["MobileBERT, words"], {"embedding_size": 4}),
    ],
    ids=["one key-value head for two", "tied", "Conv1D", "MobileBERT"],
)
def test_gradients_are_those_of_explicit_indices(case: Any, sizes: Any) -> None:
    elastic = elastic_student(case).double()
    slice, again, student = (resized(case, NARROW, 2, **sizes).double() for _ in range(3))
    slice = elastic.slice(slice)
    slice.write(student)
    for model in (slice, student):
        scalar(model.eval()(**case.batch())).backward()
    of_student = {name: one.grad for name, one in student.named_parameters() if one.grad is not None}
    wholes = dict(elastic.largest.named_parameters())
    cuts = [cut for cut in NestedStudent(again, elastic.largest).cuts if cut.name in of_student]
    expected = gradients_by_indexing(cuts, wholes, of_student)
    assert expected
    for name, parameter in wholes.items():
        assert (parameter.grad is not None) == (name in expected)
        if name in expected:
            torch.testing.assert_close(parameter.grad, expected[name])


def test_repeated_indices_are_among_the_cuts_of_grouped_heads() -> None:
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 4}
    nested = NestedStudent(resized(GROUPED, NARROW, 2, **sizes), GROUPED.make(WIDTH, DEPTH))
    kept: Any = next(cut.axes[0] for cut in nested.cuts if cut.name.endswith("k_proj.weight"))
    assert len(set(kept.tolist())) < len(kept)


def test_gradients_of_two_slices_add_up() -> None:
    case = CASES["BERT, classes"]
    elastic = elastic_student(case).double()
    slices = [elastic.slice(resized(case, width, 2).double()).eval() for width in (WIDTH, NARROW)]
    weight = elastic.largest.get_parameter("bert.embeddings.word_embeddings.weight")
    separate = []
    for slice in slices:
        weight.grad = None
        scalar(slice(**case.batch())).backward()
        separate.append(weight.grad)
    weight.grad = None
    sum(scalar(slice(**case.batch())) for slice in slices).backward()
    torch.testing.assert_close(weight.grad, separate[0] + separate[1])


def test_frozen_parameters_receive_no_gradient() -> None:
    case = CASES["BERT, classes"]
    elastic = elastic_student(case)
    elastic.requires_grad_(False)
    elastic.largest.classifier.requires_grad_(True)
    scalar(elastic.slice(resized(case, NARROW, 2)).eval()(**case.batch())).backward()
    assert [n for n, one in elastic.named_parameters() if one.grad is not None] == [
        "largest.classifier.weight",
        "largest.classifier.bias",
    ]


# --- buffers, modes, the projection head ------------------------------------------------------------------------------


def test_buffers_of_a_slice_are_of_its_own_size() -> None:
    elastic = elastic_student(GROUPED)
    slice = elastic.slice(resized(GROUPED, NARROW, 2, head_dim=2))
    shapes = {tuple(value.shape) for name, value in slice.model.named_buffers() if "inv_freq" in name}
    assert shapes == {(1,)}
    assert all(parameter.is_meta for parameter in slice.model.parameters())


def test_slice_has_the_modes_of_a_module() -> None:
    case = CASES["BERT, classes"]
    slice = elastic_student(case).slice(resized(case, NARROW, 2))
    assert isinstance(slice, Slice)
    assert slice.train().model.training
    assert not slice.eval().model.training


def test_projection_head_is_sliced_along_the_stream() -> None:
    case = CASES["BERT, pooled"]

    def model(width: Any) -> Any:
        made = randomised(case.make(width, 2), width).float()
        made.add_module("projection", nn.Linear(width, 5))
        return made

    elastic, student = ElasticStudent(model(WIDTH), projection_head="projection"), model(NARROW)
    elastic.write(student)
    whole: Any = elastic.largest.projection
    assert torch.equal(student.projection.weight, whole.weight[:, :NARROW])
    assert torch.equal(student.projection.bias, whole.bias)
    with pytest.raises(ConfigurationError, match=r"projection_head must be the path .* none at 'head'; fix the path"):
        NestedStudent(model(NARROW), model(WIDTH), projection_head="head")


def test_released_parameters_stay_tied() -> None:
    model: Any = release(TIED_CASES["Llama, tied"].make(NARROW, 1))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
