"""Students of the teacher's family that compute other results with the same weights are reported or refused."""

from __future__ import annotations

import pytest
from families import BERT_LIKE, LLAMA_LIKE, VOCABULARY, hugging_face
from identity_cases import (
    CASES,
    DEBERTA_V3_LIKE,
    DEPTH,
    GPT2_LIKE,
    KEEPS_CONSTANT,
    MOBILEBERT_LIKE,
    MODERNBERT_LIKE,
    ORTHOGONAL,
    PERMUTATION,
    SELECTION,
    UNTIED,
    WIDTH,
    errors,
    randomised,
    square_subspace,
    token_batch,
)

from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import initialize_from_teacher


def words(name, **settings):
    return hugging_face(f"{name}ForCausalLM", **LLAMA_LIKE | UNTIED | settings)


def bert(**settings):
    return hugging_face("BertForMaskedLM", **BERT_LIKE | settings)


def gpt2(**settings):
    return hugging_face("GPT2LMHeadModel", **GPT2_LIKE | UNTIED | settings)


def t5(**settings):
    sizes = {"vocab_size": VOCABULARY, "d_kv": 4, "d_ff": 24, "num_heads": 4} | settings
    return hugging_face("T5EncoderModel", "d_model", "num_layers", **sizes)


def mobilebert(**settings):
    return hugging_face("MobileBertForSequenceClassification", **MOBILEBERT_LIKE | settings)


def lost(*names):
    return [f"the student has no {name!r}, which the teacher has: its effect is lost." for name in names]


def other(name, first, second):
    return f"{name} is {first!r} in the teacher, {second!r} in the student: equal weights compute different results."


READERS = [f"self_attn.{name}_proj.bias" for name in "qkv"]
PLAIN, BIASED = words("Llama"), words("Llama", attention_bias=True, mlp_bias=True)


@pytest.mark.parametrize(
    ("teacher", "student", "directions", "sentences"),
    [
        (words("Qwen2"), PLAIN, ORTHOGONAL, [other("model_type", "qwen2", "llama"), *lost(*READERS)]),
        (
            words("Qwen3"),
            PLAIN,
            ORTHOGONAL,
            [other("model_type", "qwen3", "llama"), *lost("self_attn.q_norm.weight", "self_attn.k_norm.weight")],
        ),
        (
            BIASED,
            PLAIN,
            ORTHOGONAL,
            lost(*READERS, "self_attn.o_proj.bias", *(f"mlp.{name}_proj.bias" for name in ("gate", "up", "down"))),
        ),
        (bert(), bert(hidden_act="relu"), PERMUTATION, [other("hidden_act", "gelu", "relu")]),
        (bert(), bert(layer_norm_eps=0.1), PERMUTATION, [other("layer_norm_eps", 1e-12, 0.1)]),
        (PLAIN, words("Llama", rms_norm_eps=0.1), ORTHOGONAL, [other("rms_norm_eps", 1e-6, 0.1)]),
        (
            words("Mistral", sliding_window=9),
            words("Mistral", sliding_window=2),
            ORTHOGONAL,
            [other("sliding_window", 9, 2)],
        ),
        (
            gpt2(),
            gpt2(activation_function="relu"),
            KEEPS_CONSTANT,
            [other("activation_function", "gelu_new", "relu")],
        ),
        (t5(), t5(feed_forward_proj="gelu"), ORTHOGONAL, [other("dense_act_fn", "relu", "gelu")]),
        (
            mobilebert(),
            mobilebert(normalization_type="layer_norm"),
            SELECTION,
            [other("normalization_type", "no_norm", "layer_norm")],
        ),
        (
            mobilebert(),
            mobilebert(classifier_activation=False),
            SELECTION,
            [other("classifier_activation", True, False)],
        ),
    ],
    ids=[
        "Qwen2",
        "Qwen3",
        "biases",
        "BERT act",
        "BERT eps",
        "Llama eps",
        "window",
        "GPT-2 act",
        "T5 act",
        "MobileBERT norm",
        "MobileBERT pooler",
    ],
)
def test_settings_of_the_student_that_differ_are_reported(teacher, student, directions, sentences):
    first, second = randomised(teacher(WIDTH, DEPTH), 1), randomised(student(WIDTH, DEPTH), 2)
    start = initialize_from_teacher(second, first, square_subspace(directions))
    assert list(start.approximations) == sentences
    assert errors(first, second, start, token_batch()).outputs > 1e-4  # so the report is right


def test_another_base_of_the_rotary_frequencies_is_reported():
    first, second = (
        words("Llama", rope_parameters={"rope_type": "default", "rope_theta": theta})(WIDTH, DEPTH)
        for theta in (1e4, 1e2)
    )
    (sentence,) = initialize_from_teacher(second, first, square_subspace(ORTHOGONAL)).approximations
    assert sentence.startswith("rope_parameters is {")
    assert "10000.0" in sentence
    assert "100.0" in sentence


def test_an_embedding_that_the_student_lacks_is_reported():
    first, second = bert()(WIDTH, DEPTH), bert()(WIDTH, DEPTH)
    del second.bert.embeddings.token_type_embeddings
    start = initialize_from_teacher(second, first, square_subspace(PERMUTATION))
    assert list(start.approximations) == lost("embeddings.token_type_embeddings")


def test_a_different_choice_of_layers_is_no_disagreement():
    make = CASES["T5 encoder"].make
    start = initialize_from_teacher(make(WIDTH, 2), make(WIDTH, DEPTH), square_subspace(ORTHOGONAL), layers=[2, 0])
    assert start.approximations == ()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"feed_forward_proj": "gated-gelu"},
            "the neurons of both models must be gated, or those of neither, but the student computes them from "
            "encoder.block.0.layer.1.DenseReluDense.wi, the teacher from "
            "encoder.block.0.layer.1.DenseReluDense.wi_0, encoder.block.0.layer.1.DenseReluDense.wi_1; build the "
            "student with the teacher's feed-forward layers, or leave init out.",
        ),
        (
            {"relative_attention_num_buckets": 8},
            "tables of position biases are copied row by row, so both models must have as many rows, but "
            "'encoder.block.0.layer.0.SelfAttention.relative_attention_bias' has 32 in the student, 8 in the teacher; "
            "build the student with the teacher's, or leave init out.",
        ),
    ],
)
def test_blocks_that_do_not_correspond_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(t5()(WIDTH, DEPTH), t5(**settings)(WIDTH, DEPTH), square_subspace(ORTHOGONAL))
    assert error.value.problems == [sentence]


FULL, SLIDING = "full_attention", "sliding_attention"


def modernbert(*types):
    return hugging_face("ModernBertModel", **MODERNBERT_LIKE, layer_types=[*types])


def test_layers_that_attend_otherwise_are_reported():
    teacher, student = (
        randomised(modernbert(FULL, *kinds)(WIDTH, DEPTH), seed)
        for seed, kinds in ((1, (SLIDING, SLIDING)), (2, (SLIDING, FULL)))
    )
    start = initialize_from_teacher(student, teacher, square_subspace(SELECTION))
    assert list(start.approximations) == [
        "block 2 of the student has 'full_attention', block 2 of the teacher, from which it comes, "
        "'sliding_attention': equal weights compute different results."
    ]
    assert errors(teacher, student, start, token_batch()).outputs > 1e-4


@pytest.mark.parametrize(
    ("layers", "bare", "other"),
    [((1, 0, 2), "student's 'layers.0.attn_norm'", "teacher's 'layers.1.attn_norm'"), ((0, 0, 2), "teacher's", "stud")],
)
def test_a_block_without_a_norm_corresponds_to_such_a_block_only(layers, bare, other):
    models = [CASES["ModernBERT, base"].make(WIDTH, DEPTH) for _ in range(2)]
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(*models, square_subspace(SELECTION), layers=layers)
    sentence = error.value.problems[0]
    assert sentence.startswith("a block that reads the stream without a norm must correspond to such a block, but the ")
    assert bare in sentence
    assert other in sentence


@pytest.mark.parametrize(
    ("settings", "reported"),
    [
        ({"pos_att_type": ["c2p"]}, "pos_att_type is ['p2c', 'c2p'] in the teacher, ['c2p'] in the student"),
        ({"relative_attention": False}, "relative_attention is True in the teacher, False in the student"),
        ({"norm_rel_ebd": "none"}, "norm_rel_ebd is 'layer_norm' in the teacher, 'none' in the student"),
    ],
)
def test_other_relative_positions_are_reported(settings, reported):
    teacher, student = (
        randomised(hugging_face("DebertaV2Model", **DEBERTA_V3_LIKE | changes)(WIDTH, DEPTH), seed)
        for seed, changes in ((1, {}), (2, settings))
    )
    start = initialize_from_teacher(student, teacher, square_subspace(SELECTION))
    assert any(sentence.startswith(reported) for sentence in start.approximations)
    assert errors(teacher, student, start, token_batch()).outputs > 1e-4
