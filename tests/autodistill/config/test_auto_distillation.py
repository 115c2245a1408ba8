"""One configuration from a dict, from YAML and from objects; every mistake in one message."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from configurations import SEARCH

from autodistill.config import AutoDistillationConfig, SearchConfig
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.config.temperature import AnnealedTemperature
from autodistill.metrics.metric import Metric
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import Tap
from search_spaces import SearchSpace

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


def test_loading_changes_nothing_in_its_source() -> None:
    before = yaml.safe_dump(DISTILLED)
    AutoDistillationConfig.load(DISTILLED)
    assert yaml.safe_dump(DISTILLED) == before


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
def test_phase_without_a_section_is_skipped_unless_both_are_missing(sections, expected) -> None:
    config = AutoDistillationConfig.load({"search": SEARCH, **sections})
    assert (config.flash_distillation, config.regular_distillation) == expected
