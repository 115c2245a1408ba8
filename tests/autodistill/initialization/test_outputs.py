"""What comes after the last block: heads of words and classes, and the way back to the teacher's hidden states."""

from __future__ import annotations

import pytest
import torch
from families import LLAMA_LIKE, hugging_face
from identity_cases import (
    DEPTH,
    GPT2_LIKE,
    KEEPS_CONSTANT,
    ORTHOGONAL,
    SINGLE,
    WIDTH,
    IdentityCase,
    errors,
    identity_errors,
    randomised,
    square_subspace,
    token_batch,
)
from pairings import CHANNELS, MAKERS, means, pairing

from autodistill.initialization.from_teacher import initialize_from_teacher
from autodistill.initialization.outputs import TIED, output_matcher, outputs_of, write_outputs
from autodistill.initialization.projection import write_embeddings
from autodistill.initialization.subspace import TeacherSubspace


def test_tied_heads_cannot_absorb_the_gain_and_are_reported():
    for make in (hugging_face("GPT2LMHeadModel", **GPT2_LIKE), MAKERS["tied Llama"]):
        _, start = identity_errors(IdentityCase(make, KEEPS_CONSTANT))
        assert start.approximations == (TIED,)


@torch.no_grad()
def test_tied_heads_are_exact_where_all_channels_have_one_gain():
    case = IdentityCase(MAKERS["tied Llama"], ORTHOGONAL)
    teacher = case.teacher()
    teacher.model.norm.weight.fill_(1.5)
    student = randomised(case.make(WIDTH, DEPTH), 2)
    start = initialize_from_teacher(student, teacher, square_subspace(ORTHOGONAL))
    found = errors(teacher, student, start, token_batch())
    assert max(found.outputs, found.matched) < SINGLE


@torch.no_grad()
def test_a_narrow_student_with_scaled_and_tied_embeddings_is_exact_if_its_channels_hold_the_stream():
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 24}
    make = hugging_face("GemmaForCausalLM", **LLAMA_LIKE | sizes | {"use_cache": False})
    teacher, student = randomised(make(WIDTH, DEPTH), 1), randomised(make(WIDTH // 2, DEPTH), 2)
    teacher.model.norm.weight.fill_(0.5)
    teacher.model.embed_tokens.weight[:, WIDTH // 2 :] = 0
    for layer in teacher.model.layers:
        for writer in (layer.self_attn.o_proj, layer.mlp.down_proj):
            writer.weight[WIDTH // 2 :] = 0
    half = torch.eye(WIDTH, WIDTH // 2, dtype=torch.float64)
    subspace = TeacherSubspace(torch.zeros(1, WIDTH), half, torch.ones(WIDTH // 2), 1.0)
    start = initialize_from_teacher(student, teacher, subspace)
    found = errors(teacher, student, start, token_batch())
    assert max(found.outputs, found.matched) < SINGLE


def test_head_reads_the_selected_channels_with_the_gain_of_the_last_norm() -> None:
    pair = pairing("Llama")
    write_outputs(pair)
    gain = pair.teacher.model.norm.weight
    torch.testing.assert_close(pair.student.lm_head.weight, (pair.teacher.lm_head.weight * gain)[:, CHANNELS])
    assert pair.student.model.norm.weight.tolist() == pytest.approx([pair.correction] * len(CHANNELS))
    assert pair.approximations == []


def test_tied_head_stays_the_embedding_table_and_the_norm_keeps_its_gain() -> None:
    pair = pairing("tied Llama")
    write_embeddings(pair)
    before = pair.student.lm_head.weight.clone()
    write_outputs(pair)
    assert torch.equal(pair.student.lm_head.weight, before)
    gain = pair.teacher.model.norm.weight.data
    torch.testing.assert_close(pair.student.model.norm.weight.data, pair.correction * gain[CHANNELS])
    assert pair.approximations == [TIED]


def test_matcher_after_sums_lifts_the_stream_with_its_last_mean() -> None:
    matcher = output_matcher(pairing("BERT", mean=True, scale=4.0))
    torch.testing.assert_close(matcher.weight, 4 * torch.eye(16, dtype=torch.float64)[:, CHANNELS])
    torch.testing.assert_close(matcher.bias, means()[4])


def test_matcher_before_readers_has_the_gain_of_the_last_norm() -> None:
    pair = pairing("Llama")
    pair.student.model.norm.weight.data.fill_(2.0)
    expected = torch.diag(pair.teacher.model.norm.weight.data)[:, CHANNELS] * pair.correction / 2
    torch.testing.assert_close(output_matcher(pair).weight, expected)
    assert not output_matcher(pair).bias.any()


def test_output_that_one_model_lacks_is_left_out() -> None:
    pair = pairing("Llama")
    assert len(outputs_of(pair)) == 1
    del pair.student.lm_head
    assert outputs_of(pair) == []
