"""What the teacher computes in a search follows from the data and from one batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, SubsetRandomSampler

from autodistill.batch import Batch
from autodistill.config.regular_distillation import RegularDistillationConfig
from autodistill.data_stream import DataStream
from autodistill.distillation import predicted_cost
from autodistill.distillation.batch_features import HEADER
from autodistill.distillation.flash_set import FlashSet, elements_of_inputs
from autodistill.distillation.plan import Stage
from autodistill.distillation.predicted_cost import (
    DataView,
    FlashReads,
    RegularReads,
    count_samples,
    memory_of,
    predict_teacher_work,
    shortened,
    step_seconds,
)
from autodistill.distillation.sample_outputs import SampleOutputs
from autodistill.distillation.teacher_cache import TeacherCache
from autodistill.models.taps import Tap

HIDDEN, LOGITS = Tap("0"), Tap("")


def text(length: int, padded: int = 0, samples: int = 4) -> Batch:
    mask = torch.ones(samples, length, dtype=torch.long)
    mask[:, length - padded :] = 0
    return Batch({"input_ids": torch.ones(samples, length, dtype=torch.long), "attention_mask": mask})


class Endless(IterableDataset):
    def __iter__(self):
        yield from torch.arange(8.0)


# --- the data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loader", "count"),
    [
        (DataLoader(torch.arange(10), batch_size=3, shuffle=True), 10),
        (DataLoader(torch.arange(10), batch_size=3, sampler=SubsetRandomSampler([1, 2, 5, 7])), 4),
        ([(torch.zeros(4, 2), None), (torch.zeros(1, 2), None)], 5),
        (DataLoader(Endless(), batch_size=2), None),
        (range(3), None),
    ],
)
def test_samples_of_an_epoch_are_counted_if_the_loader_knows(loader, count) -> None:
    assert count_samples(loader) == count


def test_typical_batch_is_full_and_of_mean_length() -> None:
    batches = [text(2), text(40), text(19), text(20, samples=1)]
    view = DataView(13, batches, recurs=False)
    assert view.sample_elements == pytest.approx((4 * 2 + 4 * 40 + 4 * 19 + 20) / 13)
    assert view.typical is batches[2]


def test_padding_is_a_share_of_all_positions() -> None:
    assert DataView(8, [text(10, padded=4), text(30, padded=0)], recurs=False).padding == pytest.approx(4 / 40)


@pytest.mark.parametrize(
    ("batches", "by_sample", "recurs", "count"),
    [
        (2, True, False, 8),
        (9, True, False, 13),  # later epochs have the same samples
        (9, False, False, 36),  # in other batches
        (9, False, True, 13),  # in the same batches
    ],
)
def test_samples_of_later_epochs_count_again_only_if_they_are_kept_by_batch(batches, by_sample, recurs, count) -> None:
    assert DataView(13, [text(5)], recurs).distinct(batches, by_sample=by_sample) == count


def test_samples_of_unknown_number_all_count() -> None:
    assert DataView(None, [text(5)], recurs=False).distinct(9, by_sample=True) == 36


@pytest.mark.parametrize("shuffled", [True, False])
def test_view_finds_whether_batches_recur_and_looks_at_several_batches_of_texts(shuffled: bool) -> None:
    rows = [{"input_ids": torch.full((length,), length)} for length in range(1, 9)]

    def pad(features):
        width = max(len(row["input_ids"]) for row in features)
        ids = torch.stack([nn.functional.pad(row["input_ids"], (0, width - len(row["input_ids"]))) for row in features])
        return {"input_ids": ids, "attention_mask": (ids > 0).long()}

    loader = DataLoader(rows, 2, shuffle=shuffled, collate_fn=pad)
    stream = DataStream(loader, seed=1)
    view = DataView.of(loader, stream, FlashSet(stream.flash_set(1), TeacherCache(nn.Linear(1, 1))))
    assert view.recurs is not shuffled
    assert len(view.batches) == 4
    assert view.samples == 8


# --- the teacher -----------------------------------------------------------------------------------------------------


def vectors(count: int, size: int = 4) -> list[Batch]:
    generator = torch.Generator().manual_seed(0)
    return [Batch((torch.randn(size, 6, generator=generator), None)) for _ in range(count)]


def make_teacher() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 32), nn.Linear(32, 3))


def make_cache(teacher: nn.Module, folder: Path | None = None) -> TeacherCache:
    outputs = SampleOutputs(None if folder is None else folder / "samples", memory_bytes=2**20)
    return TeacherCache(teacher, folder, outputs=outputs)


def work(cache: TeacherCache, flash: FlashReads, regular: RegularReads, samples: int = 24):
    view = DataView(samples, vectors(3), recurs=False)
    return predict_teacher_work(view, cache, TeacherCache(cache.teacher), flash, regular)


def keep_by_sample(cache: TeacherCache) -> None:
    (first,) = vectors(1)
    cache.keep_by_sample(first, cache.compute(first, [LOGITS]), {LOGITS: None})


def test_teacher_runs_on_the_flash_set_and_on_every_other_sample_that_is_read() -> None:
    cache = make_cache(make_teacher())
    keep_by_sample(cache)
    flash = FlashReads(vectors(3), [HIDDEN])
    assert work(cache, flash, RegularReads(2, [LOGITS])).samples == 12  # the flash set has them
    assert work(cache, flash, RegularReads(5, [LOGITS])).samples == 20
    assert work(cache, flash, RegularReads(50, [LOGITS])).samples == 24
    assert work(cache, FlashReads(), RegularReads(50, [LOGITS])).samples == 24
    assert work(cache, flash, RegularReads()).samples == 12
    assert work(cache, FlashReads(), RegularReads()).samples == 0


def test_outputs_by_batch_are_computed_for_each_batch() -> None:
    cache = TeacherCache(make_teacher())
    predicted = work(cache, FlashReads(vectors(3), [HIDDEN]), RegularReads(50, [LOGITS]))
    assert predicted.samples == 200
    assert predicted.disk_bytes == pytest.approx(3 * (4 * 32 * 4 + HEADER) + 200 * 3 * 4)


def test_predicted_size_is_that_of_the_files(tmp_path: Path) -> None:
    cache = make_cache(make_teacher(), tmp_path)
    keep_by_sample(cache)
    batches = vectors(200, size=16)
    flash = FlashReads(batches[:50], [HIDDEN])
    view = DataView(3200, batches[:50], recurs=False)
    predicted = predict_teacher_work(view, cache, TeacherCache(cache.teacher), flash, RegularReads(200, [LOGITS]))
    cache.expect(batches[:50], [HIDDEN])
    for number, batch in enumerate(batches):
        cache.fill(batch, [HIDDEN] if number < 50 else [], [LOGITS], range(16))
    cache.flush()
    size = sum(path.stat().st_size for path in tmp_path.rglob("*.safetensors"))
    assert predicted.disk_bytes == pytest.approx(size, rel=0.1)
    assert predicted.samples == 3200


def test_what_is_stored_is_not_predicted(tmp_path: Path) -> None:
    teacher = make_teacher()
    cache = make_cache(teacher, tmp_path)
    keep_by_sample(cache)
    for batch in vectors(2):
        cache.fill(batch, [HIDDEN], [LOGITS], range(4))
    cache.flush()
    again = make_cache(teacher, tmp_path)
    keep_by_sample(again)
    predicted = work(again, FlashReads(vectors(3), [HIDDEN]), RegularReads(50, [LOGITS]))
    assert (predicted.samples, predicted.stored_samples) == (16, 8)


def test_start_inside_the_teacher_keeps_further_features_of_the_first_batches() -> None:
    cache = make_cache(make_teacher())
    batches, flash = [text(10, padded=5), text(10), text(10)], FlashReads(vectors(3), [HIDDEN])
    assert [len(FlashReads.first(batches, [LOGITS], count).batches) for count in (0, 1, 20, 21, 60, 999)] == [
        0,
        1,
        1,
        2,
        2,
        3,
    ]
    view, scratch = DataView(24, vectors(3), recurs=False), TeacherCache(cache.teacher)
    start = FlashReads(vectors(2), [HIDDEN, LOGITS])
    sizes = [
        predict_teacher_work(view, cache, scratch, flash, RegularReads(), *more).disk_bytes for more in ([], [start])
    ]
    assert sizes[1] - sizes[0] == 2 * (4 * 3 * 4 + HEADER)  # the hidden states are the same


# --- measuring -------------------------------------------------------------------------------------------------------


def test_time_of_a_step_leaves_out_what_happens_once(monkeypatch) -> None:
    now = [0.0]

    def run(steps: int) -> None:
        now[0] += 7 + 2 * steps

    monkeypatch.setattr(predicted_cost.time, "perf_counter", lambda: now[0])
    assert step_seconds(run, torch.device("cpu")) == 2


def test_memory_has_the_teacher_and_four_times_the_largest_student() -> None:
    teacher, students = nn.Linear(10, 10, bias=False), [nn.Linear(2, 2, bias=False), nn.Linear(5, 5, bias=False)]
    assert memory_of(teacher, students, features=1000) == 400 + 4 * 100 + 1000


def test_measured_stage_is_not_compiled_and_takes_one_batch_a_step() -> None:
    settings = RegularDistillationConfig(train_steps=9, gradient_accumulation_steps=4, compile=True)
    stage = shortened(Stage("whole", ("",), (), (), (), False, 9, settings), 3)
    assert (stage.steps, stage.settings.compile, stage.settings.gradient_accumulation_steps) == (3, False, 1)
    assert settings.compile


def test_elements_are_those_of_the_first_tensor() -> None:
    assert elements_of_inputs(text(5)) == 20
