"""Trials of a search directory by their number."""

from __future__ import annotations

from pathlib import Path

import pytest

from autodistill.cli.search_directory import find_trial
from autodistill.errors import ConfigurationError
from autodistill.search.directory import SearchDirectory
from search_spaces import SearchSpace

RUNS = Path("runs")


@pytest.fixture
def search_dir():
    """Two trials, of which the second is better."""
    space = SearchSpace({"layers": [1, 2, 3]})
    with SearchDirectory.open(RUNS, {"metrics": ["accuracy"], "seed": 0}, space) as directory:
        for layers, accuracy in ((1, 0.5), (2, 0.9)):
            trial = directory.begin({"layers": layers})
            directory.record(trial.complete({"accuracy": accuracy}))
    return RUNS


def test_best_trial_is_found_if_no_number_is_requested(search_dir):
    assert find_trial(search_dir, None).number == 1
    assert find_trial(search_dir, 0).architecture == {"layers": 1}


def test_number_that_no_trial_has_is_refused_naming_the_existing_ones(search_dir):
    with pytest.raises(ConfigurationError, match="runs has no trial 2; it has those from 0 to 1"):
        find_trial(search_dir, 2)
