"""The settings of a phase: what they accept, and how they tell what they do not."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError
from transformers import get_scheduler

from autodistill.config.distillation import SCHEDULERS, FlashDistillationConfig, RegularDistillationConfig
from autodistill.config.temperature import AnnealedTemperature, temperature_at
from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import Tap

# --- temperature -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epochs", [1, 7, 100])
def test_linear_annealing_is_one_plus_four_times_the_rest(epochs: int) -> None:
    annealed = AnnealedTemperature(start=5, end=1)
    for epoch in range(epochs + 1):
        assert annealed.at(epoch / epochs) == pytest.approx(1 + 4 * (1 - epoch / epochs), rel=1e-12)


def test_cosine_annealing_goes_from_start_to_end_by_half_a_cosine() -> None:
    annealed = AnnealedTemperature(start=8, end=2, shape="cosine")
    for progress in (0, 0.2, 0.5, 0.9, 1):
        expected = 2 + 6 * math.cos(progress * math.pi / 2) ** 2
        assert annealed.at(progress) == pytest.approx(expected)


def test_temperature_may_be_a_number_an_annealed_one_or_a_function() -> None:
    assert temperature_at(3.0, 0.9) == 3.0
    assert temperature_at(AnnealedTemperature(start=3, end=1), 0.5) == 2.0
    assert temperature_at(lambda progress: 1 + progress, 0.25) == 1.25
    assert isinstance(temperature_at(lambda progress: 2, 0.5), float)
    config = RegularDistillationConfig(temperature={"start": 5, "end": 1})
    assert config.temperature == AnnealedTemperature(start=5, end=1)


def cold(progress: float) -> float:
    return math.nan if progress > 0.5 else 0.0


@pytest.mark.parametrize("progress", [0.1, 0.9])
def test_temperature_that_is_not_positive_and_finite_names_its_function(progress: float) -> None:
    with pytest.raises(ConfigurationError, match=rf"positive and finite, but .*cold\({progress}\) gave (0\.0|nan)"):
        temperature_at(cold, progress)


@pytest.mark.parametrize("value", [0, -1, "hot", {"start": 5}, {"start": 0, "end": 1}, {"start": 5, "end": 1, "to": 2}])
def test_temperature_of_another_kind_is_refused(value) -> None:
    with pytest.raises(ValidationError):
        RegularDistillationConfig(temperature=value)


# --- what is accepted ------------------------------------------------------------------------------------------------


def test_lists_become_tuples_and_settings_cannot_be_changed() -> None:
    config = FlashDistillationConfig(
        block_names=["a", ["b", "c"]],
        layer_mappings_for_knowledge_transfer=[[("a", "t")], [("b", "1", "t", "1"), ("c",)]],
        loss_types=["MSE", ["KL", "L1"]],
        loss_weights=[1, [0.5, 2]],
        train_steps=[3, 4],
    )
    assert config.block_names == ("a", ("b", "c"))
    assert config.layer_mappings_for_knowledge_transfer == (
        (LayerMapping(Tap("a"), Tap("t")),),
        (LayerMapping(Tap("b", "1"), Tap("t", "1")), LayerMapping(Tap("c"), Tap("c"))),
    )
    assert (config.loss_types, config.loss_weights) == (("MSE", ("KL", "L1")), (1.0, (0.5, 2.0)))
    with pytest.raises(ValidationError, match="frozen"):
        config.train_steps = 5


@pytest.mark.parametrize(
    ("given", "paths"),
    [
        ([("s", "t")], [("s", "t")]),
        ([["s", "t"]], [("s", "t")]),
        ([[("s", "t")]], [("s", "t")]),
        ([[["s", "t"], ["u", "v"]]], [("s", "t"), ("u", "v")]),
        ([["s", "t"], ["u", "v"]], [("s", "t"), ("u", "v")]),
        ([[("s", "1", "t", "1")]], [("s1", "t1")]),
        ([[("s", "1"), ("t", "1")]], [("s1", "t1")]),
        ([[("s", 1), ("t", 0)]], [("s1", "t0")]),
        ([[("s", "1"), ("t", "1")], ("u", "v")], [("s1", "t1"), ("u", "v")]),
        ([("s",)], [("s", "s")]),
        ([[("s",)]], [("s", "s")]),
    ],
)
def test_mappings_of_the_only_stage_may_be_nested_or_not(given, paths) -> None:
    config = RegularDistillationConfig(layer_mappings_for_knowledge_transfer=given)
    assert [
        (m.student.path + m.student.process, m.teacher.path + m.teacher.process)
        for m in config.layer_mappings_for_knowledge_transfer
    ] == paths


def test_record_of_settings_is_json_and_names_functions() -> None:
    config = FlashDistillationConfig(
        block_names=["a"], layer_mappings_for_knowledge_transfer=[[("a", "1", "t", "")]], temperature=cold
    )
    record = config.model_dump(mode="json")
    assert record["layer_mappings_for_knowledge_transfer"] == [[["a", "1", "t", ""]]]
    assert record["temperature"].endswith("test_distillation.cold")
    assert FlashDistillationConfig(temperature=2.5).model_dump(mode="json")["temperature"] == 2.5
    annealed = FlashDistillationConfig(temperature=AnnealedTemperature(start=5, end=1)).model_dump(mode="json")
    assert annealed["temperature"] == {"start": 5.0, "end": 1.0, "shape": "linear"}


# --- what is refused -------------------------------------------------------------------------------------------------


def sentences(make) -> str:
    with pytest.raises(ValidationError) as caught:
        make()
    return str(caught.value)


@pytest.mark.parametrize("name", ["LBFGS", "Rprop", "SparseAdam", "Optimizer", "lr_scheduler", "adamw"])
def test_optimizer_that_the_step_loop_cannot_use_is_refused(name: str) -> None:
    message = sentences(lambda: FlashDistillationConfig(optimizer=name))
    assert f"the name of a class in torch.optim that takes a weight decay, but got '{name}'" in message


def test_near_miss_of_an_optimizer_or_scheduler_names_the_nearest() -> None:
    message = sentences(lambda: FlashDistillationConfig(optimizer="AdmW", scheduler="cosin"))
    assert "got 'AdmW'; did you mean 'AdamW'?" in message
    assert "got 'cosin'; did you mean 'cosine'?" in message


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_that_is_accepted_runs(name: str) -> None:
    assert RegularDistillationConfig(scheduler=name).scheduler == name
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=3)
    optimizer.step()
    schedule.step()


@pytest.mark.parametrize("argument", ["moment", "lr", "params", "weight_decay"])
def test_argument_that_the_optimizer_does_not_take_is_refused(argument: str) -> None:
    message = sentences(lambda: FlashDistillationConfig(optimizer="SGD", optimizer_arguments={argument: 1}))
    assert f"optimizer_arguments are further arguments of SGD, but got '{argument}'" in message
    FlashDistillationConfig(optimizer="SGD", optimizer_arguments={"momentum": 0.9})


@pytest.mark.parametrize(
    "setting",
    [
        {"learning_rate": 0},
        {"weight_decay": -1},
        {"warmup_ratio": 1.5},
        {"max_grad_norm": 0},
        {"gradient_accumulation_steps": 0},
        {"mixed_precision": "fp8"},
        {"train_steps": 0},
        {"train_steps": [5, 0]},
        {"loss_types": "MAE"},
        {"loss_weights": -1},
        {"loss_weights": math.inf},
        {"block_names": "layer.0"},
        {"unknown": 1},
    ],
    ids=str,
)
def test_value_outside_its_range_is_refused(setting) -> None:
    assert next(iter(setting)) in sentences(lambda: FlashDistillationConfig(**setting))


@pytest.mark.parametrize("field", ["loss_types", "loss_weights", "add_origin_loss", "train_steps"])
def test_list_that_does_not_fit_the_blocks_is_refused_with_both_lengths(field: str) -> None:
    value = {"loss_types": "MSE", "loss_weights": 1, "add_origin_loss": True, "train_steps": 3}[field]
    message = sentences(lambda: FlashDistillationConfig(block_names=["a", "b"], **{field: [value] * 3}))
    assert f"{field} must have one entry for each block, but has 3 for 2 blocks." in message
    FlashDistillationConfig(block_names=["a", "b"], **{field: [value] * 2})
    FlashDistillationConfig(**{field: [value] * 3})  # how many blocks there are is seen once there is a student


def test_mappings_must_fit_the_blocks_and_their_losses() -> None:
    def make(mappings, **fields):
        return lambda: FlashDistillationConfig(
            block_names=["a", "b"], layer_mappings_for_knowledge_transfer=mappings, **fields
        )

    two = [[("a", "t")], [("b", "t"), ("b", "u")]]
    make(two, loss_types=["MSE", ["MSE", "KL"]])()
    assert "has 1 for 2 blocks" in sentences(make(two[:1]))
    assert "transfer[0] must hold at least one mapping, but is empty" in sentences(make([[], two[1]]))
    message = sentences(make(two, loss_types=[["MSE", "KL"], "MSE"], loss_weights=[1, [1, 2, 3]]))
    assert "loss_types[0] must have one entry for each mapping, but has 2 for 1 mappings." in message
    assert "loss_weights[1] must have one entry for each mapping, but has 3 for 2 mappings." in message
    assert "give block_names too" in sentences(
        lambda: FlashDistillationConfig(layer_mappings_for_knowledge_transfer=two)
    )


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"layer_mappings_for_knowledge_transfer": []}, "must hold at least one mapping, but is empty"),
        (
            {"layer_mappings_for_knowledge_transfer": [("a",), ("b",)], "loss_types": ["KL", "KL", "KL"]},
            "loss_types must have one entry for each mapping, but has 3 for 2 mappings.",
        ),
        (
            {"layer_mappings_for_knowledge_transfer": [("a",), ("b",)], "loss_weights": [1, 1, 1]},
            "loss_weights must have one entry for each mapping, but has 3 for 2 mappings.",
        ),
    ],
)
def test_lists_of_regular_distillation_must_fit_its_mappings(fields, sentence: str) -> None:
    assert sentence in sentences(lambda: RegularDistillationConfig(**fields))


def test_flash_distillation_of_no_block_is_refused() -> None:
    assert "block_names must name at least one block, but is empty." in sentences(
        lambda: FlashDistillationConfig(block_names=[])
    )


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (
            {"loss_types": ["CE", "KL", "MSE"]},
            "loss_types without layer_mappings_for_knowledge_transfer is one value, or a pair for the labels and the "
            "teacher (loss_types and loss_weights alike), but got ['CE', 'KL', 'MSE'].",
        ),
        (
            {"loss_types": "KL", "loss_weights": [0.5, 0.5]},
            "loss_weights without layer_mappings_for_knowledge_transfer is one value, or a pair for the labels and the "
            "teacher (loss_types and loss_weights alike), but got [0.5, 0.5].",
        ),
        (
            {"loss_types": ["KL", "KL"]},
            "the loss between student and labels is one of CE, MSE, but got 'KL'.",
        ),
        (
            {"loss_types": ["CE", "CE"], "add_origin_loss": True},
            "add_origin_loss belongs to a single loss type or to mappings; in a pair the student's own loss is the "
            "first, with its weight.",
        ),
    ],
)
def test_pair_of_losses_that_is_none_is_refused(given, sentence) -> None:
    assert sentence in sentences(lambda: RegularDistillationConfig(**given))


def test_pair_of_losses_without_mappings_is_on_predictions() -> None:
    given = {"temperature": 1.0, "loss_types": ["CE", "CE"], "loss_weights": [0.5, 0.5]}
    assert RegularDistillationConfig(**given).on_predictions
    assert not RegularDistillationConfig().on_predictions
    mapped = {"layer_mappings_for_knowledge_transfer": [("a", "b"), ("c", "d")], "loss_types": ["CE", "CE"]}
    assert not RegularDistillationConfig(**mapped).on_predictions
