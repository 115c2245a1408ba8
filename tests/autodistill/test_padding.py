"""Padding: its share by the masks, and groups in random order, each sample once."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler, TensorDataset
from transformers.trainer_pt_utils import LengthGroupedSampler

from autodistill.batch import Batch
from autodistill.data_stream import DataStream
from autodistill.padding import ShuffledGroups, padding_share, recurrence_problem, report_padding


def masked(*lengths, width):
    return Batch({"attention_mask": (torch.arange(width) < torch.tensor(lengths)[:, None]).long()})


def test_share_counts_the_positions_of_all_batches():
    assert padding_share([masked(4, 1, width=4), masked(2, width=2)]) == 3 / (8 + 2)


@pytest.mark.parametrize("content", [torch.ones(2, 3), {"pixel_values": torch.ones(2, 3)}, (torch.ones(2), None)])
def test_batches_without_a_mask_have_no_padding(content):
    assert padding_share([Batch(content)]) == 0.0
    assert report_padding(DataStream([content], seed=0), "pad less") == 0.0


def test_groups_stay_together_and_a_smaller_last_one_stays_last():
    torch.manual_seed(0)
    order = list(ShuffledGroups(range(100, 122), size=4))
    groups = [tuple(order[start : start + 4]) for start in range(0, 22, 4)]
    expected = [tuple(range(start, min(start + 4, 122))) for start in range(100, 122, 4)]
    assert sorted(groups) == expected != groups
    assert groups[-1] == (120, 121)
    assert len(ShuffledGroups(range(22), size=4)) == 22


def test_every_group_is_as_often_the_first():
    torch.manual_seed(0)
    firsts = [next(iter(ShuffledGroups(range(8), size=2))) for _ in range(2000)]
    assert {sample: firsts.count(sample) for sample in sorted({*firsts})} == pytest.approx(
        dict.fromkeys((0, 2, 4, 6), 500), rel=0.15
    )


def test_order_depends_on_the_stream_alone_also_with_a_generator_of_the_inner_sampler():
    lengths, data = list(range(40)), TensorDataset(torch.arange(40))
    generator = torch.Generator().manual_seed(1)
    sampler = ShuffledGroups(LengthGroupedSampler(4, lengths=lengths, generator=generator), 4)
    loader = DataLoader(data, 4, sampler=sampler)

    def epoch(number, seed=0):
        return [row for batch in DataStream(loader, seed).epoch(number) for row in batch.content[0].tolist()]

    first = epoch(0)
    torch.rand(3), generator.seed()
    assert epoch(0) == first
    assert sorted(first) == lengths
    assert len({tuple(first), tuple(epoch(1)), tuple(epoch(0, seed=1))}) == 3


def stream(lengths):
    rows = [{"attention_mask": torch.ones(length, dtype=torch.long)} for length in lengths]

    def collate(samples):
        width = max(len(sample["attention_mask"]) for sample in samples)
        padded = [torch.nn.functional.pad(s["attention_mask"], (0, width - len(s["attention_mask"]))) for s in samples]
        return {"attention_mask": torch.stack(padded)}

    return DataStream(DataLoader(rows, 2, sampler=SequentialSampler(rows), collate_fn=collate), seed=0)


@pytest.mark.parametrize(
    ("lengths", "share", "line"),
    [
        ([4, 1] * 20, 3 / 8, "38 % of the positions in the first 16 batches are padding; pad less"),
        ([4, 3] * 3, 1 / 8, "12 % of the positions in the first 3 batches are padding"),
        ([4, 4], 0.0, None),
    ],
)
def test_share_of_the_first_batches_is_logged_with_the_remedy_if_it_is_large(caplog, lengths, share, line):
    with caplog.at_level("INFO", logger="autodistill"):
        assert report_padding(stream(lengths), "pad less") == share
    assert [record.message for record in caplog.records] == ([] if line is None else [line])


def batch(tokens, mask=None) -> Batch:
    content = {"input_ids": torch.tensor(tokens)}
    return Batch(content if mask is None else content | {"attention_mask": torch.tensor(mask)})


@pytest.mark.parametrize(
    ("batches", "problem"),
    [
        ([batch([[5, 6], [7, 0]], [[1, 1], [1, 0]]), batch([[5, 6, 7]], [[1, 1, 1]])], None),
        ([batch([[5, 6], [0, 7]], [[1, 1], [0, 1]])], "padded at the start"),
        ([batch([[5, 6]]), batch([[5, 6, 7]])], "have no attention_mask"),
        ([batch([[5, 6]]), batch([[7, 8]])], None),
        ([Batch((torch.ones(2, 3), None)), Batch((torch.ones(2, 4), None))], None),
    ],
)
def test_samples_recur_if_their_padding_is_left_out_of_the_keys(batches, problem) -> None:
    found = recurrence_problem(batches)
    assert (found is None) if problem is None else (problem in str(found))
