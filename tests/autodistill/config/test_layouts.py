"""The files and objects of the specification are read unchanged; a configuration goes to YAML and comes back."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from autodistill import (
    AutoDistillationConfig,
    ConfigurationError,
    DistillationConfig,
    FlashDistillationConfig,
    Metric,
)
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import Tap

FILES = Path(__file__).resolve().parents[2] / "data/specification"
READABLE = ("auto.yaml", "flash.yaml", "regular.yaml")

SEARCH = {"search_space": {"width": [16, 32]}, "metrics": ["accuracy", "latency"], "higher_is_better": [True, False]}


def load(name):
    return AutoDistillationConfig.load(FILES / name)


# --- files of the specification ---------------------------------------------------------------------------------------


def test_file_of_a_search_is_read_with_its_sections_under_auto_distillation():
    config = load("auto.yaml")
    assert (config.model.name, config.model.framework) == ("MobileBERT_NAS", "pytorch")
    assert (config.search.search_algorithm, config.search.max_trials, config.search.seed) == ("BO", 10, 42)
    assert config.search.metrics == (Metric("accuracy"), Metric("latency"))
    assert config.search.search_space.size == 4 * 4 * 4 * 3 * 3
    flash = config.flash_distillation
    assert flash.block_names == ("mobilebert.encoder.layer.0",)
    assert flash.layer_mappings_for_knowledge_transfer[0][0].student == Tap(
        "mobilebert.encoder.layer.0.attention.self", "1"
    )
    assert (flash.loss_types, flash.train_steps) == ((("KL", "MSE"),), (5000,))
    assert config.regular_distillation.layer_mappings_for_knowledge_transfer == (
        LayerMapping(Tap("mobilebert.output"), Tap("bert.output")),
    )
    assert config.regular_distillation.add_origin_loss is True


@pytest.mark.parametrize(
    ("name", "kinds", "weights", "origin"),
    [("flash.yaml", ("KL", "MSE"), (0.5, 0.5), False), ("regular.yaml", "KL", 1.0, True)],
)
def test_file_of_a_criterion_is_regular_distillation_without_a_search(name, kinds, weights, origin):
    config = load(name)
    regular = config.regular_distillation
    assert config.search is None
    assert config.flash_distillation is None
    assert (regular.loss_types, regular.loss_weights, regular.add_origin_loss) == (kinds, weights, origin)
    assert (regular.optimizer, regular.learning_rate) == ("SGD", 0.001)


def test_file_for_tensorflow_is_refused():
    with pytest.raises(ConfigurationError, match=r"framework must be 'pytorch', .* but got 'tensorflow'; convert"):
        load("tensorflow.yaml")


def test_framework_may_be_next_to_the_search_and_flash_settings_may_be_regular():
    phase = FlashDistillationConfig(train_steps=[3], loss_types=["CE", "CE"], loss_weights=[0.5, 0.5])
    config = AutoDistillationConfig(
        framework="pytorch", search_space={"w": [1]}, knowledge_transfer=phase, regular_distillation=phase
    )
    assert config.model.framework == "pytorch"
    assert config.regular_distillation.train_steps == 3
    assert config.regular_distillation.loss_types == ("CE", "CE")
    with pytest.raises(ConfigurationError, match="with block_names, which belong to blocks"):
        AutoDistillationConfig(
            search_space={"w": [1]}, regular_distillation=FlashDistillationConfig(block_names=["a"], exact=False)
        )
    with pytest.raises(ConfigurationError, match="but got 'tensorflow'"):
        AutoDistillationConfig(framework="tensorflow", search_space={"w": [1]})


def test_defaults_are_those_of_the_specification():
    search = AutoDistillationConfig.load({"search": {"search_space": {"w": [1]}, "metrics": "accuracy"}}).search
    assert (search.search_algorithm, search.max_trials, search.seed) == ("BO", 10, 42)
    assert (search.metrics[0].greater_is_better, Metric("eval_loss").greater_is_better) == (True, False)
    assert DistillationConfig().temperature == 1.0


# --- layouts ----------------------------------------------------------------------------------------------------------


def test_every_layout_of_one_configuration_is_the_same_configuration():
    transfer, regular = {"train_steps": 5}, {"train_steps": 7}
    expected = AutoDistillationConfig.load(
        {"search": SEARCH, "flash_distillation": transfer, "regular_distillation": regular}
    )
    both = {"knowledge_transfer": transfer, "regular_distillation": regular}
    layouts = [
        {"search": SEARCH, "flash_distillation": both},
        {"auto_distillation": {"search": SEARCH, "flash_distillation": both}},
        {"auto_distillation": {"search": SEARCH, **both, "train": "...", "evaluation": None}},
        {**SEARCH, "knowledge_transfer": transfer, "regular_distillation": regular},
    ]
    for layout in layouts:
        before = yaml.safe_dump(layout)
        assert AutoDistillationConfig.load(layout) == expected
        assert yaml.safe_dump(layout) == before


def test_objects_are_the_same_configuration_as_a_mapping():
    objects = AutoDistillationConfig(
        search_space={"width": [16, 32]},
        search_algorithm="Random",
        max_trials=3,
        metrics=[Metric(name="eval_loss", greater_is_better=False)],
        knowledge_transfer=FlashDistillationConfig(block_names=["a"], train_steps=[3]),
        regular_distillation=DistillationConfig(
            train_steps=[3], loss_types=["CE", "CE"], loss_weights=[0.5, 0.5], temperature=1.0
        ),
    )
    mapping = {
        "search": {
            "search_space": {"width": [16, 32]},
            "search_algorithm": "Random",
            "max_trials": 3,
            "metrics": [{"name": "eval_loss", "greater_is_better": False}],
        },
        "flash_distillation": {"block_names": ["a"], "train_steps": [3]},
        "regular_distillation": {"train_steps": 3, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5]},
    }
    assert objects == AutoDistillationConfig.load(mapping)


def test_regular_distillation_as_knowledge_transfer_trains_the_whole_student():
    pair = DistillationConfig(train_steps=[3], loss_types=["CE", "CE"], loss_weights=[0.5, 0.5], temperature=1.0)
    config = AutoDistillationConfig(search=SEARCH, knowledge_transfer=pair, regular_distillation=pair)
    assert config.flash_distillation.on_predictions
    assert config.flash_distillation.train_steps == 3
    assert config.regular_distillation == pair


@pytest.mark.parametrize(
    ("layout", "sentence"),
    [
        (
            {"auto_distillation": {"search": SEARCH, "flash_distillation": {"knowledge_transfer": {"train_step": 5}}}},
            "flash_distillation.train_step: is not a key of the configuration; did you mean 'train_steps'?",
        ),
        (
            {"search": SEARCH, "train": {"optimizer": "SGD"}},
            "train: is not a key of the configuration; the keys here are search, ",
        ),
        ({"auto_distilation": {"search": SEARCH}}, "auto_distilation: is not a key of the configuration"),
        (
            {"model": {"name": "m", "framework": "jax"}, "search": SEARCH},
            "model.framework: framework must be 'pytorch'",
        ),
        ({"distillation": {"train": {}}}, "the configuration: distillation has one key, train"),
        (
            {"distillation": {"train": {"criterion": {"KnowledgeLoss": {}}}}},
            "the configuration: a criterion is one of IntermediateLayersKnowledgeDistillationLoss, "
            "KnowledgeDistillationLoss, but got 'KnowledgeLoss'.",
        ),
    ],
)
def test_key_that_no_layout_has_is_refused_by_name(layout, sentence):
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(layout)
    assert any(problem.startswith(sentence) for problem in caught.value.problems), caught.value.problems


# --- to YAML and back -------------------------------------------------------------------------------------------------

ROUND_TRIPS = {
    **{name: FILES / name for name in READABLE},
    "ranges": {
        "search": {
            "search_space": {"layers": {"low": 2, "high": 12, "step": 2}, "dropout": {"low": 0.0, "high": 0.3}},
            "constraints": ["layers > 2"],
            "metrics": [{"name": "accuracy", "at_least": 0.5}, "latency"],
        },
        "flash_distillation": {"temperature": {"start": 5, "end": 1}, "inputs": "teacher"},
        "init": "teacher",
    },
    "automatic": {"search": {"search_space": {"width": (1, 2)}, "metrics": "accuracy"}},
}


@pytest.mark.parametrize("name", ROUND_TRIPS)
def test_from_a_dict_to_yaml_and_back_is_the_identity(name, tmp_path):
    config = AutoDistillationConfig.load(ROUND_TRIPS[name])
    written = config.to_dict()
    assert yaml.safe_load(config.to_yaml()) == written
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    again = AutoDistillationConfig.load(tmp_path / "config.yaml")
    assert again == config
    assert again.to_dict() == written


def test_functions_have_no_form_in_a_file():
    config = AutoDistillationConfig.load(
        {"search": SEARCH, "flash_distillation": {"block_names": lambda student: ["layers.0"]}}
    )
    with pytest.raises(ConfigurationError, match="of names and numbers, but this one holds functions"):
        config.to_yaml()
