"""The section `init`: its settings, and the name that stands for their defaults."""

from __future__ import annotations

import pytest
from configurations import SEARCH

from autodistill.config import AutoDistillationConfig
from autodistill.config.initialization import InitializationConfig
from autodistill.errors import ConfigurationError
from autodistill.models.families import FAMILIES


def test_init_by_name_keeps_the_settings_that_are_configured():
    config = AutoDistillationConfig.load({"search": SEARCH, "init": {"batches": 7}})
    assert config.starting_from("teacher").init.batches == 7
    assert config.starting_from({"weighting": "uniform"}).init.batches == 32


@pytest.mark.parametrize(
    "load",
    [
        lambda: AutoDistillationConfig.load({"search": SEARCH, "init": "Teacher"}),
        lambda: AutoDistillationConfig.load({"search": SEARCH}).starting_from("Teacher"),
    ],
    ids=["in the configuration", "as an argument"],
)
def test_init_by_another_name_is_refused(load):
    with pytest.raises(ConfigurationError) as error:
        load()
    assert error.value.problems == ["init: must be 'teacher', or a mapping of settings, but is 'Teacher'."]


def test_defaults_write_all_weights_from_32_batches() -> None:
    config = InitializationConfig()
    assert (config.weights, config.batches, config.weighting, config.centring) == ("all", 32, "power", "mean")
    assert (config.least_squares, config.importance) == ("auto", "auto")
    assert (config.projection_head, config.family) == (None, None)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"batches": 0}, "init.batches: Input should be greater than 0, but got 0."),
        ({"weights": "some"}, "init.weights: Input should be 'all' or 'embeddings', but got 'some'."),
        ({"weight": "all"}, "init.weight: is not a key of the configuration; did you mean 'weights'?"),
        ({"centring": "none"}, "init.centring: Input should be 'mean' or 'boundary', but got 'none'."),
    ],
    ids=str,
)
def test_mistake_in_a_setting_is_reported_with_its_field(settings: dict, problem: str) -> None:
    with pytest.raises(ConfigurationError) as error:
        AutoDistillationConfig.load({"search": SEARCH, "init": settings})
    assert error.value.problems == [problem]


def test_settings_go_to_yaml_and_back(tmp_path) -> None:
    config = AutoDistillationConfig.load({"search": SEARCH, "init": {"batches": 7, "importance": "gradients"}})
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    init = AutoDistillationConfig.load(tmp_path / "config.yaml").init
    assert init == InitializationConfig(batches=7, importance="gradients")


def test_family_is_an_object_whose_text_is_written() -> None:
    family = FAMILIES["bert"].weights
    assert InitializationConfig(family=family).model_dump()["family"] == family.text
    assert InitializationConfig().model_dump()["family"] == "None"
