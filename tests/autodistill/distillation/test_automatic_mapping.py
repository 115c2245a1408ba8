"""What is mapped by default: hidden states, and in transformers' models attention and embeddings."""

from __future__ import annotations

import pytest
import torch
from small_models import Transformer
from torch import nn
from transformers import BertConfig, BertModel

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.automatic_mapping import Anatomy, anatomy, anatomy_of_teacher, automatic_stages
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import AUTO, INPUT, Tap

TOKENS = Batch({"input_ids": torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])})
AUTOMATIC = FlashDistillationConfig(train_steps=1)


def bert(width: int, depth: int, heads: int = 2, attention: str = "eager") -> BertModel:
    sizes = {"hidden_size": width, "num_hidden_layers": depth, "num_attention_heads": heads, "intermediate_size": 8}
    return BertModel(BertConfig(**sizes, vocab_size=10, attn_implementation=attention))


def pair(student: int, teacher: int, path: str = "", process: str = AUTO) -> LayerMapping:
    return LayerMapping(
        *(Tap(f"encoder.layer.{number}{path}", process) for number in (student, teacher)),
    )


STUDENT = [("encoder.layer.0",), ("encoder.layer.1",)]


def stages(student: nn.Module, teacher: nn.Module, config: FlashDistillationConfig = AUTOMATIC):
    return automatic_stages(config, STUDENT, student, teacher, TOKENS, anatomy_of_teacher(config, teacher, TOKENS))


def test_transformer_is_mapped_by_attention_embeddings_and_hidden_states() -> None:
    first, second = stages(bert(8, 2), bert(16, 4))
    assert first.blocks == ("embeddings", "encoder.layer.0")
    assert first.mappings == (pair(0, 1, ".attention.self", "1"), pair(0, 0, process=INPUT), pair(0, 1))
    assert first.loss_types == ("KL", "NMSE", "NMSE")
    assert second.blocks == ("encoder.layer.1",)
    assert second.mappings == (pair(1, 3, ".attention.self", "1"), pair(1, 3))
    assert second.loss_types == ("KL", "NMSE")


@pytest.mark.parametrize(
    "teacher", [bert(16, 4, heads=4), bert(16, 4, attention="sdpa")], ids=["other heads", "not computed"]
)
def test_attention_that_cannot_be_compared_is_left_out(teacher: nn.Module) -> None:
    first, second = stages(bert(8, 2), teacher)
    assert first.mappings == (pair(0, 0, process=INPUT), pair(0, 1))
    assert second.mappings == (pair(1, 3),)


def test_embeddings_are_not_trained_where_the_blocks_are_named() -> None:
    config = FlashDistillationConfig(train_steps=1, block_names=[path for (path,) in STUDENT])
    first, _ = stages(bert(8, 2), bert(16, 4), config)
    assert first.blocks == ("encoder.layer.0",)
    assert first.mappings == (pair(0, 1, ".attention.self", "1"), pair(0, 1))


def test_model_of_another_library_is_mapped_by_hidden_states() -> None:
    student, teacher = Transformer(8, 2), Transformer(16, 4)
    blocks = [("layers.0",), ("layers.1",)]
    first, second = automatic_stages(AUTOMATIC, blocks, student, teacher)
    assert first.mappings == (LayerMapping(Tap("layers.0", AUTO), Tap("layers.1", AUTO)),)
    assert second.mappings == (LayerMapping(Tap("layers.1", AUTO), Tap("layers.3", AUTO)),)
    assert first.loss_types is None


@pytest.mark.parametrize(
    ("settings", "teacher"),
    [
        ({"automatic_mapping": "blocks"}, bert(8, 1)),
        ({"loss_types": "MSE"}, bert(8, 1)),
        ({"loss_weights": [1.0]}, bert(8, 1)),
        ({}, Transformer(8, 1)),
    ],
    ids=["blocks only", "own losses", "own weights", "another library"],
)
def test_teacher_does_not_run_if_only_hidden_states_are_mapped(settings: dict, teacher: nn.Module) -> None:
    teacher.register_forward_pre_hook(lambda *_: pytest.fail("it runs"))
    assert anatomy_of_teacher(FlashDistillationConfig(train_steps=1, **settings), teacher, TOKENS) is None


def test_anatomy_is_that_of_one_forward_and_leaves_no_hooks() -> None:
    model = Transformer(8, 2)
    model.head.requires_grad_(False)
    batch = Batch((torch.zeros(1, 3, 8), None))
    assert anatomy(model, ["layers.0", "layers.1"], batch) == Anatomy(("embedding",), {}, {})
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["head.weight", "head.bias"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_encoder_that_runs_before_the_blocks_is_not_mistaken_for_embeddings() -> None:
    model = nn.Sequential(Transformer(8, 1), nn.Linear(10, 10))
    assert anatomy(model, ["1"], Batch((torch.zeros(1, 3, 8), None))).embeddings == ()
