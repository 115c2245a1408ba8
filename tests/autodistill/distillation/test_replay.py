"""Replay: the reason of every block that it cannot train, and full forwards for that block instead."""

from __future__ import annotations

import dataclasses
import logging
from collections import namedtuple

import pytest
import torch
from families import seeded
from naive_distillation import assert_identical, distil_both_ways, largest_difference, make_distiller
from small_models import Deep, Overwriting, Repeating, Sharing
from torch import nn

from autodistill.batch import Batch
from autodistill.config.flash_distillation import FlashDistillationConfig
from autodistill.distillation.plan import flash_stages
from autodistill.distillation.replay import replay_blockers
from autodistill.models.modes import frozen


@pytest.mark.parametrize(
    ("make", "flash", "reasons"),
    [
        (lambda: Repeating(6), {"block_names": ["block"], "mappings": [("block", "embedding")]}, ["runs 3 times"]),
        (
            lambda: Sharing(6),
            {"block_names": ["blocks.0", "blocks.1"], "mappings": [("blocks.0", "blocks.0"), ("blocks.1", "blocks.1")]},
            ["shared with a module outside", "shared with a module outside"],
        ),
        (
            lambda: Overwriting(6),
            {"block_names": ["blocks.0", "blocks.1"], "mappings": [("blocks.0", "blocks.0"), ("blocks.1", "blocks.1")]},
            ["changes its input in place", "changes its input in place"],
        ),
        (
            lambda: Sharing(6),
            {"block_names": [["embedding", "blocks.0"]], "mappings": [("blocks.0", "blocks.0")]},
            ["trains several modules"],
        ),
        (
            lambda: Overwriting(6),
            {"block_names": ["embedding"], "mappings": [("blocks.1", "blocks.1")]},
            ["'blocks.1' lies outside the block"],
        ),
    ],
    ids=["runs three times", "shared weight", "in place", "several modules", "mapped outside"],
)
def test_block_that_cannot_be_replayed_equals_the_naive_loop_and_logs_its_reason(make, flash, reasons, caplog):
    teacher = seeded(lambda: Overwriting(9), 3)
    mappings = [[mapping] for mapping in flash.pop("mappings")]
    data = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]
    distiller = make_distiller(teacher, data, layer_mappings_for_knowledge_transfer=mappings, **flash)
    with caplog.at_level(logging.INFO, logger="autodistill"):
        engine, naive, records = distil_both_ways(seeded(make, 1), distiller)
    assert_identical(engine, naive)
    assert [record.mode for record in records] == ["truncated forward"] * len(reasons)
    for record, reason in zip(records, reasons, strict=True):
        assert reason in record.reason
        assert record.reason in caplog.text


Sizes = namedtuple("Sizes", "rows columns")


@dataclasses.dataclass
class Options:
    scale: float


class Passing(nn.Module):
    """Two blocks that receive one more argument beside the hidden state, by position and by name."""

    class Block(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.linear = nn.Linear(width, width)

        def forward(self, hidden, extra, *, named):
            return torch.tanh(self.linear(hidden)) * (1.0 if extra is None else 2.0)

    def __init__(self, width, extra):
        super().__init__()
        self.embedding = nn.Linear(8, width)
        self.blocks = nn.ModuleList(self.Block(width) for _ in range(2))
        self.extra = extra

    def forward(self, inputs):
        hidden = self.embedding(inputs)
        for block in self.blocks:
            hidden = block(hidden, self.extra, named=self.extra)
        return hidden


@pytest.mark.parametrize(
    ("extra", "reason"),
    [
        (None, None),
        (True, None),
        (0.5, None),
        ("mean", None),
        (torch.bfloat16, None),
        (torch.Size([2, 3]), None),
        (Sizes(2, torch.ones(3)), None),
        ((torch.ones(2), [None, {"mask": torch.ones(3)}]), None),
        (Options(0.5), "its argument number 1 (a Options) cannot be stored"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_blocks_with_arguments_that_cannot_be_stored_are_not_replayed(extra, reason):
    teacher, student = seeded(lambda: Passing(12, extra)), seeded(lambda: Passing(6, extra), 1)
    data = [(torch.randn(4, 8, generator=torch.Generator().manual_seed(n)), None) for n in range(3)]
    engine, naive, records = distil_both_ways(student, make_distiller(teacher, data))
    assert largest_difference(engine, naive) == 0
    assert [record.reason for record in records] == [reason] * 2


def blockers(student: nn.Module, blocks: list[str], **settings) -> list[str | None]:
    """The reason for each block, mapped to itself."""
    mappings = [[(block, block)] for block in blocks]
    config = FlashDistillationConfig(
        block_names=blocks, layer_mappings_for_knowledge_transfer=mappings, train_steps=1, **settings
    )
    with frozen(student):
        return replay_blockers(flash_stages(config, student, student), student, Batch((torch.ones(2, 4), None)))


def test_blocks_that_run_once_on_stored_inputs_can_be_replayed() -> None:
    assert blockers(Deep(3), ["layer.0", "layer.1", "layer.2"]) == [None, None, None]


def test_block_that_never_runs_cannot_be_replayed_and_others_can() -> None:
    student = Deep(1)
    student.unused = nn.Linear(4, 4)
    assert blockers(student, ["layer.0", "unused"]) == [None, "it never runs in the student's forward"]


class Counting(nn.Linear):
    """Adds the number of its calls to what it returns."""

    calls = 0

    def forward(self, inputs):
        self.calls += 1
        return super().forward(inputs) + self.calls


def test_block_with_a_state_outside_its_inputs_cannot_be_replayed() -> None:
    student = Deep(2)
    student.layer[1] = Counting(4, 4)
    reason = "alone it does not return what it returns inside the student"
    assert blockers(student, ["layer.0", "layer.1"]) == [None, reason]


def test_own_loss_of_the_student_cannot_be_replayed() -> None:
    (reason,) = blockers(Deep(1), ["layer.0"], add_origin_loss=True)
    assert reason == "the student's own loss needs its whole forward"


def test_hooks_are_removed_from_the_student() -> None:
    student = Deep(2)
    blockers(student, ["layer.0", "layer.1"])
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in student.modules())
