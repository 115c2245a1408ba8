"""The hash of a model: the same for models that compute the same, and another after any change of what they compute."""

from __future__ import annotations

import torch
from torch import nn
from transformers import BertConfig, BertModel, ViTConfig, ViTForImageClassification

from autodistill.models.fingerprint import model_fingerprint


class Affine(nn.Module):
    """x * scale + shift; the shift is in no state dict."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.zeros(3), persistent=False)


def test_models_of_the_same_weights_have_one_fingerprint_and_any_change_another() -> None:
    assert model_fingerprint(Affine()) == model_fingerprint(Affine())
    scaled, shifted, wider = Affine(), Affine(), Affine()
    scaled.scale.data[1] = 2
    shifted.shift[1] = 2
    wider.scale = nn.Parameter(torch.ones(4))
    assert len({model_fingerprint(model) for model in (Affine(), scaled, shifted, wider, nn.Linear(3, 1))}) == 5


def test_fingerprint_is_of_the_model_and_not_of_its_mode() -> None:
    model = Affine()
    before = model_fingerprint(model)
    assert model_fingerprint(model.eval().requires_grad_(False)) == before


def test_fingerprint_depends_on_the_type_of_the_weights() -> None:
    assert model_fingerprint(Affine()) == model_fingerprint(Affine())
    assert model_fingerprint(Affine().double()) != model_fingerprint(Affine())


def test_fingerprint_depends_on_configuration_and_attention_implementation() -> None:
    def bert(**settings) -> str:
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        attention = settings.pop("attention", "sdpa")
        config = BertConfig(vocab_size=10, max_position_embeddings=8, **(sizes | settings))
        config._attn_implementation = attention
        torch.manual_seed(0)
        return model_fingerprint(BertModel(config))

    assert bert() == bert()
    assert len({bert(), bert(layer_norm_eps=1e-5), bert(attention="eager"), bert(num_attention_heads=4)}) == 4


def test_forward_with_labels_that_sets_the_problem_type_keeps_the_fingerprint() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    torch.manual_seed(0)
    model = ViTForImageClassification(ViTConfig(image_size=4, patch_size=2, num_channels=1, num_labels=3, **sizes))
    before = model_fingerprint(model)
    model(pixel_values=torch.zeros(2, 1, 4, 4), labels=torch.tensor([0, 1]))
    assert model.config.problem_type == "single_label_classification"
    assert model_fingerprint(model) == before
