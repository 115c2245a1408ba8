"""The hidden state of the teacher that each teacher-fed block receives, and the one that it is compared with."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from families import FAMILIES, seeded
from small_models import Deep, Transformer
from teacher_fed_models import teacher_fed, tokens, transformers

from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.boundaries import (
    boundary_taps,
    output_mapping,
    outside_stage,
    project,
    teacher_fed_stages,
)
from autodistill.distillation.plan import Stage, flash_stages
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import AUTO, INPUT, Tap


def test_block_is_fed_the_target_of_the_block_before_it():
    student, teacher = transformers()
    plan = teacher_fed(teacher, tokens()).resolve(student)
    assert [stage.input.teacher for stage in plan.flash] == [
        Tap("layers.0", INPUT),
        Tap("layers.1", AUTO),
        Tap("layers.3", AUTO),
    ]
    assert [stage.mappings[0].teacher.path for stage in plan.flash] == ["layers.1", "layers.3", "layers.4"]


def test_first_decoder_block_is_fed_the_input_of_the_teachers_decoder():
    family = FAMILIES["T5, sdpa"]
    student = seeded(lambda: family.make(16, family.depths[0]), 1)
    plan = teacher_fed(family.teacher(), family.batches(), **family.flash).resolve(student)
    names = [stage.name for stage in plan.flash]
    fed = {stage.name: stage.input.teacher for stage in plan.flash}
    outputs = {stage.name: stage.mappings[0].teacher for stage in plan.flash}
    first = names.index("decoder.block.0")
    assert first > 1
    assert fed["encoder.block.0"] == Tap("encoder.block.0", INPUT)
    assert fed["decoder.block.0"] == Tap("decoder.block.0", INPUT)
    for before, block in [*pairwise(names[:first]), *pairwise(names[first:])]:
        assert fed[block] == outputs[before]


def stages(student: int = 2, teacher: int = 4) -> tuple[Stage, ...]:
    """The stages of a student of so many blocks with the automatic mapping, teacher-fed."""
    model = Deep(teacher)
    return teacher_fed_stages(flash_stages(FlashDistillationConfig(train_steps=3), Deep(student), model), model)


def test_boundaries_are_the_inputs_and_the_targets_of_all_blocks() -> None:
    assert boundary_taps(stages()) == {Tap("layer.0", INPUT), Tap("layer.1", AUTO), Tap("layer.3", AUTO)}


def test_mapping_of_the_own_output_is_found_among_others_or_missing() -> None:
    stage, inner = stages()[0], LayerMapping(Tap("layer.0.inner"), Tap("layer.1.inner"))
    own = LayerMapping(Tap("layer.0", "0"), Tap("layer.1"))
    assert output_mapping(replace(stage, mappings=(inner, own))) == own
    assert output_mapping(replace(stage, mappings=(inner,))) is None


def test_features_at_boundaries_are_projected_and_others_are_not() -> None:
    features = {Tap("layer.1"): torch.ones(2, requires_grad=True), Tap("layer.1.inner"): torch.ones(2)}
    projected = project(features, {Tap("layer.1")}, lambda feature, tap: 3 * feature)
    assert [feature.tolist() for feature in projected.values()] == [[3.0, 3.0], [1.0, 1.0]]
    assert not projected[Tap("layer.1")].requires_grad
    assert project(features, {Tap("layer.1")}, None) is features


def test_stage_outside_the_blocks_trains_embeddings_and_head() -> None:
    student, teacher = Transformer(8, 2), Transformer(8, 4)
    blocks = teacher_fed_stages(flash_stages(FlashDistillationConfig(train_steps=3), student, teacher), teacher)
    logits = LayerMapping(Tap("", AUTO), Tap("", AUTO))
    hidden = LayerMapping(Tap("layers.1"), Tap("layers.3"))
    regular = replace(
        blocks[0], mappings=(hidden, logits), loss_types=("NMSE", "KL"), loss_weights=(1.0, 0.5), add_origin_loss=True
    )
    stage = outside_stage(blocks, regular, student)
    assert (stage.blocks, stage.steps, stage.add_origin_loss) == (("embedding", "head"), 3, False)
    assert stage.mappings == (LayerMapping(Tap("layers.0", INPUT), Tap("layers.0", INPUT)), logits)
    assert (stage.loss_types, stage.loss_weights) == (("NMSE", "KL"), (1.0, 0.5))
    assert outside_stage(blocks, None, student).loss_types == ("NMSE",)
