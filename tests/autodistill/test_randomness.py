"""Global random states that are restored."""

import random

import numpy as np
import pytest
import torch

from autodistill.randomness import isolated_random_state


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def draw_and_raise() -> None:
    draw()
    raise ZeroDivisionError


def test_same_seed_draws_the_same_within_the_block_and_another_seed_does_not() -> None:
    draws = []
    for seed in (5, 5, 6):
        with isolated_random_state(seed):
            draws.append(draw())
    assert draws[0] == draws[1]
    assert all(a != b for a, b in zip(draws[0], draws[2], strict=True))


def test_states_continue_after_the_block_as_if_it_had_not_been() -> None:
    with isolated_random_state(99):  # the test's own frame, so that it disturbs nothing itself
        expected = [draw() for _ in range(4)]
    with isolated_random_state(99):
        first = [draw(), draw()]
        with isolated_random_state(1):
            torch.randn(1000), np.random.normal(size=3), random.gauss(0, 1)
        assert [*first, draw(), draw()] == expected


def test_cached_half_of_a_normal_pair_survives_the_block() -> None:
    with isolated_random_state(3):
        expected = [(random.gauss(0, 1), float(np.random.normal())) for _ in range(2)]
    with isolated_random_state(3):
        first = (random.gauss(0, 1), float(np.random.normal()))
        with isolated_random_state(4):
            random.gauss(0, 1), np.random.normal()
        assert [first, (random.gauss(0, 1), float(np.random.normal()))] == expected


def test_states_are_restored_when_the_block_raises() -> None:
    with isolated_random_state(8):
        expected = draw()
    with isolated_random_state(8):
        with pytest.raises(ZeroDivisionError), isolated_random_state(9):
            draw_and_raise()
        assert draw() == expected


@pytest.mark.parametrize("seed", [0, 2**32, 2**63 - 1])
def test_every_derived_seed_is_accepted(seed: int) -> None:
    with isolated_random_state(seed):
        draw()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_state_is_seeded_and_restored() -> None:
    before = torch.cuda.get_rng_state()
    with isolated_random_state(1):
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with isolated_random_state(1):
        assert torch.equal(torch.rand(3, device="cuda"), first)
