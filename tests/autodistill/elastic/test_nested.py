"""Which entries of the largest student a smaller one consists of, and which students are no part of it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from elastic_cases import NARROW, resized
from families import BERT_LIKE, LLAMA_LIKE, hugging_face
from identity_cases import CASES, DEPTH, MOBILEBERT_LIKE, UNTIED, WIDTH
from torch import nn

from autodistill.elastic.nested import Cut, NestedStudent
from autodistill.errors import ConfigurationError

LLAMA = hugging_face("LlamaForCausalLM", **LLAMA_LIKE | UNTIED)
BERT = hugging_face("BertForMaskedLM", **BERT_LIKE)


def cut_of(nested: Any, ending: Any) -> Any:
    return next(cut for cut in nested.cuts if cut.name.endswith(ending))


# --- cuts -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "axes",
    [
        (None, None),
        (torch.arange(2), None),
        (torch.arange(2), torch.tensor([2, 0])),
        (torch.tensor([1, 1, 0]), torch.arange(2)),
        (torch.tensor([1, 1, 0]), torch.tensor([2, 2, 1, 2])),
    ],
)
@pytest.mark.parametrize("factor", [None, torch.tensor(2.0)])
def test_cut_takes_entries_and_its_transpose_adds_to_them(axes: Any, factor: Any) -> None:
    whole = torch.arange(12.0, dtype=torch.float64).reshape(3, 4).requires_grad_()
    cut = Cut("a", "b", axes, factor)
    rows, columns = (
        list(range(size)) if kept is None else kept.tolist() for kept, size in zip(axes, (3, 4), strict=True)
    )
    expected = torch.stack([torch.stack([whole[row, column] for column in columns]) for row in rows])
    expected = expected * (1 if factor is None else 2)
    assert torch.equal(cut.take(whole.detach()), expected)
    change = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    added = torch.ones(3, 4, dtype=torch.float64)
    cut.add_(added, change)
    torch.testing.assert_close(added, 1 + torch.autograd.grad(expected, whole, change)[0])


def test_what_is_taken_is_a_tensor_of_its_own() -> None:
    whole = torch.ones(2, 2)
    Cut("a", "b", (None, None)).take(whole).zero_()
    assert whole.sum() == 4


# --- entries ----------------------------------------------------------------------------------------------------------


def test_parts_of_one_weight_keep_their_own_rows() -> None:
    """GPT-2 stacks queries, keys and values; GPT-NeoX stacks them by head."""
    gpt2 = NestedStudent(CASES["GPT-2, words"].make(8, 1), CASES["GPT-2, words"].make(16, 1))
    kept = cut_of(gpt2, "c_attn.weight").axes
    assert kept[0].tolist() == list(range(8))
    assert kept[1].tolist() == [*range(8), *range(16, 24), *range(32, 40)]
    neox = NestedStudent(CASES["GPT-NeoX, words"].make(8, 1), CASES["GPT-NeoX, words"].make(16, 1))
    assert cut_of(neox, "query_key_value.bias").axes[0].tolist() == list(range(24))  # the first two heads


def test_smaller_rotary_heads_keep_whole_pairs_and_rescale_their_queries() -> None:
    student = resized(CASES["Llama, words"], 16, 1, head_dim=4)
    largest = resized(CASES["Llama, words"], 16, 1, head_dim=8)
    nested = NestedStudent(student, largest)
    query, key, value = (cut_of(nested, f"{name}_proj.weight") for name in "qkv")
    assert query.axes[0][:8].tolist() == [0, 2, 4, 6, 8, 10, 12, 14]  # pairs (0, 4) and (2, 6) of each head
    assert query.factor.flatten()[0].item() == pytest.approx(0.5**0.5, abs=1e-15)
    assert key.factor is None
    assert value.axes[0].tolist() == [*range(4), *range(8, 12)]
    assert [cut_of(nested, "o_proj.weight").axes[1].tolist()[index] for index in (0, 4, 12)] == [0, 8, 24]


def test_norm_of_queries_has_their_factor() -> None:
    student, largest = (resized(CASES["Qwen3, words"], 16, 1, head_dim=size) for size in (2, 4))
    nested = NestedStudent(student, largest)
    norm = cut_of(nested, "q_norm.weight")
    assert norm.factor.tolist() == pytest.approx([0.5**0.5] * 2)
    assert cut_of(nested, "q_proj.weight").factor is None
    assert cut_of(nested, "k_norm.weight").factor is None


def test_embeddings_that_a_model_multiplies_by_its_width_are_rescaled_also_where_they_are_tied() -> None:
    make = hugging_face("GemmaForCausalLM", **LLAMA_LIKE | {"tie_word_embeddings": True, "use_cache": False})
    cut = cut_of(NestedStudent(make(8, 1), make(16, 1)), "embed_tokens.weight")
    assert cut.factor.flatten().tolist() == pytest.approx([2**0.5] * 8, abs=1e-15)
    assert cut.axes[0] is None
    assert cut.axes[1].tolist() == list(range(8))


def test_first_heads_of_several_groups_read_their_own_keys() -> None:
    student, largest = (
        resized(CASES["Llama, words"], 16, 1, num_attention_heads=heads, num_key_value_heads=groups)
        for heads, groups in ((4, 2), (8, 2))
    )
    nested = NestedStudent(student, largest)
    assert cut_of(nested, "k_proj.weight").axes[0].tolist() == [0, 1, 2, 3] * 2  # both from the first four heads
    assert cut_of(nested, "q_proj.weight").axes[0].tolist() == list(range(16))


def test_roles_of_a_mobilebert_follow_its_widths() -> None:
    case = CASES["MobileBERT, words"]
    student, largest = case.make(8, 1), case.make(16, 1)
    nested = NestedStudent(student, largest)
    trigram = cut_of(nested, "embedding_transformation.weight").axes
    assert trigram[1].tolist() == [*range(4), *range(8, 12), *range(16, 20)]
    assert cut_of(nested, "transform.dense.weight").axes[0].tolist() == [*range(4), *range(8, 12)]


def test_first_block_has_the_position_table_of_the_first_block() -> None:
    make = CASES["T5 encoder"].make
    nested = NestedStudent(make(16, 1), make(16, 3))
    assert nested.layers == (2,)
    assert cut_of(nested, "relative_attention_bias.weight").source.startswith("encoder.block.0.")


def test_blocks_come_in_order_from_blocks_of_their_kind() -> None:
    make = CASES["ModernBERT, base"].make
    assert NestedStudent(make(8, 3), make(8, 3)).layers == (0, 1, 2)
    assert NestedStudent(make(8, 4), make(8, 5)).layers == (0, 1, 2, 3)
    assert NestedStudent(make(8, 2), make(8, 3)).layers == (0, 2)
    assert NestedStudent(BERT(8, 2), BERT(8, 4)).layers == (1, 3)


def test_student_on_the_device_meta_has_the_same_cuts() -> None:
    for name in ("GPT-NeoX, words", "BERT, classes", "MobileBERT, words"):
        student, largest = CASES[name].make(NARROW, 2), CASES[name].make(WIDTH, DEPTH)
        with torch.device("meta"):
            bare = CASES[name].make(NARROW, 2)
        found = [NestedStudent(one, largest).cuts for one in (student, bare)]
        for one, other in zip(*found, strict=True):
            assert (one.name, one.source) == (other.name, other.source)
            for kept, again in zip(one.axes, other.axes, strict=True):
                assert kept is again is None or torch.equal(kept, again)


# --- students that are no part of the largest one ---------------------------------------------------------------------


def problems_of(student: Any, largest: Any) -> Any:
    with pytest.raises(ConfigurationError) as error:
        NestedStudent(student, largest)
    return error.value.problems


def with_extra_module() -> Any:
    model = BERT(8, 1)
    model.bert.encoder.layer[0].add_module("adapter", nn.Linear(8, 8))
    return model


def with_shared_blocks(depth: Any) -> Any:
    model = BERT(8, depth)
    layers = model.bert.encoder.layer
    layers[1].intermediate.dense.weight = layers[0].intermediate.dense.weight
    return model


def without_tie() -> Any:
    return hugging_face("BertForMaskedLM", **BERT_LIKE | {"tie_word_embeddings": False})(8, 1)


REFUSALS = {
    "wider": (
        lambda: BERT(16, 1),
        "no wider than the largest of its space, but it has 16 channels, the largest 8; leave",
    ),
    "deeper": (
        lambda: BERT(8, 3),
        "no deeper than the largest of its space, but it has 3 blocks, the largest 2; leave",
    ),
    "neurons": (
        lambda: resized_bert(intermediate_size=20),
        "no larger than the largest of its space in any part, but 'bert.encoder.layer.0.intermediate.dense' has 20 "
        "entries in the student, 16 in the largest; leave",
    ),
    "larger heads": (
        lambda: resized_bert(num_attention_heads=1),
        "heads of a student must be no larger .* student's have 8 channels, the largest's 4; let the number of heads",
    ),
    "more heads": (
        lambda: resized_bert(num_attention_heads=4),
        "heads of a student must be among those .* student has 4 heads and 4 key-value heads, the largest 2 and 2; ",
    ),
    "activation": (
        lambda: resized_bert(hidden_act="relu"),
        "a student must compute as the largest .* hidden_act is 'gelu' in the largest student, 'relu' in the student: "
        ".*; leave the setting out of the space",
    ),
    "vocabulary": (
        lambda: resized_bert(vocab_size=30),
        "both models must have as many rows .* 'embeddings.word_embeddings' the student has 30, the largest student 40",
    ),
    "extra module": (
        with_extra_module,
        "every parameter of a student must be named by the table .* 'bert.encoder.layer.0.adapter.weight', "
        "'bert.encoder.layer.0.adapter.bias' are not; leave elastic out, or extend the table",
    ),
    "untied": (
        without_tie,
        "tied in all students of a space, or in none, but only in the largest student "
        "'bert.embeddings.word_embeddings.weight' and 'cls.predictions.decoder.weight' are one parameter; set tie_word",
    ),
    "shared blocks": (
        lambda: with_shared_blocks(2),
        "blocks of a student must have parameters of their own, .* in the student "
        "'bert.encoder.layer.0.intermediate.dense.weight' and 'bert.encoder.layer.1.intermediate.dense.weight' are one "
        "parameter; leave elastic out",
    ),
}


def resized_bert(**sizes: Any) -> Any:
    return resized_from(BERT(8, 2), **sizes)


def resized_from(model: Any, **sizes: Any) -> Any:
    config = copy.deepcopy(model.config)
    for name, value in sizes.items():
        setattr(config, name, value)
    return type(model)(config)


@pytest.mark.parametrize("name", REFUSALS)
def test_student_that_is_no_part_is_refused_with_rule_value_and_remedy(name: Any) -> None:
    make, message = REFUSALS[name]
    with pytest.raises(ConfigurationError, match=message) as error:
        NestedStudent(make(), BERT(8, 2))
    assert len(error.value.problems) == len(set(error.value.problems))
    assert not any("teacher" in text for text in error.value.problems)


def test_all_reasons_are_in_one_error() -> None:
    student = resized_from(BERT(16, 3), hidden_act="relu", intermediate_size=50, num_attention_heads=8)
    student.bert.encoder.layer[0].add_module("adapter", nn.Linear(8, 8))
    text = " ".join(problems_of(student, BERT(8, 2)))
    for part in ("no wider", "no deeper", "hidden_act", "has 50 entries", "8 heads", "adapter"):
        assert part in text
    assert "teacher" not in text


def test_ties_and_shared_blocks_of_the_largest_student_are_refused_too() -> None:
    assert "only in the student" in problems_of(BERT(8, 1), without_tie())[0]
    assert "in the largest student 'bert.encoder.layer.0" in problems_of(BERT(8, 2), with_shared_blocks(2))[0]


def test_tied_and_untied_embeddings_of_a_mobilebert_are_refused() -> None:
    make = hugging_face("MobileBertForMaskedLM", **MOBILEBERT_LIKE | {"tie_word_embeddings": False})
    problems = problems_of(make(8, 1), CASES["MobileBERT, words"].make(16, 1))
    assert any("only in the largest student" in text for text in problems)


def test_vector_that_the_table_does_not_name_is_kept_whole_outside_of_blocks() -> None:
    """The bias of BERT's prediction head is read by nothing if weights are not tied."""
    cut = cut_of(NestedStudent(without_tie(), without_tie()), "cls.predictions.bias")
    assert (cut.source, cut.axes) == ("cls.predictions.bias", (None,))


def test_student_of_another_family_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="it is a LlamaModel, the largest a BertModel; build all students of"):
        NestedStudent(LLAMA(8, 1), BERT(8, 1))


def test_blocks_of_kinds_that_are_not_there_in_order_are_refused() -> None:
    settings = {"layer_types": ["full_attention", "full_attention"], "num_hidden_layers": 2}
    student = resized_from(CASES["ModernBERT, base"].make(8, 2), **settings)
    problems = problems_of(student, CASES["ModernBERT, base"].make(8, 3))
    assert "every block of a student must be a block of the largest" in problems[0]
