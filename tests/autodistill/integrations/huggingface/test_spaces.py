"""Dimensions of ready-made spaces are configuration fields, and models can be built of every architecture."""

from __future__ import annotations

import pytest
import transformers

from autodistill.integrations.huggingface.spaces import FAMILIES_WITH_SPACE, transformers_space
from search_spaces import SearchSpaceError

TINY = {
    "bert": {"num_hidden_layers": 4, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64},
    "distilbert": {"n_layers": 4, "dim": 32, "n_heads": 4, "hidden_dim": 64},
    "gpt2": {"n_layer": 4, "n_embd": 32, "n_head": 4, "n_inner": None},
}
TINY["vit"] = TINY["bert"]
TINY.update(dict.fromkeys(("electra", "mpnet", "deberta-v2", "modernbert"), TINY["bert"]))
TINY["llama"] = TINY["bert"] | {"num_key_value_heads": 2}
SMALL = {  # what keeps models of the tests small
    "bert": {"vocab_size": 20, "max_position_embeddings": 8},
    "distilbert": {"vocab_size": 20, "max_position_embeddings": 8},
    "gpt2": {"vocab_size": 20, "n_positions": 8},
    "llama": {"vocab_size": 20},
    "vit": {"image_size": 8, "patch_size": 4},
}
SMALL.update(dict.fromkeys(("electra", "mpnet", "deberta-v2"), SMALL["bert"]))
SMALL["modernbert"] = {"vocab_size": 20, "pad_token_id": 0}


def teacher(family, **changes):
    return {"model_type": family} | TINY[family] | changes


def values(space):
    return {name: list(domain.values()) for name, domain in space.dimensions.items()}


@pytest.mark.parametrize("family", FAMILIES_WITH_SPACE)
def test_dimensions_are_fields_of_the_configuration_of_the_family(family):
    space = transformers_space(family)
    default = transformers.AutoConfig.for_model(family).to_dict()
    assert set(space.names) <= set(default)
    assert space.size > 50


@pytest.mark.parametrize("family", TINY)
def test_every_architecture_for_a_tiny_teacher_makes_a_model_that_runs(family):
    space = transformers_space(family, teacher(family))
    assert space.size > 4
    for architecture in space.enumerate():
        config = transformers.AutoConfig.for_model(family, **SMALL[family], **architecture)
        transformers.AutoModel.from_config(config)  # its attention refuses heads that do not divide the width


def test_mobilebert_space_is_that_of_the_specification():
    space = transformers_space("mobilebert", teacher("bert"))
    assert values(space) == {
        "hidden_size": [128, 246, 384, 512],
        "intra_bottleneck_size": [64, 96, 128, 160],
        "num_attention_heads": [1, 2, 4, 8],
        "intermediate_size": [384, 512, 640],
        "num_feedforward_networks": [2, 4, 6],
    }
    assert space.size == 4 * 4 * 4 * 3 * 3


def test_students_are_a_quarter_to_two_thirds_of_the_teacher():
    bert = teacher("bert", num_hidden_layers=12, hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    assert values(transformers_space("bert", bert)) == {
        "num_hidden_layers": [3, 4, 6, 8, 12],
        "hidden_size": [192, 256, 384, 512],
        "num_attention_heads": [3, 4, 6, 12],
        "intermediate_size": [768, 1024, 1536, 2048],
    }
    assert transformers_space("bert", bert) == transformers_space("bert")  # it is the usual model


def test_students_of_another_family_have_the_sizes_under_their_own_names():
    bert, distilbert = (transformers_space(family, teacher("bert")) for family in ("bert", "distilbert"))
    assert list(values(distilbert).values()) == list(values(bert).values())
    assert distilbert.names == ("n_layers", "dim", "n_heads", "hidden_dim")


def test_rotary_heads_are_even_and_divided_by_key_value_heads():
    for architecture in transformers_space("llama", teacher("llama")).enumerate():
        assert architecture["hidden_size"] // architecture["num_attention_heads"] % 2 == 0
        assert architecture["num_attention_heads"] % architecture["num_key_value_heads"] == 0


def test_no_value_is_listed_that_no_architecture_has():
    space = transformers_space("llama")
    for name, listed in values(space).items():
        assert {architecture[name] for architecture in space.enumerate()} == set(listed)


def test_teacher_with_a_narrow_feed_forward_has_students_with_one():
    space = transformers_space("bert", teacher("bert", intermediate_size=32))
    assert any(a["intermediate_size"] == a["hidden_size"] for a in space.enumerate())


def test_students_of_a_teacher_with_narrow_embeddings_are_not_as_wide_as_those():
    """They would lack the map from the embeddings to the stream, and could not start inside their teacher."""
    small = teacher("electra", num_hidden_layers=12, hidden_size=256, num_attention_heads=4, intermediate_size=1024)
    assert 128 in values(transformers_space("electra", small))["hidden_size"]
    assert 128 not in values(transformers_space("electra", small | {"embedding_size": 128}))["hidden_size"]


def test_unknown_family_is_refused_with_the_nearest():
    with pytest.raises(SearchSpaceError, match="but got 'brt'; did you mean 'bert'"):
        transformers_space("brt")
    with pytest.raises(SearchSpaceError, match="but got 'unheard-of'"):
        transformers_space("bert", {"model_type": "unheard-of"})


def test_teacher_of_a_family_whose_sizes_are_not_comparable_is_refused():
    with pytest.raises(SearchSpaceError, match=r"fit teachers of the families bert, .* but got 'mobilebert'"):
        transformers_space("bert", {"model_type": "mobilebert"})


def test_configuration_without_sizes_is_refused():
    with pytest.raises(SearchSpaceError, match="must contain its sizes, but hidden_size, intermediate_size is missing"):
        transformers_space("bert", {"model_type": "bert", "num_hidden_layers": 2, "num_attention_heads": 2})
