"""The command `init`: a configuration that can be loaded, in a new file."""

from __future__ import annotations

from pathlib import Path

import transformers
import yaml
from commands import run

from autodistill.config.command_line import CommandConfig


def test_init_overwrites_nothing():
    run("init", "masked-lm")
    assert "init writes a new file, but autodistill.yaml exists" in run("init", "masked-lm", code=2)


def test_configuration_has_the_task_teacher_and_data_of_the_command(classifier):
    shown = run(
        *("init", "text-classification", "--teacher", classifier, "--train", "train.csv", "--output", "new/search.yaml")
    )
    assert "new/search.yaml is written" in shown
    assert "autodistill search new/search.yaml --search-dir runs/text-classification" in shown
    config = yaml.safe_load(Path("new/search.yaml").read_text(encoding="utf-8"))
    assert (config["task"], config["teacher"]) == ("text-classification", "teacher")
    assert config["data"]["train"] == "train.csv"
    assert [path.name for path in Path("new").iterdir()] == ["search.yaml"]


def test_written_configuration_is_loaded_with_a_space_no_wider_than_the_teacher(classifier):
    run("init", "text-classification", "--teacher", classifier, "--train", "train.csv")
    space = CommandConfig.load("autodistill.yaml").auto_distillation.search.search_space
    width = transformers.AutoConfig.from_pretrained(classifier).hidden_size
    assert max(space.dimensions["hidden_size"].options) <= width


def test_unknown_task_is_refused_and_nothing_is_written():
    assert "masked-lm" in run("init", "no-such-task", code=2)
    assert not Path("autodistill.yaml").exists()
