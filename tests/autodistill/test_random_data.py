"""Random augmentation is found from two readings of the first samples, which change nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from datasets import Dataset as TableDataset
from saved_teachers import make_tokenizer, sentences
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    WeightedRandomSampler,
    get_worker_info,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
)

from autodistill.random_data import is_randomly_augmented

PLAIN = [torch.arange(3.0) + number for number in range(40)]


class Flipped(Dataset):
    """Images, half of which are mirrored as `flips` decides."""

    def __init__(self, flips, size: int = 40) -> None:
        self.flips, self.size = flips, size
        self.read: list[int] = []

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int):
        self.read.append(index)
        image = torch.arange(4.0) + index
        return (image.flip(0) if self.flips(index) else image), index


class OwnGenerator:
    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, index: int) -> bool:
        return bool(torch.rand(1, generator=self.generator) < 0.5)


class DataWithGenerator(Flipped):
    """Flips as a generator of the data set decides."""

    def __init__(self) -> None:
        own = OwnGenerator()
        self.generator = own.generator
        super().__init__(own)


OWN_NUMPY, OWN_PYTHON = np.random.default_rng(0), random.Random(0)
RANDOM_FLIPS = {
    "torch": lambda index: bool(torch.rand(1) < 0.5),
    "numpy": lambda index: np.random.rand() < 0.5,
    "python": lambda index: random.random() < 0.5,
    "own torch generator": OwnGenerator(),
    "own numpy generator": lambda index: OWN_NUMPY.random() < 0.5,
    "own python generator": lambda index: OWN_PYTHON.random() < 0.5,
    "generator seeded as a worker's": lambda index: (
        np.random.default_rng(torch.initial_seed() + index).random() < 0.5  # initial_seed is constant in one pass
    ),
}
FIXED_FLIPS = {
    "none": lambda index: False,
    "by index": lambda index: index % 2 == 0,
    "generator seeded by the index": lambda index: random.Random(index).random() < 0.5,
}


def forms(data: Dataset) -> dict[str, DataLoader]:
    """The same data set in every kind of loader with indices."""
    own = torch.Generator().manual_seed(5)
    return {
        "in order": DataLoader(data, 8),
        "shuffled": DataLoader(data, 8, shuffle=True),
        "own generator": DataLoader(data, 8, shuffle=True, generator=own),
        "one large batch": DataLoader(data, 40, shuffle=True),
        "weighted": DataLoader(data, 8, sampler=WeightedRandomSampler(torch.ones(40), 40, generator=own)),
        "batch sampler": DataLoader(data, batch_sampler=BatchSampler(RandomSampler(data, generator=own), 3, False)),
        "no batching": DataLoader(data, batch_size=None, shuffle=True),
        "subset": DataLoader(Subset(data, range(5, 30)), 8, shuffle=True),
        "concatenated": DataLoader(ConcatDataset([data, data]), 8, shuffle=True),
        "workers": DataLoader(data, 8, shuffle=True, num_workers=2),
        "accelerate": Accelerator(cpu=True).prepare(DataLoader(data, 8, shuffle=True)),
    }


FORMS = list(forms(Flipped(FIXED_FLIPS["none"])))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flips", RANDOM_FLIPS)
def test_random_flips_are_found_in_every_loader(flips: str, form: str) -> None:
    # Each worker process begins with the same copy of a generator that the data set owns.
    repeats = form == "workers" and flips.startswith("own")
    assert is_randomly_augmented(forms(Flipped(RANDOM_FLIPS[flips]))[form]) is not repeats


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("flips", FIXED_FLIPS)
def test_samples_that_are_the_same_in_every_reading_are_not_random(flips: str, form: str) -> None:
    assert is_randomly_augmented(forms(Flipped(FIXED_FLIPS[flips]))[form]) is False


@pytest.mark.parametrize("form", [name for name in FORMS if name != "workers"])
def test_answer_is_the_same_each_time_and_each_sample_is_read_twice(form: str) -> None:
    data = Flipped(FIXED_FLIPS["none"])
    loader = forms(data)[form]
    assert [is_randomly_augmented(loader) for _ in range(3)] == [False] * 3
    reading = len(data.read) // 6
    assert 25 <= reading <= 33  # 25 samples in the subset, 11 batches of 3
    assert data.read == data.read[:reading] * 6


def test_batches_are_those_of_the_batch_sampler_up_to_32_samples() -> None:
    data = Flipped(FIXED_FLIPS["none"])
    for batches, expected in (
        ([[3, 1], [2]], [3, 1, 2]),
        ([range(40)], [*range(32)]),
        ([[*range(20)], [*range(20, 40)], [0]], [*range(40)]),
    ):
        data.read.clear()
        assert is_randomly_augmented(DataLoader(data, batch_sampler=batches)) is False
        assert data.read == expected * 2


def test_samples_without_a_key_in_the_sampler_are_not_read() -> None:
    data = {"a": torch.zeros(2), "b": torch.ones(2), "unreadable": None}
    assert is_randomly_augmented(DataLoader(data, 2, sampler=["a", "b"])) is False
    data = Flipped(FIXED_FLIPS["none"])
    is_randomly_augmented(DataLoader(data, 2, sampler=SubsetRandomSampler([7, 9])))
    assert set(data.read) == {7, 9}


# --- text -------------------------------------------------------------------------------------------------------------


def encoded(transform: bool = False) -> TableDataset:
    tokenizer = make_tokenizer()
    table = TableDataset.from_dict({"text": [" ".join(words) for words in sentences()]})
    if transform:
        return table.with_transform(lambda rows: tokenizer(rows["text"], truncation=True))
    return table.map(lambda rows: tokenizer(rows["text"], truncation=True), batched=True, remove_columns="text")


def masking() -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(make_tokenizer(), mlm=True, mlm_probability=0.15)


def causal() -> DataCollatorForLanguageModeling:
    return DataCollatorForLanguageModeling(make_tokenizer(), mlm=False)


def padding() -> DataCollatorWithPadding:
    return DataCollatorWithPadding(make_tokenizer())


@pytest.mark.parametrize("transform", [False, True], ids=["encoded", "encoded when read"])
@pytest.mark.parametrize(
    ("collator", "expected"),
    [(masking, True), (causal, False), (lambda: DataCollatorWithPadding(make_tokenizer()), False)],
)
def test_collator_that_masks_tokens_is_random_and_one_that_pads_is_not(collator, expected, transform) -> None:
    loader = DataLoader(encoded(transform), 4, shuffle=True, collate_fn=collator())
    assert is_randomly_augmented(loader) is expected


def test_table_whose_transform_is_random_is_found() -> None:
    def augment(rows):
        return {"pixel_values": [torch.full((2,), value) * random.random() for value in rows["value"]]}

    table = TableDataset.from_dict({"value": [1.0, 2.0, 3.0, 4.0]}).with_transform(augment)
    assert is_randomly_augmented(DataLoader(table, 2)) is True


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("collator", "expected"), [(masking, True), (causal, False)])
@pytest.mark.parametrize("sampling", ["random", "group_by_length"])
def test_loader_of_a_trainer(collator, expected, workers, sampling, tmp_path) -> None:
    sizes = {"hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
    arguments = TrainingArguments(
        str(tmp_path), use_cpu=True, report_to=[], dataloader_num_workers=workers, train_sampling_strategy=sampling
    )
    model = BertForMaskedLM(BertConfig(vocab_size=26, **sizes))
    loader = Trainer(model, arguments, data_collator=collator(), train_dataset=encoded()).get_train_dataloader()
    assert is_randomly_augmented(loader) is expected
    assert is_randomly_augmented(loader.base_dataloader) is expected


# --- what cannot be known ---------------------------------------------------------------------------------------------


class Stream(IterableDataset):
    def __iter__(self):
        return iter(PLAIN)


class Batches:
    def __iter__(self):
        return iter(PLAIN)


class AugmentingLoader(DataLoader):
    """Adds noise after collating."""

    def __iter__(self):
        return (batch + torch.rand(1) for batch in super().__iter__())


@pytest.mark.parametrize("batches", [PLAIN, tuple(PLAIN), []], ids=["list", "tuple", "empty"])
def test_lists_of_batches_are_not_random(batches) -> None:
    assert is_randomly_augmented(batches) is False


def test_empty_data_set_is_not_random() -> None:
    assert is_randomly_augmented(DataLoader(Flipped(RANDOM_FLIPS["torch"], size=0), 4)) is False


@pytest.mark.parametrize(
    "loader",
    [Batches(), DataLoader(Stream(), 4), AugmentingLoader(Flipped(FIXED_FLIPS["none"]), 4), torch.zeros(3, 2)],
    ids=["iterable", "iterable data set", "loader with its own iteration", "tensor"],
)
def test_other_iterables_are_not_known_and_not_read(loader) -> None:
    assert is_randomly_augmented(loader) is None


class NeedsWorker(Dataset):
    """Can be read in a worker process only, as one that opens a file there; the first worker reads all."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.tensor(get_worker_info().id * 100 + index)


@pytest.mark.parametrize("workers", [1, 2])
def test_data_set_that_can_be_read_only_in_workers_is_read_by_one(workers: int) -> None:
    assert is_randomly_augmented(DataLoader(NeedsWorker(), 4, num_workers=workers)) is False


def test_sample_that_cannot_be_read_is_not_known() -> None:
    assert is_randomly_augmented(DataLoader(NeedsWorker(), 4)) is None


# --- states -----------------------------------------------------------------------------------------------------------


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(1))


def seed_all() -> None:
    random.seed(3), np.random.seed(3), torch.manual_seed(3)


class Broken(Flipped):
    def __getitem__(self, index: int):
        draws()
        raise OSError("no such image")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("data", [Flipped(lambda index: draws()[0] < 0.5), Broken(None)], ids=["random", "broken"])
def test_random_states_continue_as_if_nothing_had_been_read(data, form) -> None:
    loader = forms(data)[form]
    seed_all()
    expected = [draws(), draws()]
    seed_all()
    assert is_randomly_augmented(loader) is (None if isinstance(data, Broken) else True)
    assert [draws(), draws()] == expected


@pytest.mark.parametrize("form", [name for name in FORMS if name not in ("workers", "accelerate")])
@pytest.mark.parametrize("collated", [False, True], ids=["of the data set", "of the collator"])
def test_next_pass_of_a_loader_with_generators_is_as_if_nothing_had_been_read(form, collated) -> None:
    def one_pass(checks: int):
        data = Flipped(FIXED_FLIPS["none"]) if collated else DataWithGenerator()
        loader = forms(data)[form]
        if collated:
            loader.collate_fn = Noise()
        seed_all()
        assert [is_randomly_augmented(loader) for _ in range(checks)] == [True] * checks
        return [torch.as_tensor(batch[0]) for batch in loader]

    for checked, unchecked in zip(one_pass(2), one_pass(0), strict=True):
        assert torch.equal(checked, unchecked)


class Noise:
    """A collator that adds noise of its own generator."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)

    def __call__(self, samples):
        images = [samples[0]] if isinstance(samples, tuple) else [image for image, _ in samples]
        images = torch.stack(images)
        return images + torch.rand(images.shape, generator=self.generator), 0


def test_shared_parts_and_data_sets_that_hold_themselves_are_visited_once() -> None:
    data = DataWithGenerator()
    data.dataset, data.datasets = data, [data, data]
    loader = DataLoader(data, 8, sampler=SequentialSampler(data), generator=data.generator)
    before = data.generator.get_state()
    assert is_randomly_augmented(loader) is True
    assert torch.equal(data.generator.get_state(), before)
