"""From a configuration to the settings of a search: architectures that can be built and start inside the teacher."""

from __future__ import annotations

import csv

import pytest

from autodistill.cli.setup import SearchSetup
from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError


def set_up(space, init=None, **data):
    data = {"train": "train.csv", "validation": 0.5, "batch_size": 4} | data
    settings = {"search": {"search_space": space, "metrics": ["parameters"]}, "init": init}
    config = {"task": "text-classification", "teacher": "teacher", "data": data, "auto_distillation": settings}
    return SearchSetup(CommandConfig.load(config))


def test_architectures_that_cannot_be_built_are_left_out(classifier):
    setup = set_up(space={"hidden_size": [8, 9], "num_attention_heads": [1, 2]})
    assert setup.settings.search.search_space.size == 3  # two heads do not divide nine


def test_start_inside_a_teacher_that_is_narrower_is_refused(classifier):
    with pytest.raises(ConfigurationError, match=r"cannot start inside the teacher; of .*the student is wider"):
        _ = set_up(space={"hidden_size": [32]}, init="teacher").settings


def test_share_of_padding_is_logged_and_batches_of_similar_length_are_advised(classifier, caplog):
    with open("texts.csv", "w", newline="", encoding="utf-8") as file:
        rows = [(" ".join(["w1"] * (1 if row % 2 else 8)), "good") for row in range(128)]  # 3 and 10 tokens
        csv.writer(file).writerows([("text", "label"), *rows])
    data = {"train": "texts.csv", "validation": "texts.csv"}
    with caplog.at_level("INFO", logger="autodistill"):
        apart, mixed = (
            set_up({"hidden_size": [8]}, group_by_length=grouped, **data).report_padding() for grouped in (True, False)
        )
    assert apart < 0.1 < 0.25 < mixed < 0.5
    lines = [record.message for record in caplog.records if "padding" in record.message]
    advice = "; set data.group_by_length: true, so that batches hold texts of similar length"
    assert lines == [
        f"{100 * share:.0f} % of the positions in the first 16 batches are padding{advice if share > 0.25 else ''}"
        for share in (apart, mixed)
        if share
    ]
