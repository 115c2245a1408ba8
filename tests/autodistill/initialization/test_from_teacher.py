"""At full width and depth a student is its teacher; narrow ones are nearer to it than random ones."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from families import BERT_LIKE, hugging_face
from identity import (
    CASES,
    GPT2_LIKE,
    KEEPS_CONSTANT,
    ORTHOGONAL,
    PERMUTATION,
    IdentityCase,
    compare,
    identity_errors,
    square_subspace,
)

AFTER = [name for name, case in CASES.items() if case.directions == PERMUTATION]


@pytest.mark.parametrize("name", CASES)
def test_a_student_of_full_width_and_depth_computes_what_its_teacher_does(name):
    case = CASES[name]
    errors, start = identity_errors(case)
    assert errors.outputs < case.error
    assert errors.matched < case.error
    assert start.approximations == ()
    assert start.untouched == ()


@pytest.mark.parametrize("name", CASES)
def test_blocks_may_be_taken_in_any_order(name):
    case = CASES[name]
    errors, start = identity_errors(case, layers=[2, 0, 2])
    assert start.layers == (2, 0, 2)
    assert errors.outputs < case.error
    assert errors.matched < case.error


@pytest.mark.parametrize("name", CASES)
def test_the_scale_of_the_subspace_leaves_outputs_as_they_are_up_to_the_epsilon_of_the_norms(name):
    """Norms add ε to the variance, which is 1/s² of the teacher's."""
    case = CASES[name]
    errors, _ = compare(case, square_subspace(case.directions, scale=2.0), None)
    assert errors.outputs < max(case.error, 1e-3)
    assert errors.matched < max(case.error, 1e-3)


@pytest.mark.parametrize("name", AFTER)
def test_gains_behind_the_residual_sum_do_not_commute_with_a_rotation(name):
    errors, _ = identity_errors(CASES[name], kind=ORTHOGONAL)
    assert errors.matched > 1e-3


@pytest.mark.parametrize("name", ["GPT-2, words", "ViT, classes"])
def test_layer_norms_before_the_readers_do_not_commute_with_a_rotation_of_the_constant_vector(name):
    errors, _ = identity_errors(CASES[name], kind=ORTHOGONAL)
    assert errors.outputs > 1e-3
