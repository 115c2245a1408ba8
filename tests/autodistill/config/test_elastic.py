"""The section `elastic`: its defaults, what follows from it, and its mistakes."""

from __future__ import annotations

import json

import pytest
from configurations import SEARCH, mistakes

from autodistill.config import AutoDistillationConfig
from autodistill.config.elastic import ElasticConfig

REGULAR = {"train_steps": 5}


def load(**sections):
    return AutoDistillationConfig.load({"search": SEARCH, **sections})


def test_true_stands_for_the_default_settings():
    assert load(elastic=True).elastic == load(elastic={}).elastic == ElasticConfig()
    assert load(elastic=False).elastic is load().elastic is None


def test_students_start_inside_the_teacher_and_a_tenth_is_finished():
    config = load(elastic=True)
    assert config.init is not None
    assert config.flash_distillation is None
    assert config.regular_distillation is not None
    assert config.search.promote == 0.1
    assert load(elastic=True, regular_distillation=REGULAR).search.promote == 0.1


def test_what_is_configured_is_kept():
    config = load(elastic={"train_steps": 7}, init={"batches": 3}, regular_distillation=REGULAR)
    assert (config.elastic.train_steps, config.init.batches, config.regular_distillation.train_steps) == (7, 3, 5)
    for promote in (0.5, None):
        searched = {"search": SEARCH | {"promote": promote}, "elastic": True}
        assert AutoDistillationConfig.load(searched).search.promote == promote


def test_flash_distillation_that_is_chosen_is_kept_to_be_refused_and_the_automatic_one_is_left_out():
    assert load(elastic=True, flash_distillation="auto").flash_distillation is None
    assert load(elastic=True, flash_distillation={"train_steps": 3}).flash_distillation.train_steps == 3


def test_without_regular_distillation_nothing_is_promoted():
    config = load(elastic=True, flash_distillation="auto")
    assert config.regular_distillation is None
    assert config.search.promote is None


def test_it_may_be_added_to_a_configuration():
    config = load(regular_distillation=REGULAR).starting_from(None, {"train_steps": 3})
    assert (config.elastic.train_steps, config.search.promote) == (3, 0.1)
    assert config.starting_from(None, True).elastic.train_steps == 3  # which keeps what is configured
    assert config.starting_from("teacher", None) is config
    assert load().starting_from(None, True).flash_distillation is None


def test_configuration_is_written_and_read_again():
    for elastic in (True, {"train_steps": 5, "samples_per_step": 2}):
        config = load(elastic=elastic, regular_distillation=REGULAR)
        assert AutoDistillationConfig.load(config.to_dict()) == config
        assert AutoDistillationConfig.load(json.loads(json.dumps(config.to_dict()))) == config


def test_record_of_a_search_without_it_is_as_before():
    assert "elastic" not in load().model_dump(mode="json")


@pytest.mark.parametrize("value", ["yes", 3, [1], "teacher"])
def test_value_that_is_neither_true_nor_a_mapping_is_refused(value):
    (problem,) = mistakes({"search": SEARCH, "elastic": value})
    assert problem == f"elastic: must be true, or a mapping of settings, but is {value!r}."


def test_all_wrong_settings_are_named_in_one_error():
    wrong = {"train_step": 3, "samples_per_step": 0, "narrow_share": -1, "learning_rate": 0}
    found = mistakes({"search": SEARCH, "elastic": wrong})
    assert len(found) == 4
    assert all(any(name in problem for problem in found) for name in wrong)
    assert any("train_steps" in problem for problem in found)  # the nearest name


@pytest.mark.parametrize(
    ("setting", "remedy"),
    [
        ({"gradient_accumulation_steps": 2}, "set samples_per_step"),
        ({"compile": True}, "leave it out"),
        ({"temperature": 2.0}, "set that of regular_distillation"),
    ],
)
def test_setting_of_other_phases_is_refused_with_what_to_set_instead(setting, remedy):
    (problem,) = mistakes({"search": SEARCH, "elastic": setting})
    (name,) = setting
    assert f"{name} is no setting of elastic students; {remedy}" in problem


def test_searches_that_end_with_slices_are_written_and_read_again() -> None:
    config = load(elastic=True, regular_distillation=None)
    assert (config.regular_distillation, config.search.promote) == (None, None)
    assert AutoDistillationConfig.load(config.to_dict()) == config
    assert load(elastic=True).regular_distillation is not None
