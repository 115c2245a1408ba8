"""The file of the command line, read whole, and all its mistakes in one error."""

from __future__ import annotations

import pytest

from autodistill.config.command_line import CommandConfig
from autodistill.errors import ConfigurationError

MINIMAL = {
    "task": "masked-lm",
    "teacher": "teacher",
    "data": {"train": "lines.txt"},
    "auto_distillation": {"search": {"search_space": {"hidden_size": [8]}, "metrics": ["eval_loss"]}},
}


def test_missing_settings_have_their_defaults():
    config = CommandConfig.load(MINIMAL)
    assert (config.student, config.device) == (None, "auto")
    assert (config.data.validation, config.data.max_length, config.data.batch_size) == (0.1, 128, 32)
    assert config.auto_distillation.flash_distillation is not None  # with neither phase, both are automatic
    assert config.auto_distillation.regular_distillation is not None


def test_file_in_the_layout_of_the_specification_is_read_with_task_and_data(tmp_path):
    text = """
    model: {name: MobileBERT_NAS, framework: pytorch}
    task: masked-lm
    teacher: teacher
    data: {train: lines.txt, validation: more.txt}
    auto_distillation:
      search: {search_space: {hidden_size: [128, 246]}, metrics: [eval_loss, latency], higher_is_better: [False, False]}
      flash_distillation:
        knowledge_transfer: {train_steps: 5}
        regular_distillation: {train_steps: [7]}
    """
    (tmp_path / "search.yaml").write_text(text, encoding="utf-8")
    config = CommandConfig.load(tmp_path / "search.yaml")
    assert config.auto_distillation.flash_distillation.train_steps == 5
    assert config.auto_distillation.regular_distillation.train_steps == 7
    assert config.data.validation == "more.txt"


def test_every_mistake_is_reported_with_its_field():
    wrong = MINIMAL | {"data": {"train": "lines.txt", "validation": 1.5, "shuffle": True}, "teachers": "teacher"}
    del wrong["teacher"]
    with pytest.raises(ConfigurationError) as caught:
        CommandConfig.load(wrong)
    assert len(caught.value.problems) == 4
    text = str(caught.value)
    assert "teacher: is required, but not given." in text
    assert "teachers: is not a key of the configuration; did you mean 'teacher'?" in text
    assert "data.shuffle: is not a key of the configuration" in text
    assert (
        "data.validation: must be data, or the share of `train` that is held out, between 0 and 1, but got 1.5." in text
    )
