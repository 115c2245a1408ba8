"""The settings of flash distillation: the forms of its lists, and how they must agree."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.config.temperature import AnnealedTemperature
from autodistill.errors import ConfigurationError
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.taps import Tap


def sentences(make) -> str:
    with pytest.raises(ConfigurationError) as caught:
        make()
    return str(caught.value)


def cold(progress: float) -> float:
    return 0.0


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


def test_record_of_settings_is_json_and_names_functions() -> None:
    config = FlashDistillationConfig(
        block_names=["a"], layer_mappings_for_knowledge_transfer=[[("a", "1", "t", "")]], temperature=cold
    )
    record = config.model_dump(mode="json")
    assert record["layer_mappings_for_knowledge_transfer"] == [[["a", "1", "t", ""]]]
    assert record["temperature"].endswith("test_flash_distillation.cold")
    assert FlashDistillationConfig(temperature=2.5).model_dump(mode="json")["temperature"] == 2.5
    annealed = FlashDistillationConfig(temperature=AnnealedTemperature(start=5, end=1)).model_dump(mode="json")
    assert annealed["temperature"] == {"start": 5.0, "end": 1.0, "shape": "linear"}


@pytest.mark.parametrize("field", ["loss_types", "loss_weights", "add_origin_loss", "train_steps"])
def test_list_that_does_not_fit_the_blocks_is_refused_with_both_lengths(field: str) -> None:
    value = {"loss_types": "MSE", "loss_weights": 1, "add_origin_loss": True, "train_steps": 3}[field]
    message = sentences(lambda: FlashDistillationConfig(block_names=["a", "b"], **{field: [value] * 3}))
    assert f"{field} must have one entry for each block, but has 3 for 2 blocks." in message
    FlashDistillationConfig(block_names=["a", "b"], **{field: [value] * 2})
    FlashDistillationConfig(**{field: [value] * 3})  # the number of blocks is known only with a student


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
    assert "set block_names too" in sentences(
        lambda: FlashDistillationConfig(layer_mappings_for_knowledge_transfer=two)
    )


def test_flash_distillation_of_no_block_is_refused() -> None:
    assert "block_names must name at least one block, but is empty." in sentences(
        lambda: FlashDistillationConfig(block_names=[])
    )
