"""Heads: which are kept, and which part of each, against singular values of the products written out."""

from __future__ import annotations

import pytest
import torch

from autodistill.initialization.heads import (
    HeadGroup,
    choose_heads,
    narrow,
    query_key_maps,
    rotary_pairs,
    strongest,
    value_output_maps,
)
from autodistill.models.families import HeadSizes


def matrix(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def best_of_rank(product, rank):
    u, values, v = torch.linalg.svd(product, full_matrices=False)
    return (u[:, :rank] * values[:rank]) @ v[:rank]


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_narrow_keeps_the_best_approximation_of_the_product(channels):
    left, right = matrix(4, 9), matrix(4, 7, seed=1)
    to_left, to_right = narrow(left, right, channels)
    assert to_left.shape == to_right.shape == (channels, 4)
    torch.testing.assert_close((to_left @ left).T @ (to_right @ right), best_of_rank(left.T @ right, channels))


def test_narrow_divides_the_product_evenly_between_its_sides():
    left, right = matrix(4, 9), 100 * matrix(4, 7, seed=1)
    to_left, to_right = narrow(left, right, 2)
    torch.testing.assert_close((to_left @ left).norm(dim=1), (to_right @ right).norm(dim=1))


def test_narrow_of_a_product_of_lower_rank_is_finite_and_exact():
    left, right = matrix(4, 9), matrix(4, 7, seed=1)
    left[1:] = left[:1]
    to_left, to_right = narrow(left, right, 3)
    torch.testing.assert_close((to_left @ left).T @ (to_right @ right), left.T @ right)


def test_narrow_of_heads_that_do_nothing_is_finite():
    assert all(side.isfinite().all() for side in narrow(torch.zeros(4, 9).double(), matrix(4, 7), 2))


def test_queries_that_share_a_key_are_fitted_together():
    queries, key = [matrix(4, 6, seed) for seed in (0, 1)], matrix(4, 6, 2)
    to_query, to_key = query_key_maps(queries, key, 2, rotary=False)
    scores = torch.cat([(to_query @ query).T @ (to_key @ key) for query in queries])
    torch.testing.assert_close(scores, best_of_rank(torch.cat([query.T @ key for query in queries]), 2))


def test_outputs_that_share_a_value_are_fitted_together():
    outputs, value = [matrix(6, 4, seed) for seed in (0, 1)], matrix(4, 6, 2)
    to_output, to_value = value_output_maps(outputs, value, 2)
    written = torch.cat([output @ to_output.T @ to_value @ value for output in outputs])
    torch.testing.assert_close(written, best_of_rank(torch.cat([output @ value for output in outputs]), 2))


@pytest.mark.parametrize("channels", [4, 6])
def test_wider_heads_keep_all_that_they_compute(channels):
    query, key = matrix(4, 6), matrix(4, 6, 1)
    for rotary in (False, True):
        to_query, to_key = query_key_maps([query], key, channels + channels % 2, rotary=rotary)
        torch.testing.assert_close((to_query @ query).T @ (to_key @ key), query.T @ key)
    to_output, to_value = value_output_maps([query.T], key, channels)
    torch.testing.assert_close(query.T @ to_output.T @ to_value @ key, query.T @ key)


@pytest.mark.parametrize(("teacher", "student"), [(16, 8), (8, 16), (12, 4), (8, 8), (64, 48)])
def test_rotary_pairs_are_at_the_nearest_frequency(teacher, student):
    select = rotary_pairs(teacher, student)
    assert select.shape == (student, teacher)
    half_s, half_t = student // 2, teacher // 2
    upper, lower = select[:half_s, :half_t], select[half_s:, half_t:]
    assert torch.equal(upper, lower)  # both channels of a pair
    assert select.sum() == 2 * upper.sum() == min(teacher, student)  # each of the smaller head's has its partner
    frequencies = [torch.arange(half) / half for half in (half_s, half_t)]  # exponents of 1/θ
    for own, other in upper.nonzero().tolist():
        gaps = (frequencies[0][:, None] - frequencies[1]).abs()
        nearest = gaps[own].min() if student <= teacher else gaps[:, other].min()
        assert gaps[own, other] <= nearest + 1e-6


def test_the_strongest_come_in_rising_order_and_the_first_wins_a_draw():
    assert strongest(torch.tensor([1.0, 3.0, 3.0, 3.0]), 2).tolist() == [1, 2]
    assert strongest(torch.tensor([1.0, 3.0]), 5).tolist() == [0, 1]


def test_groups_of_grouped_heads_keep_members_with_their_key():
    importance = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, 0.0, 0.0, 8.0])
    teacher = HeadSizes(8, 2, 4)  # heads 0 to 3 read from key 0, 4 to 7 from key 1
    assert choose_heads(importance, teacher, HeadSizes(2, 1, 4)) == [HeadGroup(1, (4, 7))]
    assert choose_heads(importance, teacher, HeadSizes(4, 2, 4)) == [HeadGroup(0, (2, 3)), HeadGroup(1, (4, 7))]
    assert choose_heads(importance, teacher, HeadSizes(2, 2, 4)) == [HeadGroup(1, (4,)), HeadGroup(1, (7,))]


def test_a_student_with_more_heads_than_the_teacher_receives_them_all():
    groups = choose_heads(torch.ones(2), HeadSizes(2, 2, 4), HeadSizes(6, 3, 4))
    assert groups == [HeadGroup(0, (0,)), HeadGroup(1, (1,))]


# --- in order of importance -------------------------------------------------------------------------------------------


def test_the_most_important_come_first_if_ordered():
    assert strongest(torch.tensor([1.0, 5.0, 3.0, 5.0]), 3, ordered=True).tolist() == [1, 3, 2]


def test_ordered_groups_and_their_members_come_with_the_strongest_first():
    importance = torch.tensor([1.0, 2.0, 3.0, 4.0, 9.0, 0.0, 0.0, 8.0])
    groups = choose_heads(importance, HeadSizes(8, 2, 4), HeadSizes(8, 2, 4), ordered=True)
    assert groups == [HeadGroup(1, (4, 7, 5, 6)), HeadGroup(0, (3, 2, 1, 0))]
    kept = choose_heads(importance, HeadSizes(8, 2, 4), HeadSizes(4, 2, 4), ordered=True)
    assert kept == [HeadGroup(1, (4, 7)), HeadGroup(0, (3, 2))]


@pytest.mark.parametrize("kept", [1, 2, 4])
def test_first_channels_of_an_ordered_head_are_the_best_head_of_that_size(kept):
    query, key = matrix(4, 6), matrix(4, 6, 1)
    to_query, to_key = query_key_maps([query], key, 4, rotary=False, ordered=True)
    torch.testing.assert_close((to_query @ query).T @ (to_key @ key), query.T @ key)
    scores = (to_query @ query)[:kept].T @ (to_key @ key)[:kept]
    torch.testing.assert_close(scores, best_of_rank(query.T @ key, kept))
    to_output, to_value = value_output_maps([query.T], key, 4, ordered=True)
    written = (to_output @ query)[:kept].T @ (to_value @ key)[:kept]
    torch.testing.assert_close(written, best_of_rank(query.T @ key, kept))


def test_rotary_channels_stay_in_the_order_of_their_frequencies():
    maps = query_key_maps([matrix(4, 6)], matrix(4, 6, 1), 4, rotary=True, ordered=True)
    assert all(torch.equal(one, torch.eye(4).double()) for one in maps)
