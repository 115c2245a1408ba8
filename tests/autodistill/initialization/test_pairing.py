"""Student and teacher side by side: base models, blocks that belong together, weights of both."""

from __future__ import annotations

import pytest
import torch
from identity_cases import CASES
from pairings import DEPTH, EXPLAINED, WIDTH, pairing

from autodistill.initialization.pairing import Both, Pairing
from autodistill.initialization.subspace import TeacherSubspace
from autodistill.models.weights import Affine, Part


def test_base_models_and_sizes_of_both_are_found_inside_their_heads() -> None:
    pair = pairing("BERT")
    assert pair.base_paths == Both("bert", "bert")
    assert pair.base_models == Both(pair.student.bert, pair.teacher.bert)
    assert pair.depths == Both(DEPTH // 2, DEPTH)
    assert (pair.head_sizes.student.heads, pair.head_sizes.teacher.heads) == (2, 4)
    assert pair.models.by_owner == {"teacher": pair.teacher, "student": pair.student}


def test_blocks_are_spread_evenly_with_the_boundary_before_each() -> None:
    pair = pairing("BERT")
    assert pair.layers == (1, 3)
    assert [pair.boundary(block) for block in range(3)] == [0, 2, 4]


def test_blocks_correspond_to_the_nearest_of_their_kind() -> None:
    """ModernBERT's first block has no norm before its attention; every third block attends to the whole text."""
    make = CASES["ModernBERT, base"].make
    subspace = TeacherSubspace(torch.zeros(1, WIDTH), torch.eye(WIDTH), torch.ones(WIDTH), 1.0)
    layers = Pairing.of(make(WIDTH, 11), make(WIDTH, 22), subspace).layers
    assert layers == (0, 2, 5, 6, 8, 11, 12, 14, 17, 18, 20)
    assert all((block % 3 == 0) == (layer % 3 == 0) for block, layer in enumerate(layers))
    assert Pairing.of(make(WIDTH, 2), make(WIDTH, 1), subspace).layers == (0, 0)  # there is no block of its kind


def test_path_from_the_base_model_is_the_same_in_every_block() -> None:
    pair = pairing("BERT")
    assert pair.weight("{base}.pooler.dense", 1) == pair.weight("pooler.dense")


def test_weight_of_a_block_is_that_of_its_teacher_block() -> None:
    pair = pairing("BERT")
    weight = pair.weight("intermediate.dense", 1)
    paths = ("bert.encoder.layer.1.intermediate.dense", "bert.encoder.layer.3.intermediate.dense")
    assert weight == Both(Part(paths[0]), Part(paths[1]))
    assert pair.shapes(weight) == Both((WIDTH, WIDTH // 2), (2 * WIDTH, WIDTH))
    assert pair.weight("embeddings.LayerNorm").student == Part("bert.embeddings.LayerNorm")


def test_weight_that_one_model_lacks_is_in_not_both() -> None:
    pair = pairing("BERT")
    weight = pair.weight("intermediate.dense", 0)
    assert pair.in_both(weight)
    del pair.student.bert.encoder.layer[0].intermediate.dense
    assert pair.has_weight(weight) == Both(False, True)
    assert not pair.in_both(weight)


def test_correction_is_the_root_of_the_share_of_power_by_the_share_of_channels() -> None:
    assert pairing("BERT").correction == pytest.approx((EXPLAINED * WIDTH / (WIDTH / 2)) ** 0.5)


def test_what_is_written_is_in_the_student_and_noted() -> None:
    pair = pairing("BERT")
    dense = pair.student.bert.encoder.layer[0].intermediate.dense
    norm = pair.student.bert.embeddings.LayerNorm
    weight, bias = torch.ones(WIDTH, WIDTH // 2).double(), torch.arange(WIDTH).double()
    pair.write(pair.weight("intermediate.dense", 0).student, Affine(weight, bias))
    pair.write_norm(pair.weight("embeddings.LayerNorm").student, weight[:8, 0] * 3, bias[:8])
    assert torch.equal(dense.weight, weight)
    assert torch.equal(dense.bias, bias)
    assert (norm.weight.tolist(), norm.bias.tolist()) == ([3.0] * 8, list(range(8)))
    assert pair.written == {dense.weight, dense.bias, norm.weight, norm.bias}


def test_strongest_come_in_the_order_of_the_pair() -> None:
    pair = pairing("BERT")
    importance = torch.tensor([1.0, 3.0, 2.0, 5.0])
    assert pair.strongest(importance, 2).tolist() == [1, 3]
    pair.order = "importance"
    assert pair.strongest(importance, 2).tolist() == [3, 1]
