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
    private = {name.replace("/", "."): one for name, one in elastic.private[str(NARROW)].named_parameters()}
    shared = dict(elastic.largest.named_parameters())
    for wholes, largest in ((shared, elastic.largest), (private, case.make(NARROW, DEPTH))):
        nested = NestedStudent(again, largest, private_only=wholes is private)
        cuts = [cut for cut in nested.cuts if cut.private == (wholes is private)]
        expected = gradients_by_indexing([cut for cut in cuts if cut.name in of_student], wholes, of_student)
        assert expected
        for name, parameter in wholes.items():
            assert (parameter.grad is not None) == (name in expected)
            if name in expected:
                torch.testing.assert_close(parameter.grad, expected[name])
    assert all(parameter.grad is None for parameter in elastic.private[str(WIDTH)].parameters())


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


# --- private parameters, buffers, modes -------------------------------------------------------------------------------


def test_private_parameters_are_those_of_the_model_of_the_width() -> None:
    case = CASES["BERT, classes"]
    models = [randomised(case.make(width, DEPTH), seed) for seed, width in enumerate((WIDTH, NARROW))]
    gain = models[1].bert.embeddings.LayerNorm.weight.detach().clone()
    elastic = ElasticStudent(models[0], {NARROW: models[1]})
    student = resized(case, NARROW, 1).double()
    elastic.slice(resized(case, NARROW, 1).double()).write(student)
    assert torch.equal(student.bert.embeddings.LayerNorm.weight, gain)
    names = {name.rpartition("/")[0].rpartition("/")[2] for name, _ in elastic.private[str(NARROW)].named_parameters()}
    assert names == {"LayerNorm"}


def test_model_of_a_width_may_have_fewer_blocks_than_the_largest() -> None:
    case = CASES["BERT, classes"]
    models = [randomised(case.make(*size), 1).float() for size in ((WIDTH, DEPTH), (NARROW, 2))]
    last = models[1].bert.encoder.layer[1].output.LayerNorm.weight.detach().clone()
    elastic = ElasticStudent(models[0], {NARROW: models[1]})
    student = resized(case, NARROW, 1)
    elastic.slice(resized(case, NARROW, 1)).write(student)
    assert torch.equal(student.bert.encoder.layer[0].output.LayerNorm.weight, last)


def test_what_is_private_can_be_left_as_it_is() -> None:
    case = CASES["BERT, classes"]
    elastic, student = elastic_student(case), randomised(case.make(NARROW, 2), 9).float()
    before = {name: value.clone() for name, value in student.state_dict().items()}
    elastic.write(student, private=False)
    changed = {name for name, value in student.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {name for name, _ in student.named_parameters() if "LayerNorm" not in name}


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


def test_width_without_private_parameters_is_refused() -> None:
    elastic = elastic_student(CASES["BERT, classes"])
    message = r"every width must have private parameters .* those of 8, 16, and the student's is 12; call add_width"
    with pytest.raises(ConfigurationError, match=message):
        elastic.slice(resized(CASES["BERT, classes"], 12, 2))
    elastic.add_width(12, resized(CASES["BERT, classes"], 12, DEPTH))
    assert elastic.widths == [16, 8, 12]
    elastic.slice(resized(CASES["BERT, classes"], 12, 2))


def test_model_of_another_width_is_refused() -> None:
    elastic = elastic_student(CASES["BERT, classes"])
    with pytest.raises(ConfigurationError, match="of width 12 has 8 channels; build it with the width"):
        elastic.add_width(12, resized(CASES["BERT, classes"], 8, 2))


def test_projection_head_is_private_to_the_width() -> None:
    case = CASES["BERT, pooled"]

    def model(width: Any) -> Any:
        made = randomised(case.make(width, 2), width).float()
        made.add_module("projection", nn.Linear(width, 5))
        return made

    elastic = ElasticStudent(model(WIDTH), {NARROW: model(NARROW)}, projection_head="projection")
    slice, student = elastic.slice(model(NARROW)), model(NARROW)
    own = student.projection.weight.detach().clone()
    elastic.write(student, private=False)
    assert torch.equal(student.projection.weight, own)
    slice.write(student)
    private: Any = elastic.private[str(NARROW)]
    assert torch.equal(student.projection.weight, private["projection/weight"])
    with pytest.raises(ConfigurationError, match=r"projection_head must be the path .* none at 'head'; fix the path"):
        NestedStudent(model(NARROW), model(WIDTH), projection_head="head")


def test_released_parameters_stay_tied() -> None:
    model: Any = release(TIED_CASES["Llama, tied"].make(NARROW, 1))
    assert model.lm_head.weight is model.model.embed_tokens.weight
    assert all(parameter.is_meta for parameter in model.parameters())
    assert not any(buffer.is_meta for buffer in model.buffers())
