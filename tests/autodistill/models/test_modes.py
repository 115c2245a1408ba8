"""The modes that distillation sets on a whole model, all of them restored afterwards."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from autodistill.errors import ConfigurationError, LayerNotFoundError
from autodistill.models.modes import inference, plain_forward, training_only


class Blocks(nn.Module):
    """Blocks whose names begin alike, one frozen parameter, one shared weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.Dropout(), nn.Linear(2, 2)) for _ in range(11))
        self.layer[1][0].bias.requires_grad_(False)
        self.layer[1][2].weight = self.layer[1][0].weight


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


def test_only_the_named_block_trains_and_not_the_one_whose_name_begins_alike() -> None:
    model = Blocks()
    before = flags(model)
    with training_only(model, ["layer.1"]) as parameters:
        assert {name for name, flag in flags(model).items() if flag} == {"layer.1.0.weight", "layer.1.2.bias"}
        assert {id(p) for p in parameters} == {id(model.layer[1][0].weight), id(model.layer[1][2].bias)}
        assert len(parameters) == 2  # a shared weight once
        assert {name for name, module in model.named_modules() if module.training} == {
            "layer.1",
            "layer.1.0",
            "layer.1.1",
            "layer.1.2",
        }
    assert flags(model) == before
    assert not any(module.training for module in model.modules())


def test_several_blocks_train_together_and_the_whole_model_by_the_empty_path() -> None:
    model = Blocks()
    with training_only(model, ["layer.2", "layer.10"]) as parameters:
        assert len(parameters) == 8
    with training_only(model, [""]) as parameters:
        assert len(parameters) == len(list(model.parameters())) - 1  # except the one that was frozen
        assert all(module.training for module in model.modules())


def test_flags_are_restored_after_an_exception() -> None:
    model = Blocks()
    before = flags(model)
    with pytest.raises(ZeroDivisionError), training_only(model, ["layer.3"]):
        raise ZeroDivisionError
    assert flags(model) == before


def test_block_without_parameters_to_train_is_refused_and_nothing_is_changed() -> None:
    model = Blocks()
    before = flags(model)
    with pytest.raises(ConfigurationError, match=r"must have parameters to train, but 'layer\.1\.1' has none"):
        training_only(model, ["layer.1.1"]).__enter__()
    with pytest.raises(LayerNotFoundError, match=r"did you mean 'layer\.1"):
        training_only(model, ["layer.11"]).__enter__()
    assert flags(model) == before


def test_key_value_caches_are_off_within_the_context_and_as_they_were_after_it() -> None:
    sizes = {"vocab_size": 10, "n_positions": 8, "n_embd": 8, "n_layer": 1, "n_head": 2}
    caching, plain = GPT2LMHeadModel(GPT2Config(**sizes)), GPT2LMHeadModel(GPT2Config(use_cache=False, **sizes))
    model = nn.ModuleList([caching, plain])
    ids = torch.ones(1, 3, dtype=torch.long)
    with plain_forward(model):
        assert caching(ids).past_key_values is None
    with pytest.raises(KeyError), plain_forward(model):
        raise KeyError
    assert caching(ids).past_key_values is not None
    assert (caching.config.use_cache, plain.config.use_cache) == (True, False)


def test_fused_forward_of_transformer_layers_is_off_within_the_context() -> None:
    assert torch.backends.mha.get_fastpath_enabled()
    with plain_forward(nn.Linear(1, 1)):
        assert not torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mha.get_fastpath_enabled()


def test_inference_is_in_eval_mode_without_gradients_and_undone_after_an_error() -> None:
    first, second = Blocks(), nn.Dropout()
    first.layer[2].eval()
    modes = [module.training for module in (*first.modules(), *second.modules())]
    with inference(first, second):
        assert not any(module.training for module in (*first.modules(), *second.modules()))
        assert not first.layer[0](torch.ones(1, 2)).requires_grad
    with pytest.raises(ZeroDivisionError), inference(first, second):
        raise ZeroDivisionError
    assert [module.training for module in (*first.modules(), *second.modules())] == modes
    assert not torch.is_inference_mode_enabled()
