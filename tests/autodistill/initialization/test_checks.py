"""Models that do not fit are refused before anything is written; every mistake has its sentence."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from families import BERT_LIKE, LLAMA_LIKE, VOCABULARY, hugging_face
from identity_cases import (
    CASES,
    DEBERTA_V3_LIKE,
    DEPTH,
    KEEPS_CONSTANT,
    OPT_LIKE,
    ORTHOGONAL,
    PERMUTATION,
    PHI3_LIKE,
    SELECTION,
    VIT_LIKE,
    WIDTH,
    square_subspace,
    token_batch,
)
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller
from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.subspace import TeacherSubspace, decompose
from autodistill.models.families import FAMILIES, Attention, Family, FeedForward, HeadSizes, family_of
from autodistill.models.weights import Part

bert = hugging_face("BertForSequenceClassification", **BERT_LIKE)


def refusal(student, teacher, subspace=None, **arguments):
    """The sentences, after a check that the student is unchanged."""
    before = copy.deepcopy(student.state_dict())
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(student, teacher, subspace or square_subspace(PERMUTATION), **arguments)
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    return error.value.problems


def test_all_mistakes_are_in_one_error():
    settings = BERT_LIKE | {"vocab_size": 50, "num_labels": 3}
    student = hugging_face("BertForSequenceClassification", **settings)(8, 2)
    assert refusal(student, bert(WIDTH, DEPTH), layers=[0, 3]) == [
        "layers must name one of the teacher's 3 blocks (0 to 2) for each of the student's 2, but is [0, 3].",
        *(
            "the subspace must lead from the teacher's width to the student's, but it leads from 16 to 16, and "
            f"'embeddings.{table}_embeddings' is 16 wide in the teacher, 8 in the student."
            for table in ("word", "position", "token_type")
        ),
        "outputs are copied from the teacher, so both models must have as many, but 'classifier' has 3 in the student, "
        "2 in the teacher; build the student with the teacher's, or leave init out.",
    ]


def test_another_vocabulary_is_refused():
    student = hugging_face("BertForSequenceClassification", **BERT_LIKE | {"vocab_size": 50})(WIDTH, DEPTH)
    assert refusal(student, bert(WIDTH, DEPTH)) == [
        "embeddings are copied row by row, so both models must have as many rows (of a text's positions, a student may "
        "have fewer), but of 'embeddings.word_embeddings' the student has 50, the teacher 40; build the student with "
        "the teacher's vocabulary (or size of images and patches), or leave init out."
    ]


def electra(embedding_size):
    return hugging_face("ElectraModel", **BERT_LIKE, embedding_size=embedding_size)


def test_embeddings_with_a_map_to_the_stream_must_be_the_teachers():
    (sentence,) = refusal(electra(8)(WIDTH, DEPTH), electra(12)(WIDTH, DEPTH))[:1]
    assert sentence == (
        "embeddings that a map leads to the stream are copied, so both models must have the same, but "
        "'embeddings.word_embeddings' is 12 wide in the teacher, 8 in the student; build the student with the "
        "teacher's width of embeddings, or leave init out."
    )


def test_a_student_whose_stream_is_as_wide_as_its_embeddings_cannot_have_the_map_of_its_teacher():
    assert refusal(electra(WIDTH)(WIDTH, DEPTH), electra(12)(WIDTH, DEPTH))[-1] == (
        "the student must have a map from its embeddings to its stream, since the teacher has one "
        "('embeddings_project') after the norm of its embeddings, but it has none, because both are of the same width; "
        "choose another width of the stream (hidden_size), or leave init out."
    )


def test_a_map_from_the_embeddings_must_absorb_the_mean():
    teacher, student = electra(12)(WIDTH, DEPTH), electra(12)(WIDTH, DEPTH)
    student.embeddings_project.bias = None
    (sentence,) = refusal(student, teacher)
    assert "must have a bias, which absorbs the mean, but 'embeddings_project' has none" in sentence


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"conv_kernel_size": 3}, "encoder.conv', and its activation acts on single channels of the stream"),
        ({"embedding_size": 12}, "embeddings.embed_proj', and it has embeddings of another width than its stream"),
    ],
)
def test_modules_that_the_table_of_a_family_excludes_are_refused(settings, reason):
    models = [hugging_face("DebertaV2Model", **DEBERTA_V3_LIKE | settings)(WIDTH, DEPTH) for _ in range(2)]
    sentences = refusal(*models, square_subspace(SELECTION))
    for owner, sentence in zip(("teacher", "student"), sentences, strict=True):
        assert f"but the {owner} has " in sentence
        assert reason in sentence


def test_another_number_of_relative_positions_is_refused():
    student, teacher = (
        hugging_face("DebertaV2Model", **DEBERTA_V3_LIKE | {"position_buckets": buckets})(WIDTH, DEPTH)
        for buckets in (3, 4)
    )
    (sentence,) = refusal(student, teacher, square_subspace(SELECTION))
    assert "but of 'encoder.rel_embeddings' the student has 6, the teacher 8" in sentence


def test_a_mean_is_refused_where_queries_read_a_table_of_positions():
    models = [hugging_face("DebertaV2Model", **DEBERTA_V3_LIKE)(WIDTH, DEPTH) for _ in range(2)]
    assert refusal(*models, square_subspace(PERMUTATION)) == [
        "a family with a table of positions that its queries and keys read needs a subspace of mean zero, but this one "
        'has a mean; use decompose(..., centring="none").'
    ]


def test_fewer_positions_are_accepted():
    student = hugging_face("BertForSequenceClassification", **BERT_LIKE | {"max_position_embeddings": 10})
    teacher, student = bert(WIDTH, DEPTH), student(WIDTH, DEPTH)
    initialize_from_teacher(student, teacher, square_subspace(PERMUTATION))
    expected = teacher.bert.embeddings.position_embeddings.weight[:10] @ square_subspace(PERMUTATION).directions.float()
    torch.testing.assert_close(student.bert.embeddings.position_embeddings.weight, expected)


def test_fewer_patches_are_not_the_first_of_the_grid():
    make = hugging_face("ViTForImageClassification", **VIT_LIKE | {"image_size": 8})
    teacher = CASES["ViT, classes"].make(WIDTH, DEPTH)
    (sentence,) = refusal(make(WIDTH, DEPTH), teacher, square_subspace(KEEPS_CONSTANT))
    assert "of 'embeddings.position_embeddings' the student has 2, the teacher 5; build the student with" in sentence


@pytest.mark.parametrize("name", ["GPT-2, words", "ViT, classes"])
def test_layer_norms_before_the_readers_need_the_constant_vector_kept(name):
    models = [CASES[name].make(WIDTH, DEPTH) for _ in range(2)]
    assert refusal(*models, square_subspace(ORTHOGONAL)) == [
        "a family with LayerNorms before what reads the stream needs a subspace that keeps the constant vector (P·1 "
        'parallel to 1), but this one does not; use decompose(..., centring="none", keeps_constant=True).'
    ]


@pytest.mark.parametrize(("name", "more"), [("GPT-2, words", ", keeps_constant=True"), ("Llama, words", "")])
def test_mean_is_refused_with_norms_before_the_readers(name, more):
    models = [CASES[name].make(WIDTH, DEPTH) for _ in range(2)]
    assert refusal(*models, square_subspace(PERMUTATION)) == [
        "a family with norms before what reads the stream needs a subspace of mean zero, but this one has a mean; use "
        f'decompose(..., centring="none"{more}).'
    ]


def test_another_family_is_refused():
    student = CASES["DistilBERT, words"].make(WIDTH, DEPTH)
    assert refusal(student, bert(WIDTH, DEPTH)) == [
        "a student that starts inside its teacher must be of its family, but the student is a DistilBertModel and the "
        "teacher a BertModel; leave init out."
    ]


def test_model_without_a_residual_stream_is_refused():
    (sentence,) = refusal(nn.Linear(2, 2), bert(WIDTH, DEPTH))
    assert sentence == (
        "init='teacher' needs to know which weights of the student read and write its residual stream; it knows the "
        f"families {', '.join(FAMILIES)}, but Linear holds none of them; pass a table (autodistill.Family), or leave "
        "init out."
    )


def test_a_table_whose_blocks_do_not_exist_is_refused():
    table = dataclasses.replace(FAMILIES["bert"].weights, blocks="encoder.blocks")
    (sentence,) = refusal(bert(WIDTH, DEPTH), bert(WIDTH, DEPTH), family=table)
    assert "(its blocks are not at the path in the given table)" in sentence


def test_heads_that_do_not_divide_the_width_are_refused():
    table = dataclasses.replace(
        FAMILIES["bert"].weights, heads=lambda model: HeadSizes(3, 3, model.config.hidden_size // 3)
    )
    problems = refusal(bert(WIDTH, DEPTH), bert(WIDTH, DEPTH), family=table)
    assert problems == [
        f"queries must be divided evenly into heads, but 'bert.encoder.layer.0.attention.self.query' of the {owner} "
        "has 16 channels for 3 heads of 5; choose a number of heads that divides the width, or fix `heads` in the "
        "table of its family."
        for owner in ("teacher", "student")
    ]


def test_rotary_heads_of_an_odd_number_of_channels_are_refused():
    student = hugging_face("LlamaForCausalLM", **LLAMA_LIKE | {"head_dim": 3})(WIDTH, DEPTH)
    teacher = hugging_face("LlamaForCausalLM", **LLAMA_LIKE)(WIDTH, DEPTH)
    assert refusal(student, teacher, square_subspace(ORTHOGONAL)) == [
        "rotary heads need an even number of channels, but the student's have 3."
    ]


def test_key_value_heads_that_do_not_divide_the_heads_are_refused():
    settings = LLAMA_LIKE | {"num_key_value_heads": 3}
    student = hugging_face("LlamaForCausalLM", **settings)(WIDTH, DEPTH)
    teacher = hugging_face("LlamaForCausalLM", **LLAMA_LIKE)(WIDTH, DEPTH)
    assert refusal(student, teacher, square_subspace(ORTHOGONAL)) == [
        "the number of heads must be a multiple of the key-value heads, but the student has 4 and 3."
    ]


def test_a_teacher_whose_blocks_differ_in_width_is_refused():
    with pytest.raises(ConfigurationError) as error:
        decompose([([torch.randn(9, 4), torch.randn(9, 6)], None)])
    assert str(error.value) == (
        "the teacher's stream must have one width, since one subspace serves all blocks, but its blocks have 4, 6 "
        "channels; leave init out."
    )


def test_a_student_of_two_families_is_found_by_the_first_base_model():
    model = nn.ModuleDict({"head": nn.Linear(2, 2), "body": bert(WIDTH, DEPTH)})
    path, base, family = family_of(model)
    assert (path, type(base), family) == ("body.bert", BertModel, FAMILIES["bert"].weights)


class Projected(nn.Module):
    def __init__(self, width, out=WIDTH) -> None:
        super().__init__()
        sizes = {"intermediate_size": 8, "vocab_size": VOCABULARY, "num_attention_heads": 2}
        self.body = BertModel(BertConfig(hidden_size=width, num_hidden_layers=2, **sizes), add_pooling_layer=False)
        self.projection = nn.Linear(width, out)

    def forward(self, input_ids, attention_mask):
        return self.projection(self.body(input_ids, attention_mask).last_hidden_state)


def distiller(batch=None, **init):
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"any": [0]}, "metrics": ["loss"]},
            "flash_distillation": {"train_steps": 2},
            "init": init,
        }
    )
    return Distiller(Projected(WIDTH), config, [batch or token_batch()], torch.device("cpu"))


@pytest.mark.parametrize(
    ("student", "init", "sentence"),
    [
        (
            lambda: Projected(24),
            {},
            "a student that starts inside its teacher must not be wider than it, but the student's width is 24, the "
            "teacher's 16; search narrower students, or leave init out.",
        ),
        (
            lambda: Projected(8, out=12),
            {"projection_head": "projection"},
            "init.projection_head must be the path of a linear layer of the student from its width 8 to the teacher's "
            "16, but 'projection' leads from 8 to 12.",
        ),
        (
            lambda: Projected(8),
            {"projection_head": "head"},
            "init.projection_head must be the path of a linear layer of the student from its width 8 to the teacher's "
            "16, but 'head' is none.",
        ),
    ],
)
def test_a_search_refuses_before_anything_is_trained(student, init, sentence):
    with pytest.raises(ConfigurationError) as error:
        distiller(**init).resolve(student())
    assert error.value.problems == [sentence]


def test_a_flash_set_of_fewer_tokens_than_the_teacher_is_wide():
    batch = {name: value[1:3, :4] for name, value in token_batch().items()}
    with pytest.raises(ConfigurationError) as error:
        distiller(batch).resolve(Projected(8))
    assert str(error.value) == (
        "the teacher's stream of 16 channels needs at least as many positions (tokens, patches) in the flash set, but "
        "it has 8; raise init.batches, or the batch size."
    )


def test_a_subspace_of_another_teacher_is_refused():
    subspace = TeacherSubspace(torch.zeros(1, 12), torch.eye(12, 8), torch.ones(8), 1.0)
    (first, *_) = refusal(bert(8, 2), bert(WIDTH, DEPTH), subspace)
    assert "it leads from 12 to 8, and 'embeddings.word_embeddings' is 16 wide in the teacher, 8 in" in first


BERT = FAMILIES["bert"].weights
ATTENTION, FEED_FORWARD = BERT.parts


@pytest.mark.parametrize(
    ("change", "paths"),
    [
        ({"parts": (dataclasses.replace(ATTENTION, query="q"), FEED_FORWARD)}, ["encoder.layer.{}.q"]),
        (
            {"parts": (dataclasses.replace(ATTENTION, output="o", norm="n"), FEED_FORWARD)},
            ["encoder.layer.{}.o", "encoder.layer.{}.n"],
        ),
        ({"parts": (ATTENTION, dataclasses.replace(FEED_FORWARD, readers=("up", "gate")))}, ["encoder.layer.{}.up"]),
        ({"parts": (ATTENTION, dataclasses.replace(FEED_FORWARD, output="down"))}, ["encoder.layer.{}.down"]),
        ({"embedding_norm": "embeddings.norm"}, ["embeddings.norm"]),
        ({"final_norm": "norm"}, ["norm"]),
    ],
)
def test_a_table_with_misspelt_paths_is_refused(change, paths):
    family = dataclasses.replace(BERT, **change)
    expected = [
        f"the {owner} must have the weights that the table of its family names, but has none at "
        + ", ".join(repr(f"bert.{path.format(layer)}") for path in paths for layer in layers)
        + "; fix the table."
        for owner, layers in (("teacher", [DEPTH - 1]), ("student", [0]))
    ]
    problems = refusal(bert(8, 1), bert(WIDTH, DEPTH), narrow_subspace(), family=family)
    assert [problem for problem in problems if problem.endswith("fix the table.")] == expected


def narrow_subspace():
    return TeacherSubspace(torch.zeros(1, WIDTH), torch.eye(WIDTH, 8), torch.ones(8), 1.0)


def test_a_table_with_misspelt_embeddings_is_refused():
    family = dataclasses.replace(BERT, embeddings=(*BERT.embeddings, "embeddings.words"))
    assert refusal(bert(8, 1), bert(WIDTH, DEPTH), narrow_subspace(), family=family) == [
        "the table of a family must name embeddings, but neither model has 'embeddings.words'; fix the table."
    ]
    with pytest.raises(ConfigurationError, match=r"the student has none of those that this table names \(words\); fix"):
        distiller(family=dataclasses.replace(BERT, embeddings=("words",))).resolve(Projected(8))


def test_a_table_with_contradictory_fields_is_refused():
    with pytest.raises(ConfigurationError) as error:
        Family("layers", (FeedForward("up", "down", "norm"),), "words", norm_position="behind")
    assert error.value.problems == [
        "norm_position must be 'before' or 'after', but is 'behind'.",
        "embeddings must be a tuple of weights, but is 'words'; write ('words',).",
        "readers must be a tuple of weights, but is 'up'; write ('up',).",
    ]


@pytest.mark.parametrize("index", [-1, 3])
def test_a_missing_part_is_refused(index):
    with pytest.raises(ConfigurationError) as error:
        Part("attention.in_proj", index, of=3)
    assert str(error.value) == (
        f"the index of a part must be 0 to 2, since 'attention.in_proj' holds 3, but is {index}; count from 0."
    )


def test_heads_of_a_model_without_configuration_are_refused():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(WIDTH, 2, batch_first=True), 2, enable_nested_tensor=False)
    attention = Attention(*(Part("self_attn.in_proj", index, 3) for index in range(3)), "self_attn.out_proj", "norm1")
    family = Family("layers", (attention,), ("layers.0.linear2",), norm_position="after")
    with pytest.raises(ConfigurationError) as error:
        initialize_from_teacher(model, model, square_subspace(PERMUTATION), family=family)
    assert str(error.value) == (
        "the sizes of attention heads must be known, but TransformerEncoder has no transformers configuration that "
        "has them; set `heads` in the table of its family to a function from a model to HeadSizes."
    )


@pytest.mark.parametrize("layers", [[0], [-1, 0], ["0", "1"], [0.0, 1.0], [0, DEPTH]])
def test_layers_that_the_teacher_does_not_have_are_refused(layers):
    assert refusal(bert(8, 2), bert(WIDTH, DEPTH), narrow_subspace(), layers=layers) == [
        f"layers must name one of the teacher's {DEPTH} blocks (0 to {DEPTH - 1}) for each of the student's 2, but is "
        f"{layers}."
    ]


def test_means_of_another_number_of_boundaries_are_refused():
    subspace = dataclasses.replace(narrow_subspace(), means=torch.zeros(DEPTH, WIDTH))
    assert refusal(bert(8, 2), bert(WIDTH, DEPTH), subspace) == [
        f"a subspace must have one mean, or one for each of the {DEPTH + 1} boundaries of the teacher's {DEPTH} "
        f"blocks, but it has {DEPTH}; decompose this teacher's stream."
    ]


def test_a_student_that_shares_weights_with_its_teacher_is_refused():
    teacher, student = bert(WIDTH, DEPTH), bert(WIDTH, 2)
    student.bert.embeddings.word_embeddings = teacher.bert.embeddings.word_embeddings
    assert refusal(student, teacher) == [
        "a student that is written from its teacher must share no parameter with it, but "
        "'embeddings.word_embeddings.weight' is the teacher's own; give the student copies (copy.deepcopy)."
    ]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"do_layer_norm_before": False},
            "the table of the weights of a OPTModel holds if do_layer_norm_before is True, but the teacher has False; "
            "use another model, or leave init out.",
        ),
        ({"word_embed_proj_dim": 8}, "'decoder.embed_tokens' is 8 wide in the teacher, 16 in the student."),
    ],
)
def test_an_opt_model_of_another_kind_is_refused(settings, sentence):
    teacher = hugging_face("OPTForCausalLM", **OPT_LIKE | settings)(WIDTH, DEPTH)
    student = hugging_face("OPTForCausalLM", **OPT_LIKE)(WIDTH, DEPTH)
    problems = refusal(student, teacher, square_subspace(KEEPS_CONSTANT))
    assert any(sentence in problem for problem in problems)


def test_partly_rotary_heads_of_another_size_are_refused():
    rotary = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    settings = PHI3_LIKE | {"rope_parameters": rotary}
    teacher = hugging_face("Phi3ForCausalLM", **settings)(WIDTH, DEPTH)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    student = hugging_face("Phi3ForCausalLM", **settings | heads)(WIDTH, DEPTH)
    sentences = refusal(student, teacher, square_subspace(ORTHOGONAL))
    assert sentences == [
        f"heads that rotate a share of their channels (partial_rotary_factor=0.5, in the {owner}) must be of one size "
        "in both models, but the student's have 8 channels, the teacher's 4; choose heads of equal sizes, or leave "
        "init out."
        for owner in ("teacher", "student")
    ]


def test_fused_maps_with_fewer_key_value_heads_are_refused():
    teacher, student = (
        hugging_face("Phi3ForCausalLM", **PHI3_LIKE | {"num_key_value_heads": 2})(WIDTH, DEPTH) for _ in range(2)
    )
    assert "queries must be divided evenly into heads" in refusal(student, teacher, square_subspace(ORTHOGONAL))[0]


def test_positions_counted_from_other_rows_are_refused() -> None:
    teacher = hugging_face("RobertaModel", **BERT_LIKE | {"pad_token_id": 1})(WIDTH, DEPTH)
    student = hugging_face("BertModel", **BERT_LIKE)(WIDTH, DEPTH)
    assert any("must count positions from the same row" in sentence for sentence in refusal(student, teacher))
