"""Captured inputs of a block equal those of a full forward, wherever they are stored and however they are updated."""

from __future__ import annotations

import logging

import pytest
import torch
from families import seeded
from naive_distillation import assert_identical, distil_both_ways, make_distiller
from small_models import Deep, Skipping
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.activation_store import ActivationStore, Budget
from autodistill.distillation.captured_inputs import CapturedInputs, poison
from autodistill.models.calls import VerificationError
from autodistill.models.modes import frozen


def test_inputs_of_a_block_that_reads_an_earlier_one_are_captured_again(caplog):
    teacher = seeded(lambda: Skipping(9))
    data = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(seeded(lambda: Skipping(6), 1), make_distiller(teacher, data))
    assert_identical(engine, naive)
    assert [record.mode for record in records] == ["replay"] * 3
    assert "inputs of blocks.2 are captured again by full forwards" in caplog.text


class SkippingOnce(Skipping):
    """The last block reads what the first returned where an input is large."""

    def forward(self, inputs):
        first = torch.tanh(self.blocks[0](inputs))
        second = torch.tanh(self.blocks[1](first))
        return self.blocks[2](first + second if inputs.max() > 9 else second)


def test_inputs_are_captured_again_if_the_first_batch_alone_differs(caplog):
    teacher = seeded(lambda: SkippingOnce(9))
    data = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]
    data[0][0][0, 0] = 10.0
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(seeded(lambda: SkippingOnce(6), 1), make_distiller(teacher, data))
    assert_identical(engine, naive)
    assert [record.mode for record in records] == ["replay"] * 3
    assert "the input of 'blocks.2' for the first batch" in caplog.text


class DependsOnAHiddenState(nn.Module):
    """Two blocks; after training has begun the model feeds the second one something else."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(8, 8) for _ in range(2))

    def forward(self, inputs):
        hidden = self.blocks[0](inputs)
        return self.blocks[1](hidden * self.blocks[1].bias.sum())


def test_stage_whose_inputs_depend_on_the_block_runs_again_in_full(caplog):
    teacher = seeded(DependsOnAHiddenState)
    data = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(seeded(DependsOnAHiddenState, 1), make_distiller(teacher, data))
    assert_identical(engine, naive)
    assert [record.mode for record in records] == ["replay", "truncated forward"]
    assert "replay and a full forward differ in the input of 'blocks.1'" in records[1].reason


BATCHES = [Batch((torch.randn(2, 4, generator=torch.Generator().manual_seed(n)), None)) for n in range(3)]
BUDGETS = {"kept": Budget(), "computed": Budget(memory_gb=0.0, disk_gb=0.0)}


def inputs_of(captured: CapturedInputs) -> list[torch.Tensor]:
    return [captured.call(number).args[0] for number in range(len(BATCHES))]


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
def test_captured_inputs_are_what_the_block_before_returns(budget: Budget) -> None:
    student = Deep(3)
    captured = CapturedInputs(student, BATCHES, ActivationStore(budget))
    with frozen(student):
        captured.capture("layer.1", ["layer.0"])
        for found, batch in zip(inputs_of(captured), BATCHES, strict=True):
            assert torch.equal(found, student.layer[0](batch.inputs))


@pytest.mark.parametrize("budget", BUDGETS.values(), ids=BUDGETS.keys())
def test_inputs_are_replaced_by_the_outputs_of_the_trained_block(budget: Budget) -> None:
    student = Deep(3)
    captured = CapturedInputs(student, BATCHES, ActivationStore(budget))
    with frozen(student):
        captured.capture("layer.0", [])
        student.layer[0].bias.data.add_(1)  # as training does
        captured.verify("layer.0", following="layer.1")
        captured.move_on("layer.0", "layer.1")
        for found, batch in zip(inputs_of(captured), BATCHES, strict=True):
            assert torch.equal(found, student.layer[0](batch.inputs))


def test_inputs_that_a_full_forward_contradicts_are_refused() -> None:
    student = Deep(3)
    captured = CapturedInputs(student, BATCHES, ActivationStore(Budget()))
    with frozen(student):
        captured.capture("layer.1", ["layer.0"])
        captured.verify("layer.1")
        student.layer[0].bias.data.add_(1)
        with pytest.raises(VerificationError, match=r"differ in the input of 'layer\.1' for the last batch"):
            captured.verify("layer.1")


def test_poison_has_the_structure_of_the_output_and_no_usable_number() -> None:
    output = (torch.ones(2, 3, dtype=torch.bfloat16), {"ids": torch.ones(4, dtype=torch.long), "name": "x"})
    floats, rest = poison(output)
    assert (floats.shape, floats.dtype) == ((2, 3), torch.bfloat16)
    assert bool(floats.isnan().all())
    assert (rest["ids"].tolist(), rest["name"]) == ([0, 0, 0, 0], "x")
    assert floats.untyped_storage().nbytes() == 2  # one number for all of them
