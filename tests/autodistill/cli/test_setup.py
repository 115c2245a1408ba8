"""From a configuration to the settings of a search: architectures that can be built and start inside the teacher."""

from __future__ import annotations

import pytest

from autodistill.cli.setup import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError


def set_up(space, init=None):
    data = {"train": "train.csv", "validation": 0.5, "batch_size": 4}
    settings = {"search": {"search_space": space, "metrics": ["parameters"]}, "init": init}
    config = {"task": "text-classification", "teacher": "teacher", "data": data, "auto_distillation": settings}
    return SearchSetup(CommandConfig.load(config))


def test_architectures_that_cannot_be_built_are_left_out(classifier):
    setup = set_up(space={"hidden_size": [8, 9], "num_attention_heads": [1, 2]})
    assert setup.settings.search.search_space.size == 3  # two heads do not divide nine


def test_start_inside_a_teacher_that_is_narrower_is_refused(classifier):
    with pytest.raises(ConfigurationError, match=r"cannot start inside the teacher; of .*the student is wider"):
        _ = set_up(space={"hidden_size": [32]}, init="teacher").settings
