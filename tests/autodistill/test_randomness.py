"""Seeds that depend on labels alone, and global random states that come back."""

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch

from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed


def draw() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def draw_and_raise() -> None:
    draw()
    raise ZeroDivisionError


def test_same_labels_give_the_same_seed_in_another_process() -> None:
    program = "from autodistill.randomness import derive_seed; print(derive_seed(7, 'advisor', 3))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(output) == derive_seed(7, "advisor", 3)


def test_labels_that_read_alike_when_joined_give_different_seeds() -> None:
    words: list[tuple[str | int, ...]] = [(), ("a",), ("ab",), ("a", "b"), ("a,b",), ("b", "a"), ('a","b',), ("é",)]
    paths = [*words, ("1",), (1,), (1, 2), (12,), (-1,)]
    seeds = {derive_seed(0, *path) for path in paths} | {derive_seed(1, *path) for path in paths}
    assert len(seeds) == 2 * len(paths)


def test_a_label_equal_to_the_seed_of_another_path_is_not_confused_with_it() -> None:
    assert derive_seed(1, 2, 3) != derive_seed(12, 3)


def test_seeds_fill_63_bits_evenly() -> None:
    seeds = np.array([derive_seed(0, "trial", number) for number in range(4000)], dtype=np.uint64)
    assert seeds.max() < 2**63
    bits = (seeds[:, None] >> np.arange(63, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(axis=0) - 0.5).max() < 0.04  # five standard deviations


def test_numpy_integers_are_integers_and_other_types_are_refused() -> None:
    seed: Any = np.int64(3)
    label: Any = np.int32(4)
    assert derive_seed(seed, label) == derive_seed(3, 4)
    with pytest.raises(TypeError):
        derive_seed(0, 1.5)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        derive_seed("0")  # type: ignore[arg-type]


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


def test_states_are_put_back_when_the_block_raises() -> None:
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
def test_cuda_state_is_seeded_and_put_back() -> None:
    before = torch.cuda.get_rng_state()
    with isolated_random_state(1):
        first = torch.rand(3, device="cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)
    with isolated_random_state(1):
        assert torch.equal(torch.rand(3, device="cuda"), first)
