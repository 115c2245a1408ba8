"""Seeds that derive from a seed and labels alone."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from autodistill.seeds import derive_seed


def test_same_labels_derive_the_same_seed_in_another_process() -> None:
    program = "from autodistill.seeds import derive_seed; print(derive_seed(7, 'advisor', 3))"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert int(output) == derive_seed(7, "advisor", 3)


def test_labels_that_read_alike_when_joined_derive_different_seeds() -> None:
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
