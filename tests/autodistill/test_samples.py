"""A sample has the same key in every batch, and no other sample has it."""

from __future__ import annotations

import random
from collections import namedtuple

import pytest
import torch
from transformers import BatchEncoding

from autodistill.batch import Batch
from autodistill.samples import Padding, cut_padding, sample_keys, take_samples

PAD, SEGMENTS = 7, "token_type_ids"


def text(length: int, seed: int = 0) -> list[int]:
    generator = random.Random(f"{length} {seed}")
    return [generator.randint(1, 90) for _ in range(length)]


def padded(sequences: list[list[int]], width: int, value: int) -> torch.Tensor:
    return torch.tensor([sequence + [value] * (width - len(sequence)) for sequence in sequences])


def collated(
    texts: list[list[int]], width: int | None = None, targets: list[list[int]] | None = None, *, segments: bool = True
) -> dict[str, torch.Tensor]:
    """Texts as a collator pads them, with the labels of as many tokens or of a decoder."""
    width = width or max(map(len, texts))
    content = {
        "input_ids": padded(texts, width, PAD),
        "attention_mask": padded([[1] * len(tokens) for tokens in texts], width, 0),
    }
    if segments:
        content[SEGMENTS] = padded([[token % 2 for token in tokens] for tokens in texts], width, 0)
    if targets is not None:
        content["labels"] = padded(targets, max(map(len, targets)) + width % 2, -100)
    return content


TEXTS = [text(length, seed) for seed, length in enumerate((4, 9, 1, 6, 6, 3))]


@pytest.mark.parametrize("segments", [False, True])
@pytest.mark.parametrize("labels", [None, "of tokens", "of a decoder"])
def test_a_sample_has_one_key_in_batches_of_other_sizes_lengths_and_orders(segments: bool, labels: str | None) -> None:
    targets = {None: None, "of tokens": TEXTS, "of a decoder": [text(length, 9) for length in (2, 5, 5, 1, 7, 3)]}[
        labels
    ]

    def keys(indices, width=None):
        chosen = None if targets is None else [targets[index] for index in indices]
        return sample_keys(collated([TEXTS[index] for index in indices], width, chosen, segments=segments))

    reference = keys(range(6))
    assert len(set(reference)) == 6
    assert all(isinstance(key, bytes) and len(key) == 16 for key in reference)
    for indices in ([5, 3, 1, 0, 2, 4], [2], [0, 2, 5], [4, 4, 1], [3]):
        for width in (None, 12, 31):
            assert keys(indices, width) == tuple(reference[index] for index in indices)


@pytest.mark.parametrize("has_mask", [False, True])
def test_inputs_of_a_decoder_are_as_long_as_its_mask_or_its_labels(has_mask: bool) -> None:
    targets = [text(2), text(5), text(3)]
    content = collated(TEXTS[:3], None, targets) | {"decoder_input_ids": padded(targets, 9, 0)}
    content["labels"] = padded(targets, 9, -100)
    if has_mask:
        content["decoder_attention_mask"] = padded([[1] * len(tokens) for tokens in targets], 9, 0)
    shorter = {
        name: tensor[:1, : 2 if "decoder" in name or name == "labels" else None] for name, tensor in content.items()
    }
    assert sample_keys(shorter) == sample_keys(content)[:1]
    others = shorter | {"decoder_input_ids": shorter["decoder_input_ids"] + 1}
    assert sample_keys(others) != sample_keys(shorter)
    wide = {name: tensor for name, tensor in content.items() if "decoder" in name or name == "labels"}
    assert {tensor.shape[1] for tensor in cut_padding(wide).values()} == {5}


def test_inputs_of_a_decoder_without_labels_count_in_full() -> None:
    content = collated(TEXTS[:3], 9) | {"decoder_input_ids": torch.ones(3, 9)}
    other = content | {"decoder_input_ids": torch.ones(3, 9).index_fill(1, torch.tensor([8]), 2)}
    assert not set(sample_keys(content)) & set(sample_keys(other))
    assert cut_padding(content)["decoder_input_ids"].shape == (3, 9)


def changed(content: dict, name: str, value) -> dict:
    other = {key: tensor.clone() for key, tensor in content.items()}
    other[name][1, 2] = value
    return other


def renamed(content: dict) -> dict:
    return {("position_ids" if name == SEGMENTS else name): tensor for name, tensor in content.items()}


def padded_at_the_start(content: dict, count: int) -> dict:
    return {name: torch.nn.functional.pad(tensor, (count, 0)) for name, tensor in content.items()}


CONTENT = collated(TEXTS, None, TEXTS)


@pytest.mark.parametrize(
    "other",
    [
        changed(CONTENT, "input_ids", 91),
        changed(CONTENT, "attention_mask", 0),
        changed(CONTENT, SEGMENTS, 5),
        changed(CONTENT, "labels", -100),
        changed(CONTENT, "labels", 91),
        padded_at_the_start(CONTENT, 1),
        {name: tensor.int() for name, tensor in CONTENT.items()},
        CONTENT | {"attention_mask": CONTENT["attention_mask"].bool()},
        renamed(CONTENT),
        CONTENT | {"output_attentions": True},
        CONTENT | {"position_ids": torch.zeros(6, 9)},
        {name: tensor for name, tensor in CONTENT.items() if name != SEGMENTS},
    ],
    ids=[
        "token",
        "mask inside",
        "segment",
        "ignored label",
        "label",
        "padding at the start",
        "types",
        "type of the mask",
        "name",
        "an argument",
        "one tensor more",
        "one less",
    ],
)
def test_whatever_is_changed_in_a_sample_changes_its_key(other: dict) -> None:
    assert sample_keys(other)[1] != sample_keys(CONTENT)[1]


def test_a_change_in_one_sample_leaves_the_keys_of_the_others() -> None:
    before, after = sample_keys(CONTENT), sample_keys(changed(CONTENT, "input_ids", 91))
    assert [left == right for left, right in zip(before, after, strict=True)] == [True, False, True, True, True, True]


def test_the_length_of_padding_at_the_start_counts() -> None:
    keys = [sample_keys(padded_at_the_start(CONTENT, count))[0] for count in range(4)]
    assert len(set(keys)) == 4


def test_random_samples_have_equal_keys_if_and_only_if_their_content_is_equal() -> None:
    generator, found = random.Random(0), {}
    for _ in range(150):
        count = generator.randint(1, 5)
        texts = [[generator.randint(0, 1) for _ in range(generator.randint(1, 4))] for _ in range(count)]
        masks = [[*(generator.randint(0, 1) for _ in tokens[1:]), 1] for tokens in texts]
        labels = [[generator.randint(0, 1) for _ in range(generator.randint(1, 3))] for _ in range(count)]
        scores = torch.tensor([[float(generator.randint(0, 1)) for _ in range(2)] for _ in range(count)])
        width = max(map(len, texts)) + generator.randint(0, 3)
        content = {
            "input_ids": padded(texts, width, generator.randint(0, 1)),
            "attention_mask": padded(masks, width, 0),
            "labels": padded(labels, 3 + generator.randint(0, 3), -100),
            "pixel_values": scores[:, None, None],
        }
        samples = zip(texts, masks, labels, scores.tolist(), strict=True)
        for key, sample in zip(sample_keys(content), map(repr, samples), strict=True):
            assert found.setdefault(key, sample) == sample
    assert len(set(found.values())) == len(found) > 200


def test_an_entry_that_is_as_long_as_the_text_by_chance_counts_in_full() -> None:
    tokens = {"input_ids": torch.tensor([[3, 4, 0]]), "attention_mask": torch.tensor([[1, 1, 0]])}
    images = torch.zeros(1, 3, 2, 2)
    other = images.clone()
    other[0, 2] = 1  # a channel, not a position
    assert sample_keys(tokens | {"pixel_values": images}) != sample_keys(tokens | {"pixel_values": other})
    assert cut_padding(tokens | {"pixel_values": images})["pixel_values"].shape == images.shape
    numbers = [tokens | {"numbers": torch.tensor([[1.0, 2.0, last]])} for last in (0.0, 3.0, 4.0)]
    assert len({sample_keys(inputs) for inputs in numbers}) == 3


def test_real_numbers_that_are_padded_by_zeros_have_one_key() -> None:
    sound = {"input_values": torch.tensor([[0.5, 0.0, 0.0, 0.0]]), "attention_mask": torch.tensor([[1, 1, 0, 0]])}
    shorter = {name: tensor[:, :3] for name, tensor in sound.items()}
    vectors = {name: tensor.float()[..., None].expand(1, -1, 2) for name, tensor in sound.items()}
    assert sample_keys(shorter) == sample_keys(sound)
    for inputs in (sound, sound | {"input_values": vectors["input_values"]}):
        assert sample_keys(cut_padding(inputs)) == sample_keys(inputs)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"use_cache": True},
        torch.tensor(1.0),
        torch.zeros(0, 3),
        {"x": torch.zeros(2, 3), "scale": torch.tensor(2.0)},
        {"x": torch.zeros(2, 3), "y": torch.zeros(3, 3)},
    ],
    ids=["nothing", "no tensor", "a number", "no sample", "a number besides", "two sizes"],
)
def test_without_an_axis_of_samples_there_are_no_keys(inputs) -> None:
    assert sample_keys(inputs) is None


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, torch.float16, torch.bool, torch.float64, torch.int8, torch.complex64], ids=str
)
def test_every_type_has_keys_by_its_bits(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[0, 1, 1], [0, 1, 0], [0, 1, 1]]).to(dtype)
    first, second, third = sample_keys({"x": tensor})
    assert first == third != second


def test_layout_in_memory_does_not_count_and_shapes_do() -> None:
    tensor = torch.arange(24.0).reshape(2, 3, 4)
    apart = tensor.transpose(1, 2).contiguous().transpose(1, 2)
    assert not apart.is_contiguous()
    assert sample_keys(apart) == sample_keys(tensor)
    assert sample_keys(tensor[::1].expand(2, 3, 4)) == sample_keys(tensor)
    assert sample_keys(tensor.flatten(1)) != sample_keys(tensor)
    assert sample_keys(tensor.transpose(1, 2)) != sample_keys(tensor)
    assert sample_keys(tensor.requires_grad_()) == sample_keys(tensor.detach())
    empty = sample_keys(torch.zeros(2, 0))
    assert empty[0] == empty[1] != sample_keys(torch.zeros(1, 0, 2))[0]
    assert len(sample_keys(torch.tensor([3, 4]))) == 2  # (N,)


def test_order_of_a_mapping_and_its_class_do_not_count() -> None:
    content = collated(TEXTS[:2])
    assert sample_keys(dict(reversed(content.items()))) == sample_keys(content)
    assert sample_keys(BatchEncoding(content)) == sample_keys(content)


def test_nested_inputs_have_keys_by_all_their_parts() -> None:
    Images = namedtuple("Images", ["left", "right"])
    left, right = torch.arange(6.0).reshape(3, 2), torch.ones(3, 2)
    nested = [
        {"a": {"b": (left, [right])}},
        {"a": {"b": (right, [left])}},
        {"a": (left, right)},
        Images(left, right),
        [left, right],
    ]
    found = [sample_keys(inputs) for inputs in nested]
    assert found[0] != found[1]
    for inputs, keys in zip(nested, found, strict=True):
        assert sample_keys(take_samples(inputs, [2, 0])) == (keys[2], keys[0])
        assert len(set(keys)) == 3
    masked = [{"a": {"tokens": torch.tensor([[1, last]])}, "attention_mask": torch.tensor([[1, 0]])} for last in (8, 9)]
    assert [len(keys) for keys in map(sample_keys, masked)] == [1, 1]


def test_the_targets_of_a_pair_do_not_count_and_those_of_a_mapping_do() -> None:
    x = torch.arange(6.0).reshape(3, 2)
    assert Batch((x, torch.zeros(3))).sample_keys == Batch((x, torch.ones(3))).sample_keys == Batch(x).sample_keys
    keys = [Batch({"x": x, "labels": torch.tensor(labels)}).sample_keys for labels in ([0, 1, 2], [0, 1, 1])]
    assert [left == right for left, right in zip(*keys, strict=True)] == [True, True, False]
    answers = [Batch({"x": x, "labels": torch.tensor([[0.0, last]] * 3)}).sample_keys for last in (-100.0, 1.0)]
    assert not set(answers[0]) & set(answers[1])  # real numbers are no padding


@pytest.mark.parametrize(
    ("mask", "lengths"),
    [
        ([[1, 1, 0], [1, 1, 1]], (2, 3)),
        ([[0, 1, 1], [0, 0, 1]], (3, 3)),
        ([[1, 0, 1], [0, 1, 0]], (3, 2)),
        ([[0, 0, 0], [1, 0, 0]], (0, 1)),
        ([[1], [0]], (1, 0)),
    ],
)
def test_padding_begins_after_the_last_position_that_counts(mask, lengths) -> None:
    for dtype in (torch.long, torch.bool, torch.float32):
        found = Padding.of({"attention_mask": torch.tensor(mask).to(dtype)}, "inputs")
        assert found == Padding(lengths, len(mask[0]))


def test_padding_is_unknown_without_a_mask_of_positions() -> None:
    for inputs in ({}, torch.ones(2, 3), {"attention_mask": torch.ones(2, 1, 3, 3)}, {"attention_mask": None}):
        assert Padding.of(inputs, "inputs") is None
    for labels in (torch.ones(2), torch.ones(2, 3), torch.ones(2, 3, 4).long(), None):
        assert Padding.of({"labels": labels}, "targets") is None
    both = {"labels": torch.tensor([[1, -100]]), "decoder_attention_mask": torch.tensor([[1, 1, 0]])}
    assert Padding.of(both, "targets") == Padding((2,), 3)
    assert Padding.of({"label": torch.tensor([[1, -100]])}, "targets") == Padding((1,), 2)


def test_cut_batch_has_the_same_keys_and_no_common_padding() -> None:
    content = collated(TEXTS[2:4], 30, [text(2), text(4)])
    cut = cut_padding(content)
    assert {name: tensor.shape[1] for name, tensor in cut.items()} == {
        "input_ids": 6,
        "attention_mask": 6,
        SEGMENTS: 6,
        "labels": 4,
    }
    assert sample_keys(cut) == sample_keys(content)
    nothing = {"input_ids": torch.ones(2, 3), "attention_mask": torch.zeros(2, 3)}
    assert cut_padding(nothing)["input_ids"].shape == (2, 1)
    pair = (torch.ones(2, 3), torch.ones(2))
    assert cut_padding(pair) is pair


def test_labels_are_cut_as_their_tokens_are_of_which_the_last_ones_may_have_none() -> None:
    content = collated(TEXTS[2:4], 9) | {"labels": padded([[-100], text(3)], 9, -100)}
    assert {tensor.shape for tensor in cut_padding(content).values()} == {(2, 6)}


@pytest.mark.parametrize("known", [False, True])
def test_keys_of_some_samples_are_theirs_whether_those_of_the_batch_are_known(known: bool) -> None:
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 0, 0]])
    batch = Batch({"input_ids": torch.arange(9).reshape(3, 3) * mask, "attention_mask": mask})
    if known:
        assert batch.sample_keys is not None
    part = batch.take([2, 0])
    assert part.sample_keys == sample_keys(part.content)
