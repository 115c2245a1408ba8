"""Students from a configuration: derived fields, architectures that cannot be built, classes that do not fit."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForPreTraining,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForMaskedLM,
    BertModel,
    CLIPConfig,
    ConvNextConfig,
    DebertaV2Config,
    DistilBertConfig,
    GPT2Config,
    LlamaConfig,
    Mamba2Config,
    MobileBertConfig,
    Qwen2Config,
    SwinConfig,
    ViTConfig,
    ViTModel,
)

from autodistill import ConfigurationError, SearchSpace
from autodistill.integrations.huggingface.model_builder import TransformersBuilder

TOKENS = {"vocab_size": 20, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}

FAMILIES = {
    "bert": (AutoModel, BertConfig(hidden_size=8, vocab_size=20, **SIZES), {"hidden_size": [6, 8]}),
    "mobilebert": (
        AutoModelForPreTraining,
        MobileBertConfig(hidden_size=8, embedding_size=6, intra_bottleneck_size=4, vocab_size=20, **SIZES),
        {"intra_bottleneck_size": [4, 6], "hidden_size": [4, 8]},
    ),
    "distilbert": (AutoModel, DistilBertConfig(dim=8, n_layers=1, n_heads=2, hidden_dim=8), {"dim": [6, 8]}),
    "vit": (AutoModel, ViTConfig(hidden_size=8, image_size=8, patch_size=4, **SIZES), {"hidden_size": [6, 8]}),
    "gpt2": (AutoModelForCausalLM, GPT2Config(n_embd=8, n_layer=1, n_head=2, **TOKENS), {"n_embd": [6, 8]}),
    "llama": (AutoModelForCausalLM, LlamaConfig(hidden_size=8, **SIZES, **TOKENS), {"hidden_size": [6, 8]}),
    "qwen2": (
        AutoModelForCausalLM,
        Qwen2Config(hidden_size=8, num_key_value_heads=1, **SIZES, **TOKENS),
        {"hidden_size": [6, 8], "num_hidden_layers": [1, 3]},
    ),
}


def can_be_built(builder, architecture):
    """Whether the library accepts it: configurations check themselves when constructed, models when built or run."""
    config = builder.config(architecture)
    fields = {name: getattr(config, name) for name in config.to_dict() if not name.startswith("_")}
    inputs = {"input_ids": torch.ones(1, 3, dtype=torch.long)}
    if config.model_type == "vit":
        inputs = {"pixel_values": torch.zeros(1, 3, 8, 8)}
    try:
        builder.model_cls.from_config(type(config)(**fields))(**inputs)
    except Exception:
        return False
    return True


# ViT and Qwen2 are left out: if the heads do not divide the width, they round the size of a head.
@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"vit", "qwen2"}))
def test_the_space_keeps_exactly_the_architectures_that_the_library_can_build(family, caplog):
    model_cls, config, dimensions = FAMILIES[family]
    builder = TransformersBuilder(model_cls, config)
    heads = config.attribute_map.get("num_attention_heads", "num_attention_heads")
    space = SearchSpace({**dimensions, heads: [1, 2, 3, 4]})
    kept = list(builder.feasible(space).enumerate())
    every = [
        dict(zip(space.names, values, strict=True))
        for values in itertools.product(*(domain.values() for domain in space.dimensions.values()))
    ]
    assert kept == [architecture for architecture in every if can_be_built(builder, architecture)]
    assert 0 < len(kept) < len(every)
    assert f"{len(every) - len(kept)} of {len(every)} architectures cannot be built and are left out" in caplog.text
    for architecture in kept:
        student = builder(architecture)
        assert all(getattr(student.config, name) == value for name, value in architecture.items())


def test_a_space_without_impossible_pairs_is_unchanged_and_nothing_is_logged(caplog):
    builder = TransformersBuilder(*FAMILIES["mobilebert"][:2])
    space = SearchSpace({"intra_bottleneck_size": [4, 8], "num_attention_heads": [1, 2]})
    assert builder.feasible(space) is space
    assert not caplog.records


def test_the_pooler_of_deberta_has_the_width_of_the_student():
    config = DebertaV2Config(hidden_size=16, vocab_size=20, **SIZES)
    student = TransformersBuilder(AutoModelForSequenceClassification, config)({"hidden_size": 8})
    assert student.pooler.dense.weight.shape == (8, 8)
    assert student(torch.ones(1, 3, dtype=torch.long)).logits.shape == (1, 2)


def test_fields_that_depend_on_others_are_derived():
    mobile = TransformersBuilder(*FAMILIES["mobilebert"][:2]).config({"intra_bottleneck_size": 6})
    assert mobile.true_hidden_size == 6
    llama = TransformersBuilder(*FAMILIES["llama"][:2]).config({"hidden_size": 24, "num_attention_heads": 4})
    assert (llama.head_dim, llama.num_key_value_heads) == (6, 4)
    grouped = LlamaConfig(hidden_size=8, num_key_value_heads=1, head_dim=6, **SIZES, **TOKENS)
    changed = TransformersBuilder(AutoModelForCausalLM, grouped).config({"num_attention_heads": 4})
    assert (changed.head_dim, changed.num_key_value_heads) == (6, 1)
    assert len(TransformersBuilder(*FAMILIES["qwen2"][:2]).config({"num_hidden_layers": 3}).layer_types) == 3


def test_the_base_configuration_is_unchanged_and_attention_is_kept():
    base = BertConfig(hidden_size=8, vocab_size=20, attn_implementation="eager", **SIZES)
    before = base.to_dict()
    for model_cls in (AutoModel, BertModel):
        student = TransformersBuilder(model_cls, base)({"hidden_size": 4})
        assert type(student) is BertModel
        assert student.config.hidden_size == 4
        assert student.config._attn_implementation == "eager"
    assert base.to_dict() == before


@pytest.mark.parametrize(
    ("model_cls", "config", "sentence"),
    [
        (AutoModelForImageClassification, BertConfig(), "AutoModelForImageClassification does not support BertConfig."),
        (ViTModel, BertConfig(), "ViTModel takes a ViTConfig and the configuration is a BertConfig."),
        (int, BertConfig(), "model_cls must be a class of the transformers library .* but got int"),
        (AutoModel, {"hidden_size": 8}, "changes a configuration of the transformers library, but got dict"),
    ],
)
def test_a_class_or_configuration_that_does_not_fit_is_refused(model_cls, config, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        TransformersBuilder(model_cls, config)


def test_names_that_are_no_fields_are_in_one_error_with_the_nearest():
    builder = TransformersBuilder(*FAMILIES["gpt2"][:2])
    with pytest.raises(ConfigurationError) as caught:
        builder.feasible(SearchSpace({"n_emb": [8], "n_laier": [1], "num_attention_heads": [2]}))
    first, second = caught.value.problems
    assert first.startswith("a dimension must be a field of GPT2Config, but 'n_emb' is not; did you mean 'n_embd'")
    assert "'n_laier' is not; did you mean 'n_layer'" in second


def bert(width, **changes):
    return BertForMaskedLM(BertConfig(hidden_size=width, **{**SIZES, "vocab_size": 20, **changes}))


@pytest.mark.parametrize(
    ("teacher", "space", "reason"),
    [
        (bert(16), {"hidden_size": [8, 16]}, None),
        (bert(16), {"num_hidden_layers": [1]}, None),
        (bert(12), {"hidden_size": [8, 16]}, "of {'hidden_size': 16}: the student is wider (16) than the teacher (12)"),
        (bert(16, vocab_size=21), {"hidden_size": [8]}, "the student has 20, the teacher 21"),
        (bert(16), {"vocab_size": [20, 24]}, "of {'vocab_size': 24}: embeddings are copied row by row"),
        (ViTModel(FAMILIES["vit"][1]), {"hidden_size": [8]}, "must be of its family"),
    ],
)
def test_students_may_start_inside_a_teacher_of_their_family_that_is_as_wide(teacher, space, reason):
    builder = TransformersBuilder(BertForMaskedLM, bert(8).config)
    found = builder.start_blocker(teacher, SearchSpace(space))
    assert found is None if reason is None else reason in found


IMAGES = {"image_size": 8, "patch_size": 4, "hidden_size": 8, **SIZES}


@pytest.mark.parametrize(
    ("name", "settings", "architecture"),
    [
        ("dinov2", IMAGES, {"num_hidden_layers": 3}),
        ("dinov2", {**IMAGES, "num_hidden_layers": 4, "out_indices": [2, 4]}, {"num_hidden_layers": 2}),
        ("beit", IMAGES, {"num_hidden_layers": 2}),
        ("mamba", {"hidden_size": 8, "state_size": 2, **TOKENS, "num_hidden_layers": 1}, {"num_hidden_layers": 2}),
        ("mamba", {"hidden_size": 32, "state_size": 2, **TOKENS, "num_hidden_layers": 1}, {"hidden_size": 64}),
        ("xlnet", {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "vocab_size": 9}, {"d_model": 12}),
        ("xlnet", {"d_model": 8, "n_layer": 1, "n_head": 2, "d_inner": 8, "vocab_size": 9}, {"n_head": 4}),
    ],
)
def test_student_of_another_size_has_the_configuration_that_the_library_reads_and_loads(
    name, settings, architecture, tmp_path
):
    base = CONFIG_MAPPING[name](**settings)
    student = TransformersBuilder(AutoModel, base)(architecture)
    given = {**settings, **architecture}
    given.pop("out_indices", None)
    expected = {field: value for field, value in CONFIG_MAPPING[name](**given).to_dict().items() if field in MADE}
    assert {field: value for field, value in student.config.to_dict().items() if field in expected} == expected
    student.save_pretrained(tmp_path)
    loaded, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert all(torch.equal(loaded.state_dict()[key], value) for key, value in student.state_dict().items())


MADE = ("stage_names", "d_head", "intermediate_size", "time_step_rank")


def test_stages_that_a_backbone_returns_keep_their_share_of_the_depth():
    base = CONFIG_MAPPING["dinov2"](**{**IMAGES, "num_hidden_layers": 4}, out_indices=[2, 4])
    builder = TransformersBuilder(AutoModel, base)
    config = builder.config({"num_hidden_layers": 8})
    assert (config.out_indices, config.out_features) == ([4, 8], ["stage4", "stage8"])
    config = builder.config({"num_hidden_layers": 1})
    assert (config.out_indices, config.out_features) == ([1], ["stage1"])
    assert builder.config({"hidden_size": 4}).out_indices == [2, 4]


@pytest.mark.parametrize("model_cls", [AutoModel, BertModel])
@pytest.mark.parametrize("precision", ["bfloat16", torch.float16])
def test_students_of_half_precision_configurations_are_float32_unless_dtype_is_searched(model_cls, precision):
    base = BertConfig(hidden_size=8, vocab_size=20, dtype=precision, **SIZES)
    builder = TransformersBuilder(model_cls, base)
    assert {tensor.dtype for tensor in builder({}).parameters()} == {torch.float32}
    assert builder({}).config.dtype in (torch.float32, "float32")
    assert {tensor.dtype for tensor in builder({"dtype": "bfloat16"}).parameters()} == {torch.bfloat16}
    assert base.dtype == BertConfig(dtype=precision).dtype


def test_common_names_stand_for_a_familys_own_fields() -> None:
    base = DistilBertConfig(dim=8, hidden_dim=16, n_layers=1, n_heads=2, vocab_size=9)
    builder = TransformersBuilder(AutoModel, base)
    student = builder({"hidden_size": 12, "intermediate_size": 20, "num_hidden_layers": 2})
    assert (student.config.dim, student.config.hidden_dim, student.config.n_layers) == (12, 20, 2)
    assert tuple(student.transformer.layer[1].ffn.lin1.weight.shape) == (20, 12)
    space = SearchSpace({"hidden_size": [8, 9], "n_heads": [2, 3]})
    assert [tuple(found.values()) for found in builder.feasible(space).enumerate()] == [(8, 2), (9, 3)]
    with pytest.raises(ConfigurationError, match="'dim' and 'hidden_size' are the same field; leave one out"):
        builder.feasible(SearchSpace({"dim": [8], "hidden_size": [8]}))
    with pytest.raises(ConfigurationError, match="'hidden_dim' and 'intermediate_size' are the same field"):
        builder({"hidden_dim": 8, "intermediate_size": 8})


def test_lists_are_fields_with_what_follows_from_them(tmp_path: Path) -> None:
    swin = SwinConfig(image_size=16, patch_size=2, embed_dim=4, depths=[1, 1], num_heads=[1, 2], window_size=2)
    builder = TransformersBuilder(AutoModel, swin)
    space = SearchSpace(
        {"depths": [[2, 1], [1, 1, 1]], "num_heads": [[1, 2], [1, 2, 4]]}, ["len(depths) == len(num_heads)"]
    )
    assert builder.feasible(space).size == 2
    for architecture in space.enumerate():
        student = builder(architecture)
        own = SwinConfig(
            image_size=16,
            patch_size=2,
            embed_dim=4,
            window_size=2,
            depths=list(architecture["depths"]),
            num_heads=list(architecture["num_heads"]),
        )
        assert student.config.to_diff_dict() == AutoModel.from_config(own).config.to_diff_dict()
        assert [len(stage.blocks) for stage in student.encoder.layers] == list(architecture["depths"])
        student.save_pretrained(tmp_path)
        assert type(student).from_pretrained(tmp_path).num_parameters() == student.num_parameters()


def test_fields_of_a_nested_configuration_are_dimensions() -> None:
    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = CLIPConfig(
        text_config={**sizes, "vocab_size": 9},
        vision_config={**sizes, "image_size": 4, "patch_size": 2},
        projection_dim=4,
    )
    builder = TransformersBuilder(AutoModel, base)
    space = SearchSpace({"vision_config.hidden_size": [8, 9], "text_config.num_hidden_layers": [1, 2]})
    assert builder.constraints(space) == ["vision_config.hidden_size % 2 == 0"]
    assert builder.feasible(space).size == 2
    student = builder({"vision_config.hidden_size": 12, "text_config.num_hidden_layers": 2})
    assert len(student.text_model.encoder.layers) == 2
    assert student.visual_projection.in_features == 12
    assert (base.vision_config.hidden_size, base.text_config.num_hidden_layers) == (8, 1)
    with pytest.raises(ConfigurationError, match=r"field of CLIPVisionConfig, but 'vision_config.hiden' is not"):
        builder({"vision_config.hiden": 3})
    with pytest.raises(ConfigurationError, match=r"field of CLIPConfig, but 'audio_config.hidden_size' is not"):
        builder({"audio_config.hidden_size": 3})


CONVNEXT = ConvNextConfig(num_stages=4, hidden_sizes=[4, 4, 8, 8], depths=[1, 1, 1, 1], image_size=32)


def test_students_of_convnext_have_as_many_stages_as_their_lists():
    student = TransformersBuilder(AutoModel, CONVNEXT)({"depths": [1, 2], "hidden_sizes": [4, 12]})
    assert [len(stage.layers) for stage in student.encoder.stages] == [1, 2]
    assert student(torch.rand(1, 3, 32, 32)).last_hidden_state.shape[1] == 12


def test_a_list_with_fewer_entries_than_stages_is_refused():
    with pytest.raises(ConfigurationError, match=r"hidden_sizes must have an entry for each of the 4 stages"):
        TransformersBuilder(AutoModel, CONVNEXT)({"hidden_sizes": [4, 12]})


@pytest.mark.parametrize(("architecture", "heads"), [({"hidden_size": 8}, 2), ({"head_dim": 4}, 8)])
def test_the_heads_of_mamba2_follow_its_inner_width(architecture, heads):
    config = Mamba2Config(
        hidden_size=16, num_heads=4, head_dim=8, expand=2, n_groups=2, state_size=4, num_hidden_layers=1, **TOKENS
    )
    student = TransformersBuilder(AutoModel, config).config(architecture)
    assert student.num_heads == heads
    assert student.num_heads * student.head_dim == 2 * student.hidden_size
