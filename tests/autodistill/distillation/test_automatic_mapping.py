"""What is mapped by default: hidden states, and in transformers' models attention and embeddings."""

from __future__ import annotations

import copy
import logging

import pytest
import torch
from naive_distillation import distil_both_ways, largest_difference, make_distiller
from small_models import Transformer
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPModel,
    FunnelConfig,
    FunnelForMaskedLM,
    WhisperConfig,
    WhisperForConditionalGeneration,
)

from autodistill.batch import Batch
from autodistill.config import AutoDistillationConfig
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.automatic_mapping import (
    Anatomy,
    anatomy,
    anatomy_of_teacher,
    automatic_stages,
    mapped_blocks,
    pair_rows,
)
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.distiller import Distiller, Storage
from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import AUTO, INPUT, Tap
from search_spaces import SearchSpace

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
    return automatic_stages(
        config, STUDENT, student, teacher, TOKENS, anatomy_of_teacher(config, TeacherCache(teacher), TOKENS)
    )


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
    assert anatomy_of_teacher(FlashDistillationConfig(train_steps=1, **settings), TeacherCache(teacher), TOKENS) is None


def test_anatomy_is_that_of_one_forward_and_leaves_no_hooks() -> None:
    model = Transformer(8, 2)
    model.head.requires_grad_(False)
    batch = Batch((torch.zeros(1, 3, 8), None))
    assert anatomy(model, [["layers.0", "layers.1"]], batch) == Anatomy({"layers.0": ("embedding",)}, {}, {})
    assert [name for name, value in model.named_parameters() if not value.requires_grad] == ["head.weight", "head.bias"]
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_encoder_that_runs_before_the_blocks_is_not_mistaken_for_embeddings() -> None:
    model = nn.Sequential(Transformer(8, 1), nn.Linear(10, 10))
    assert anatomy(model, [["1"]], Batch((torch.zeros(1, 3, 8), None))).embeddings == {"1": ()}


SIZES = {"num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 8}
HALVES = {f"{half}_attention_heads": 2 for half in ("encoder", "decoder")} | {
    f"{half}_ffn_dim": 8 for half in ("encoder", "decoder")
}


def bart(width: int, depths: tuple[int, int]) -> nn.Module:
    layers = {"encoder_layers": depths[0], "decoder_layers": depths[1]}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return BartForConditionalGeneration(
        BartConfig(vocab_size=20, d_model=width, max_position_embeddings=16, **layers, **HALVES, **special)
    )


def whisper(width: int, depths: tuple[int, int]) -> nn.Module:
    layers = {"encoder_layers": depths[0], "decoder_layers": depths[1], "num_mel_bins": 4, "max_source_positions": 8}
    special = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    return WhisperForConditionalGeneration(
        WhisperConfig(vocab_size=20, d_model=width, max_target_positions=16, **layers, **HALVES, **special)
    )


def clip(width: int, depths: tuple[int, int]) -> nn.Module:
    text = SIZES | {"hidden_size": width, "num_hidden_layers": depths[0], "vocab_size": 20, "eos_token_id": 2}
    vision = SIZES | {"hidden_size": width, "num_hidden_layers": depths[1], "image_size": 8, "patch_size": 4}
    return CLIPModel(
        CLIPConfig(text_config=text | {"bos_token_id": 1, "pad_token_id": 0}, vision_config=vision, projection_dim=4)
    )


LABELS = {"labels": torch.tensor([[3, 4, 5], [6, 7, 2]])}
TWO_ROWS = {
    "BART": (bart, {"input_ids": torch.tensor([[3, 4, 5, 6, 2], [7, 8, 9, 10, 2]])} | LABELS),
    "Whisper": (whisper, {"input_features": torch.linspace(-1, 1, 128).reshape(2, 4, 16)} | LABELS),
    "CLIP": (
        clip,
        {
            "input_ids": torch.tensor([[1, 4, 5, 2], [1, 6, 7, 2]]),
            "pixel_values": torch.linspace(-1, 1, 384).reshape(2, 3, 8, 8),
        },
    ),
}
ROWS = {
    "BART": ("model.encoder.layers", "model.decoder.layers"),
    "Whisper": ("model.encoder.layers", "model.decoder.layers"),
    "CLIP": ("text_model.encoder.layers", "vision_model.encoder.layers"),
}


@pytest.mark.parametrize("name", TWO_ROWS)
def test_every_row_is_mapped_to_its_own_in_the_order_in_which_it_runs(name: str) -> None:
    make, batch = TWO_ROWS[name]
    student, teacher = make(8, (1, 2)), make(8, (3, 4))
    first, second = ROWS[name]
    expected = {f"{first}.0": f"{first}.2", f"{second}.0": f"{second}.1", f"{second}.1": f"{second}.3"}
    order: list[str] = []
    for path in expected:
        student.get_submodule(path).register_forward_pre_hook(lambda *_, path=path: order.append(path))
    student.eval()(**batch)
    once = order[: len(expected)]
    plan = make_distiller(teacher, [batch]).resolve(student)
    assert [stage.blocks[-1] for stage in plan.flash] == once
    outputs = [stage.mappings[-1] for stage in plan.flash]
    assert {pair.student.path: pair.teacher.path for pair in outputs} == expected
    assert {pair.student.process for pair in outputs} == {AUTO}


@pytest.mark.parametrize("name", TWO_ROWS)
def test_flash_of_every_row_equals_the_naive_loop(name: str) -> None:
    make, batch = TWO_ROWS[name]
    student = make(8, (1, 2))
    before = copy.deepcopy(student)
    engine, naive, _ = distil_both_ways(student, make_distiller(make(16, (2, 2)), [batch], train_steps=2))
    assert largest_difference(engine, naive) == 0
    for row in ROWS[name]:
        assert largest_difference(engine.get_submodule(row), before.get_submodule(row)) > 1e-4


def embeddings_of(model: nn.Module, rows: tuple[str, str], batch: dict) -> list[tuple[str, ...]]:
    found = anatomy(model, [[f"{row}.0"] for row in rows], Batch(batch)).embeddings
    return [found[f"{row}.0"] for row in rows]


def test_embeddings_of_a_row_are_those_of_its_own_tower() -> None:
    text, vision = embeddings_of(clip(8, (1, 1)), ROWS["CLIP"], TWO_ROWS["CLIP"][1])
    assert set(text) == {"text_model.embeddings"}
    assert set(vision) == {"vision_model.embeddings", "vision_model.pre_layrnorm"}
    encoder, decoder = embeddings_of(bart(8, (1, 1)), ROWS["BART"], TWO_ROWS["BART"][1])
    assert encoder == (
        "model.encoder.embed_tokens",
        "model.encoder.embed_positions",
        "model.encoder.layernorm_embedding",
    )
    # The table of tokens is also the encoder's, whose blocks were trained with it: it does not train with the decoder.
    assert decoder == ("model.decoder.embed_positions", "model.decoder.layernorm_embedding")


class Towers(nn.Module):
    """Two encoders of sequences (N, L, 8), of which one may not be used."""

    def __init__(self, width: int, names: tuple[str, str], used: int = 2) -> None:
        super().__init__()
        self.names, self.used = names, used
        for name in names:
            self.add_module(name, Transformer(width, 2))

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return sum(getattr(self, name)(inputs) for name in self.names[: self.used])


def towers_plan(student: nn.Module, teacher: nn.Module, **flash):
    return make_distiller(teacher, [(torch.zeros(2, 3, 8), None)], **flash).resolve(student)


def test_row_that_never_runs_is_left_out_with_a_log_line(caplog) -> None:
    with caplog.at_level(logging.INFO, logger="autodistill"):
        plan = towers_plan(Towers(8, ("left", "right"), used=1), Towers(16, ("left", "right"), used=1))
    assert [stage.blocks for stage in plan.flash] == [("left.layers.0",), ("left.layers.1",)]
    assert "the student's blocks right.layers.0 to right.layers.1 never run: they are not distilled" in caplog.messages
    assert "the teacher's blocks in 'right.layers' have no counterpart in the student: they are not mapped" in (
        caplog.messages
    )


def test_student_of_one_tower_is_paired_with_the_tower_of_its_name() -> None:
    student = nn.ModuleDict({"right": Transformer(8, 2)})
    student.forward = lambda inputs: student["right"](inputs)  # type: ignore[method-assign]
    plan = towers_plan(student, Towers(16, ("left", "right")))
    assert [stage.mappings[0].teacher.path for stage in plan.flash] == ["right.layers.0", "right.layers.1"]


def test_rows_that_cannot_be_paired_are_refused() -> None:
    sentence = (
        "automatic mapping pairs each row of the student's blocks with one of the teacher's, but the student has "
        "'layers' and the teacher 'left.layers', 'right.layers'; "
        "pass block_names and layer_mappings_for_knowledge_transfer."
    )
    with pytest.raises(ConfigurationError) as caught:
        towers_plan(Transformer(8, 2), Towers(16, ("left", "right")))
    assert caught.value.problems == [sentence]


@pytest.mark.parametrize(
    ("student", "teacher", "expected"),
    [
        (["encoder.layer"], ["h"], [0]),
        (["a.x", "a.y"], ["a.y", "a.z", "a.x"], [2, 0]),
        (["encoder.block", "decoder.block"], ["m.decoder.layers", "m.encoder.layers"], [1, 0]),
        (["encoder.layer"], ["model.encoder.layers", "model.decoder.layers"], [0]),
        (["image.x", "text.x"], ["vision.x", "language.x"], [0, 1]),
        (["encoder.block", "decoder.block"], ["bert.encoder.layer"], None),
        (["bert.encoder.layer"], ["encoder.encoder.layer", "decoder.bert.encoder.layer"], None),
        (["text.x", "image.x"], ["image.x.y", "vision.x.y"], None),
        (["layers"], ["text.layers", "image.layers"], None),
    ],
)
def test_rows_correspond_by_their_names_or_by_their_order(student, teacher, expected) -> None:
    if expected is not None:
        assert pair_rows(student, teacher) == expected
        return
    with pytest.raises(ConfigurationError, match="pairs each row of the student's blocks with one of the teacher's"):
        pair_rows(student, teacher)


def test_named_blocks_are_paired_row_by_row() -> None:
    plan = towers_plan(
        Towers(8, ("left", "right")), Towers(16, ("left", "right")), block_names=["right.layers.0", "left.layers.1"]
    )
    assert [stage.mappings[0].teacher.path for stage in plan.flash] == ["right.layers.1", "left.layers.1"]


def test_teacher_fed_rows_begin_with_the_input_of_their_own_row() -> None:
    student, teacher = Towers(8, ("left", "right")), Towers(8, ("left", "right"))
    plan = towers_plan(student, teacher, inputs="teacher")
    assert [str(stage.input.teacher) for stage in plan.flash] == [
        "'left.layers.0'[input]",
        "'left.layers.0'[auto]",
        "'right.layers.0'[input]",
        "'right.layers.0'[auto]",
    ]


def test_features_of_every_teacher_block_that_runs_are_computed_ahead(tmp_path) -> None:
    teacher = Towers(16, ("left", "right"), used=1)
    config = AutoDistillationConfig.load(
        {"search": {"search_space": {"width": [1]}, "metrics": ["loss"]}, "flash_distillation": {"train_steps": 1}}
    )
    data = [(torch.zeros(2, 3, 8), None)]
    distiller = Distiller(teacher, config, data, torch.device("cpu"), Storage(tmp_path))
    distiller.resolve(Towers(8, ("left", "right"), used=1))
    assert len(list(tmp_path.rglob("*.safetensors"))) == 3  # the input of the first block, and the outputs of both


def test_funnel_is_mapped_by_the_layers_that_run() -> None:
    def funnel(width: int, sizes: list[int]) -> nn.Module:
        heads = {"n_head": 2, "d_head": 4, "d_inner": 8, "num_decoder_layers": 2}
        return FunnelForMaskedLM(FunnelConfig(vocab_size=20, block_sizes=sizes, d_model=width, **heads))

    batch = {"input_ids": torch.arange(3, 19).reshape(2, 8)}
    distiller = make_distiller(funnel(16, [2, 2]), [batch], train_steps=2)
    engine, naive, _ = distil_both_ways(funnel(8, [1, 2]), distiller)
    assert largest_difference(engine, naive) == 0
    plan = distiller.resolve(funnel(8, [1, 2]))
    pairs = {stage.mappings[-1].student.path: stage.mappings[-1].teacher.path for stage in plan.flash}
    assert {student.removeprefix("funnel."): teacher.removeprefix("funnel.") for student, teacher in pairs.items()} == {
        "encoder.blocks.0.0": "encoder.blocks.0.1",
        "encoder.blocks.1.0": "encoder.blocks.1.0",
        "encoder.blocks.1.1": "encoder.blocks.1.1",
        "decoder.layers.0": "decoder.layers.0",
        "decoder.layers.1": "decoder.layers.1",
    }


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        ({"num_hidden_layers": [1]}, [11]),
        ({"num_hidden_layers": [2, 3]}, [3, 5, 7, 11]),
        ({"n_layer": [4], "width": [8, 16]}, [2, 5, 8, 11]),
        ({"num_hidden_layers": [12]}, list(range(12))),
        ({"depth": [1, 2]}, list(range(12))),
        ({"num_hidden_layers": [1], "n_layer": [1]}, list(range(12))),
    ],
    ids=["one", "two depths", "another family", "all", "unknown name", "two names"],
)
def test_blocks_to_which_a_search_maps_students_are_those_of_its_depths(space: dict, expected: list[int]) -> None:
    row = [f"encoder.layer.{index}" for index in range(12)]
    assert mapped_blocks(row, SearchSpace(space)) == [row[index] for index in expected]
