"""A section is checked as a whole: in any order, with every mistake, and again when settings are changed."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import autodistill
from autodistill import config
from autodistill.config import AutoDistillationConfig, SearchConfig
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.reading import read_configuration
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.section import Section
from autodistill.errors import ConfigurationError
from search_spaces import SearchSpace

MAPPINGS = "layer_mappings_for_knowledge_transfer"
SEARCH = {"search_space": {"width": [16, 32]}, "metrics": ["accuracy"], "promote": "1/3"}

WRONG_FLASH: list[dict[str, Any]] = [
    {"optimizer": "SGD", "optimizer_arguments": {"betas": 1, "moment": 2}},
    {"optimizer": "AdmW", "optimizer_arguments": {"momentum": 0.9}},
    {"block_names": ["a", "b"], "loss_types": ["MES", "MSE"], "loss_weights": [1, 1, 1], "train_steps": [1]},
    {"block_names": ["a"], MAPPINGS: [[("a", "t")]], "loss_types": [["KL", "KL"]], "loss_weights": [[1, 2]]},
    {"block_names": 3, MAPPINGS: [[("a", "t")]], "loss_weights": [[1, 2]]},
    {"block_names": ["a"], MAPPINGS: [[("a", "b", "c")]], "loss_weights": [[1, 2], 1]},
    {MAPPINGS: [[("a", "t")]], "scheduler": "linea"},
    {"automatic_mapping": "all", "loss_types": "KL", "loss_weights": [1, 2]},
    {"inputs": "student", "projection": abs, "temprature": 2},
]
WRONG_REGULAR: list[dict[str, Any]] = [
    {MAPPINGS: [("a", "t")], "loss_types": ["KL", "KL"], "loss_weights": [1, 2], "train_steps": 0},
    {"loss_types": ["KL", "cosine"], "loss_weights": [1, 2, 3], "add_origin_loss": True},
    {"loss_types": "KL", "loss_weights": [0.5, 0.5], "learning_rate": 0},
    {"loss_types": "MAE", "loss_weights": [1, 2, 3]},
    {MAPPINGS: [("a", "b", "c")], "loss_types": ["KL", "KL"], "add_origin_loss": True},
]
WRONG = [(FlashDistillationConfig, given) for given in WRONG_FLASH]
WRONG += [(RegularDistillationConfig, given) for given in WRONG_REGULAR]


def mistakes(section: type, given: dict[str, Any]) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        read_configuration(section, given)
    return caught.value.problems


def with_fields_in_reverse(section: type) -> type:
    class Reversed(section):
        pass

    Reversed.__pydantic_fields__ = dict(reversed(section.model_fields.items()))
    Reversed.model_rebuild(force=True)
    assert list(Reversed.model_fields) == list(reversed(section.model_fields))
    return Reversed


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("section", "given"), WRONG, ids=str)
def test_mistakes_do_not_depend_on_the_order_of_keys_or_of_declared_settings(section, given) -> None:
    expected = sorted(mistakes(section, given))
    assert sorted(mistakes(section, dict(reversed(given.items())))) == expected
    assert sorted(mistakes(with_fields_in_reverse(section), given)) == expected


def test_settings_that_disagree_are_reported_beside_a_setting_that_is_wrong() -> None:
    given = {"block_names": ["a", "b"], "loss_types": ["MES", "MSE"], "loss_weights": [1, 1, 1], "optimizer": "AdmW"}
    problems = mistakes(FlashDistillationConfig, given)
    assert [problem.partition(":")[0] for problem in problems] == ["optimizer", "loss_types.0", "loss_weights"]
    assert problems[2] == "loss_weights: loss_weights must have one entry for each block, but has 3 for 2 blocks."


def test_setting_is_not_compared_with_one_that_is_wrong() -> None:
    given = {"optimizer": "AdmW", "optimizer_arguments": {"momentum": 0.9}}
    (problem,) = mistakes(FlashDistillationConfig, given)
    assert problem.startswith("optimizer: ")


def test_every_unknown_argument_of_the_optimizer_is_reported() -> None:
    problems = mistakes(RegularDistillationConfig, {"optimizer": "SGD", "optimizer_arguments": {"a": 1, "moment": 2}})
    assert [problem.partition("but got ")[2] for problem in problems] == ["'a'.", "'moment'; did you mean 'momentum'?"]


# --- changes ---------------------------------------------------------------------------------------------------------


def test_changed_settings_are_those_of_a_new_configuration() -> None:
    given = {"block_names": ["a"], MAPPINGS: [[("a", "t")]], "temperature": {"start": 5, "end": 1}, "train_steps": [3]}
    changed = FlashDistillationConfig(**given).with_changes(train_steps=[4], loss_types=[["KL"]])
    expected = FlashDistillationConfig(**{**given, "train_steps": [4], "loss_types": [["KL"]]})
    assert changed == expected
    assert changed.model_fields_set == expected.model_fields_set == {*given, "loss_types"}
    assert FlashDistillationConfig().with_changes().model_fields_set == set()


@pytest.mark.parametrize(
    ("section", "changes", "problem"),
    [
        (
            FlashDistillationConfig(block_names=["a", "b"]),
            {"train_steps": (1, 2, 3)},
            "train_steps: train_steps must have one entry for each block, but has 3 for 2 blocks.",
        ),
        (
            FlashDistillationConfig(inputs="teacher", projection=abs),
            {"inputs": "student"},
            "projection: projection belongs to inputs='teacher', but inputs is 'student'.",
        ),
        (
            RegularDistillationConfig(),
            {"train_step": 5},
            "train_step: is not a key of the configuration; did you mean 'train_steps'?",
        ),
        (
            RegularDistillationConfig(),
            {"mixed_precision": "fp8"},
            "mixed_precision: Input should be 'no', 'bf16' or 'fp16', but got 'fp8'.",
        ),
    ],
)
@pytest.mark.parametrize(
    "change",
    [
        lambda section, changes: section.with_changes(**changes),
        lambda section, changes: section.model_copy(update=changes),
    ],
    ids=["with_changes", "model_copy"],
)
def test_wrong_change_is_refused_as_in_a_new_configuration(section, changes, problem, change) -> None:
    with pytest.raises(ConfigurationError) as caught:
        change(section, changes)
    assert caught.value.problems == [problem]


def test_change_of_a_search_keeps_its_other_settings() -> None:
    search = AutoDistillationConfig.load({"search": SEARCH}).the_search()
    space = SearchSpace({"width": [16]})
    assert search.with_changes(search_space=space) == SearchConfig(
        search_space=space, metrics=["accuracy"], promote=1 / 3
    )
    assert "max_trials" not in search.with_changes(search_space=space).model_fields_set
    assert search.with_changes(metrics=["f1"]).metrics[0].name == "f1"


def test_change_of_the_whole_configuration_keeps_a_skipped_phase_skipped() -> None:
    config = AutoDistillationConfig.load({"search": SEARCH, "regular_distillation": {"train_steps": 7}})
    changed = config.with_changes(checkpoint_steps=5)
    assert changed.flash_distillation is None
    assert changed.regular_distillation == config.regular_distillation
    assert changed.checkpoint_steps == 5


def test_configuration_of_a_criterion_can_change_and_start_inside_the_teacher() -> None:
    criterion = {"KnowledgeDistillationLoss": {"temperature": 2.0}}
    config = AutoDistillationConfig.load({"distillation": {"train": {"criterion": criterion}}})
    assert config.with_changes(checkpoint_steps=5).search is None
    started = config.starting_from("teacher")
    assert started.init is not None
    assert started.regular_distillation == config.regular_distillation


@pytest.mark.parametrize("flash", [{}, {"train_steps": 5}], ids=str)
def test_blocks_of_students_inside_the_teacher_are_always_fed_by_it(flash) -> None:
    mapping = AutoDistillationConfig.load({"search": SEARCH, "init": "teacher", "flash_distillation": flash})
    objects = AutoDistillationConfig(search=SEARCH, init="teacher", flash_distillation=FlashDistillationConfig(**flash))
    later = AutoDistillationConfig.load({"search": SEARCH, "flash_distillation": flash}).starting_from("teacher")
    assert mapping == objects == later
    assert mapping.flash_distillation.inputs == "teacher"
    own = AutoDistillationConfig(
        search=SEARCH, init="teacher", flash_distillation=FlashDistillationConfig(inputs="student")
    )
    assert own.flash_distillation.inputs == "student"


def test_regular_settings_used_for_flash_keep_their_functions() -> None:
    def cooling(progress: float) -> float:
        return 2 - progress

    pair = RegularDistillationConfig(loss_types=["CE", "KL"], temperature=cooling)
    assert AutoDistillationConfig(search=SEARCH, flash_distillation=pair).flash_distillation.temperature is cooling


def test_no_module_changes_settings_without_validation() -> None:
    package = Path(autodistill.__file__).parent
    bypass = re.compile(r"\.(model_copy\(update|model_construct\()")
    assert [str(path) for path in package.rglob("*.py") if bypass.search(path.read_text(encoding="utf-8"))] == []


def sections(base: type[Section] = Section) -> Iterator[type[Section]]:
    """Every class of the package's modules that is a section, and the base."""
    for module in pkgutil.iter_modules(config.__path__):
        importlib.import_module(f"{config.__name__}.{module.name}")
    yield base
    for derived in base.__subclasses__():
        if derived.__module__.startswith(config.__name__):
            yield from sections(derived)


@pytest.mark.parametrize("section", sorted(set(sections()), key=lambda section: section.__name__))
def test_a_mistake_in_a_section_that_is_built_directly_raises_a_configuration_error(section: type[Section]) -> None:
    with pytest.raises(ConfigurationError, match="no_such_setting: is not a key of the configuration"):
        section(no_such_setting=1)
