"""One configuration from a dict, from YAML and from objects; every mistake in one message."""

from __future__ import annotations

from fractions import Fraction
from importlib.metadata import EntryPoint, EntryPoints
from pathlib import Path

import pytest
import yaml

import advisors.registry
from autodistill.config import AutoDistillationConfig, SearchConfig
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.temperature import AnnealedTemperature
from autodistill.errors import ConfigurationError
from autodistill.metrics.metric import Metric
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import Tap
from search_spaces import FloatRange, IntRange, SearchSpace

SEARCH = {"search_space": {"width": [16, 32], "layers": [1, 2]}, "metrics": ["accuracy"]}
DISTILLED = {
    "search": {
        "search_space": {"hidden_size": [128, 246], "layers": [2, 4]},
        "search_algorithm": "Random",
        "metrics": ["accuracy", "latency"],
        "higher_is_better": [True, False],
        "max_trials": 12,
        "seed": 7,
    },
    "flash_distillation": {
        "block_names": ["encoder.0", "encoder.1"],
        "layer_mappings_for_knowledge_transfer": [
            [["encoder.0.attention", "1", "layer.0.attention", "1"], ["encoder.0", "layer.0"]],
            [["encoder.1", "layer.3"]],
        ],
        "loss_types": [["KL", "MSE"], "NMSE"],
        "loss_weights": [[0.5, 0.5], 1.0],
        "train_steps": [500, 250],
    },
    "regular_distillation": {
        "layer_mappings_for_knowledge_transfer": [["cls", "0", "cls", "0"]],
        "loss_types": ["KL"],
        "add_origin_loss": True,
        "temperature": {"start": 5, "end": 1},
        "learning_rate": 0.001,
    },
}


def mistakes(source) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(source)
    return caught.value.problems


# --- one way in ------------------------------------------------------------------------------------------------------


def test_dict_yaml_and_objects_are_the_same_configuration(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(DISTILLED))
    objects = AutoDistillationConfig(
        search=SearchConfig(
            search_space=SearchSpace({"hidden_size": [128, 246], "layers": [2, 4]}),
            search_algorithm="Random",
            metrics=(Metric("accuracy"), Metric("latency")),
            max_trials=12,
            seed=7,
        ),
        flash_distillation=FlashDistillationConfig(
            block_names=("encoder.0", "encoder.1"),
            layer_mappings_for_knowledge_transfer=(
                (
                    LayerMapping(Tap("encoder.0.attention", "1"), Tap("layer.0.attention", "1")),
                    LayerMapping(Tap("encoder.0"), Tap("layer.0")),
                ),
                (LayerMapping(Tap("encoder.1"), Tap("layer.3")),),
            ),
            loss_types=(("KL", "MSE"), "NMSE"),
            loss_weights=((0.5, 0.5), 1.0),
            train_steps=(500, 250),
        ),
        regular_distillation=RegularDistillationConfig(
            layer_mappings_for_knowledge_transfer=(LayerMapping(Tap("cls", "0"), Tap("cls", "0")),),
            loss_types="KL",
            add_origin_loss=True,
            temperature=AnnealedTemperature(start=5, end=1),
        ),
    )
    loaded = AutoDistillationConfig.load(DISTILLED)
    assert loaded == AutoDistillationConfig.load(file) == AutoDistillationConfig.load(str(file)) == objects
    assert AutoDistillationConfig.load(objects) is objects


def test_loading_leaves_what_it_was_given_as_it_was() -> None:
    before = yaml.safe_dump(DISTILLED)
    AutoDistillationConfig.load(DISTILLED)
    assert yaml.safe_dump(DISTILLED) == before


def test_numbers_that_yaml_reads_as_text_are_numbers(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(
        "search: {search_space: {width: [1]}, metrics: accuracy}\nregular_distillation: {learning_rate: 1e-3}"
    )
    assert AutoDistillationConfig.load(file).regular_distillation.learning_rate == 0.001


def test_regular_distillation_takes_the_shapes_of_the_specification() -> None:
    nested = AutoDistillationConfig.load(
        {
            "search": SEARCH,
            "regular_distillation": {
                "layer_mappings_for_knowledge_transfer": [[("cls", "0", "cls", "0")]],
                "loss_types": [["KL"]],
                "add_origin_loss": [True],
                "train_steps": [25000],
            },
        }
    ).regular_distillation
    assert nested.layer_mappings_for_knowledge_transfer == (LayerMapping(Tap("cls", "0"), Tap("cls", "0")),)
    assert nested.loss_types in ("KL", ("KL",))
    assert (nested.add_origin_loss, nested.train_steps) == (True, 25000)
    flat = AutoDistillationConfig.load(
        {
            "search": SEARCH,
            "regular_distillation": yaml.safe_load(
                "{layer_mappings_for_knowledge_transfer: [['mobilebert.output', 'bert.output']],"
                " loss_types: ['KL'], add_origin_loss: True}"
            ),
        }
    ).regular_distillation
    assert flat.layer_mappings_for_knowledge_transfer == (LayerMapping(Tap("mobilebert.output"), Tap("bert.output")),)
    assert flat.loss_types in ("KL", ("KL",))
    assert flat.add_origin_loss is True


def test_flash_distillation_takes_the_shapes_of_the_specification() -> None:
    flash = AutoDistillationConfig.load(
        {
            "search": SEARCH,
            "flash_distillation": {
                "block_names": [f"mobilebert.encoder.layer.{i}" for i in range(24)],
                "layer_mappings_for_knowledge_transfer": [
                    [
                        (f"mobilebert.encoder.layer.{i}.attention.self", "1", f"bert.encoder.layer.{i}.self", "1"),
                        (f"mobilebert.encoder.layer.{i}.output", f"bert.encoder.layer.{i}.output"),
                    ]
                    for i in range(24)
                ],
                "loss_types": [["KL", "MSE"] for _ in range(24)],
                "loss_weights": [[0.5, 0.5] for _ in range(24)],
                "train_steps": [500 for _ in range(24)],
            },
        }
    ).flash_distillation
    assert len(flash.layer_mappings_for_knowledge_transfer) == 24
    assert flash.layer_mappings_for_knowledge_transfer[10][0].student == Tap(
        "mobilebert.encoder.layer.10.attention.self", "1"
    )


# --- phases ----------------------------------------------------------------------------------------------------------

FLASH, REGULAR = FlashDistillationConfig(), RegularDistillationConfig()


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, (FLASH, REGULAR)),
        ({"flash_distillation": None, "regular_distillation": None}, (FLASH, REGULAR)),
        ({"flash_distillation": {}}, (FLASH, None)),
        ({"flash_distillation": "auto"}, (FLASH, None)),
        ({"regular_distillation": "auto"}, (None, REGULAR)),
        ({"regular_distillation": {"train_steps": 1000}}, (None, REGULAR)),
        ({"flash_distillation": "auto", "regular_distillation": "auto"}, (FLASH, REGULAR)),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_phase_without_a_section_is_skipped_and_without_any_both_are_automatic(sections, expected) -> None:
    config = AutoDistillationConfig.load({"search": SEARCH, **sections})
    assert (config.flash_distillation, config.regular_distillation) == expected


# --- the search ------------------------------------------------------------------------------------------------------


def test_defaults_are_those_of_the_specification() -> None:
    search = AutoDistillationConfig.load({"search": SEARCH}).search
    assert (search.search_algorithm, search.max_trials, search.seed) == ("BO", 10, 42)
    assert search.search_space == SearchSpace({"width": [16, 32], "layers": [1, 2]})
    assert search.metrics == (Metric("accuracy"),)


@pytest.mark.parametrize(
    ("metrics", "directions", "expected"),
    [
        ("accuracy", None, [Metric("accuracy")]),
        (["error"], [False], [Metric("error", False)]),
        (["error", "loss"], False, [Metric("error", False), Metric("loss", False)]),
        (["accuracy", "latency"], [True, False], [Metric("accuracy"), Metric("latency")]),
        (["accuracy", "latency"], None, [Metric("accuracy"), Metric("latency")]),
        (["accuracy", "latency"], [True, None], [Metric("accuracy"), Metric("latency")]),
        ([Metric("latency", at_most=3)], [False], [Metric("latency", at_most=3)]),
        ([{"name": "error", "greater_is_better": False}, "f1"], None, [Metric("error", False), Metric("f1")]),
        (Metric("f1"), None, [Metric("f1")]),
    ],
    ids=str,
)
def test_metrics_may_be_names_with_flags_mappings_or_objects(metrics, directions, expected) -> None:
    search = SEARCH | {"metrics": metrics} | ({} if directions is None else {"higher_is_better": directions})
    assert list(AutoDistillationConfig.load({"search": search}).search.metrics) == expected


def test_space_may_hold_domains_or_be_one() -> None:
    space = SearchSpace({"layers": IntRange(1, 4)})
    for given in (space, {"layers": IntRange(1, 4)}):
        assert AutoDistillationConfig.load({"search": SEARCH | {"search_space": given}}).search.search_space == space


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"metrics": []}, "search.metrics: at least one metric must be given, but got none."),
        ({"metrics": 5}, "search.metrics: metrics must be a list of names, but got 5."),
        ({"metrics": ["a", "a"]}, "search.metrics: metrics must have different names, but 'a' is given twice."),
        (
            {"higher_is_better": [True, False]},
            "search.metrics: higher_is_better must have one entry for each metric, but has 2 for 1 metrics.",
        ),
        (
            {"metrics": ["latency"], "higher_is_better": True},
            "search.metrics: for the built-in metric 'latency' less is better; leave greater_is_better out.",
        ),
        (
            {"metrics": [Metric("f1")], "higher_is_better": [False]},
            "search.metrics: higher_is_better must agree with a metric's own direction, but is False for "
            "Metric(name='f1', greater_is_better=True, at_most=None, at_least=None, measured=False, "
            "before_training=False).",
        ),
        (
            {"higher_is_better": "yes"},
            "search.metrics: greater_is_better of metric 'accuracy' must be True or False, but got 'yes'.",
        ),
        (
            {"search_space": {"w": []}},
            "search.search_space: w: a choice needs at least one option, but the list is empty",
        ),
        ({"search_space": 5}, "search.search_space: Input should be an instance of SearchSpace, but got 5."),
        *(
            (
                {"promote": share},
                f"search.promote: must be a share of the trials between 0 and 1, such as 1/3, but got {share!r}.",
            )
            for share in (0, 1, 1.5, -0.2, True, "a third", "1/0", float("nan"), [0.5])
        ),
        ({"max_trials": 0}, "search.max_trials: Input should be greater than or equal to 1, but got 0."),
        ({"max_trials": True}, "search.max_trials: Input should be a valid integer, but got True."),
        ({"max_trial": 3}, "search.max_trial: is not a key of the configuration; did you mean 'max_trials'?"),
    ],
    ids=str,
)
def test_mistake_in_the_search_is_told_with_its_place(changes, problem: str) -> None:
    assert mistakes({"search": SEARCH | changes}) == [problem]


@pytest.mark.parametrize("share", [1 / 3, "1/3", " 1/3 ", Fraction(1, 3)])
def test_the_share_that_is_promoted_may_be_a_fraction_and_is_written_back(share, tmp_path) -> None:
    config = AutoDistillationConfig.load({"search": SEARCH | {"promote": share}})
    assert config.search.promote == 1 / 3
    (tmp_path / "search.yaml").write_text(config.to_yaml())
    assert AutoDistillationConfig.load(tmp_path / "search.yaml") == config
    assert AutoDistillationConfig.load({"search": SEARCH | {"promote": None}}).search.promote is None


def test_an_advisor_of_a_plug_in_is_not_made_for_another_space_to_check_its_name(monkeypatch):
    entry = EntryPoint("OfWidths", "third_party:OfWidths", advisors.registry.ENTRY_POINT_GROUP)  # no such module
    monkeypatch.setattr(advisors.registry, "entry_points", lambda group: EntryPoints([entry]))
    config = AutoDistillationConfig.load({"search": SEARCH | {"search_algorithm": "OfWidths"}})
    assert config.search.search_algorithm == "OfWidths"


def test_unknown_algorithm_is_refused_naming_the_nearest() -> None:
    (problem,) = mistakes({"search": SEARCH | {"search_algorithm": "Randm"}})
    assert problem.startswith("search.search_algorithm: ")
    assert "'Random'" in problem or "'random'" in problem


# --- all mistakes at once --------------------------------------------------------------------------------------------


def test_every_mistake_is_in_one_message() -> None:
    with pytest.raises(ConfigurationError) as caught:
        AutoDistillationConfig.load(
            {
                "search": {"search_space": {"w": []}, "metrics": ["a", "b"], "higher_is_better": [True], "sed": 3},
                "flash_distillation": {
                    "block_names": ["a", "b"],
                    "layer_mappings_for_knowledge_transfer": [[("a", "t")], [("b", "t"), ("a", "b", "c")]],
                    "loss_types": ["MES", "MSE"],
                    "loss_weights": [1, 1, 1],
                    "train_steps": [1],
                    "optimizer": "AdmW",
                    "scheduler": "linea",
                    "temprature": 2,
                },
                "regular_distillation": {"temperature": {"start": 5, "end": 1, "shap": "linear"}, "loss_weights": -1},
                "trainer": {},
            }
        )
    problems = caught.value.problems
    expected = [
        "search.search_space: w: a choice needs at least one option",
        "search.metrics: higher_is_better must have one entry for each metric, but has 1 for 2",
        "search.sed: is not a key of the configuration; did you mean 'seed'?",
        "flash_distillation.optimizer: optimizer is the name of a class in torch.optim",
        "flash_distillation.scheduler: scheduler is one of linear",
        "flash_distillation.layer_mappings_for_knowledge_transfer.1: a layer mapping is",
        "flash_distillation.loss_types.0: Input should be 'MSE', 'NMSE', 'L1', 'KL', 'CE' or 'cosine', but got 'MES'.",
        "flash_distillation.loss_weights: loss_weights must have one entry for each block, but has 3 for 2 blocks.",
        "flash_distillation.train_steps: train_steps must have one entry for each block, but has 1 for 2 blocks.",
        "flash_distillation.temprature: is not a key of the configuration; did you mean 'temperature'?",
        "regular_distillation.temperature.shap: is not a key of the configuration; did you mean 'shape'?",
        "regular_distillation.loss_weights: Input should be greater than or equal to 0, but got -1.",
        "trainer: is not a key of the configuration; the keys here are search, ",
    ]
    for sentence in expected:
        assert sum(problem.startswith(sentence) for problem in problems) == 1, (sentence, problems)
    assert len(problems) == len(expected)
    assert str(caught.value).startswith(f"{len(expected)} mistakes in the configuration:\n  - ")


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("temperature", 0, "Input should be greater than 0, but got 0."),
        ("temperature", "hot", "Input should be a valid number, unable to parse string as a number, but got 'hot'."),
        ("temperature", {"start": 1, "end": 0}, "Input should be greater than 0, but got 0."),
        ("train_steps", 0, "Input should be greater than or equal to 1, but got 0."),
        ("train_steps", True, "Input should be a valid integer, but got True."),
        ("loss_types", "MAE", "Input should be 'MSE', 'NMSE', 'L1', 'KL', 'CE' or 'cosine', but got 'MAE'."),
        (
            "loss_types",
            ["MSE", ["KL", "MAE"]],
            "Input should be 'MSE', 'NMSE', 'L1', 'KL', 'CE' or 'cosine', but got 'MAE'.",
        ),
        ("block_names", 3, "Input should be a valid tuple, but got 3."),
    ],
    ids=str,
)
def test_field_with_several_forms_tells_one_mistake_once(field: str, value, sentence: str) -> None:
    (problem,) = mistakes({"search": SEARCH, "flash_distillation": {field: value}})
    assert problem.startswith(f"flash_distillation.{field}")
    assert problem.endswith(f": {sentence}")


@pytest.mark.parametrize("source", [None, 5, [], {}, {"search": None}])
def test_what_is_no_configuration_is_refused_with_its_place(source) -> None:
    (problem,) = mistakes(source)
    assert problem.startswith("search: " if isinstance(source, dict) else "the configuration: ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("search: [", "must be YAML, but: "),
        ("- search", "must hold a mapping, but holds list."),
        ("", "must hold a mapping, but holds NoneType."),
        ("search: !!python/object/apply:os.system ['true']", "must be YAML, but: could not determine a constructor"),
    ],
)
def test_file_that_is_no_yaml_mapping_is_refused_by_name(tmp_path: Path, content: str, sentence: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    (problem,) = mistakes(tmp_path / "config.yaml")
    assert problem.startswith(f"the configuration file {tmp_path / 'config.yaml'} {sentence}")


def test_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    (problem,) = mistakes(tmp_path / "none.yaml")
    assert problem == f"the configuration file {tmp_path}/none.yaml must be readable, but: No such file or directory."


def test_a_file_writes_ranges_as_mappings_and_constraints_beside_the_space(tmp_path):
    file = tmp_path / "search.yaml"
    file.write_text(
        """
search:
  search_space:
    layers: {low: 2, high: 12, step: 2}
    dropout: {low: 0.0, high: 0.3}
    heads: [2, 3]
  constraints: ["layers % heads == 0"]
  metrics: [accuracy]
"""
    )
    space = AutoDistillationConfig.load(file).search.search_space
    expected = SearchSpace(
        {"layers": IntRange(2, 12, step=2), "dropout": FloatRange(0.0, 0.3), "heads": [2, 3]}, ["layers % heads == 0"]
    )
    assert space == expected


def test_constraints_beside_a_search_space_object_are_refused():
    search = {"search_space": SearchSpace({"layers": [2]}), "constraints": ["layers > 1"], "metrics": ["accuracy"]}
    with pytest.raises(ConfigurationError, match="a SearchSpace has its own"):
        AutoDistillationConfig.load({"search": search})


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
