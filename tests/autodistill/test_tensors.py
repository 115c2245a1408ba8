"""Nested structures of tensors: mapped, compared to the bit, and hashed by content."""

from __future__ import annotations

import itertools
from collections import OrderedDict, namedtuple
from collections.abc import Iterator, Mapping

import numpy as np
import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput
from transformers.tokenization_utils_base import BatchEncoding

from autodistill.tensors import content_hash, identical, map_leaves, map_tensors, nbytes, nodes, tensors_in, to_device

Pair = namedtuple("Pair", ["left", "right"])
NAN = float("nan")


class OwnMapping(Mapping):
    """A mapping that is no dictionary, as users write them."""

    def __init__(self, content: dict) -> None:
        self._content = content

    def __getitem__(self, key: str) -> object:
        return self._content[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._content)

    def __len__(self) -> int:
        return len(self._content)


@pytest.mark.parametrize(
    "structure",
    [
        (torch.ones(2), [torch.ones(3)]),
        {"a": torch.ones(2), "b": (None, "text", 3)},
        OrderedDict(a=torch.ones(2)),
        Pair(torch.ones(2), 1),
        BaseModelOutput(last_hidden_state=torch.ones(2), hidden_states=(torch.ones(1), torch.ones(1))),
        BatchEncoding({"input_ids": torch.ones(2)}),
        OwnMapping({"a": torch.ones(2), "b": [torch.ones(2)]}),
    ],
    ids=lambda structure: type(structure).__name__,
)
def test_every_tensor_is_mapped_and_the_types_stay(structure) -> None:
    doubled = map_tensors(lambda tensor: 2 * tensor, structure)
    assert type(doubled) is type(structure)
    assert all(bool((tensor == 2).all()) for tensor in tensors_in(doubled))
    assert len(list(tensors_in(doubled))) == len(list(tensors_in(structure))) >= 1
    assert identical(map_tensors(lambda tensor: tensor / 2, doubled), map_tensors(torch.clone, structure))


def test_leaves_of_a_class_are_mapped_and_all_others_stay() -> None:
    structure = {"b": [1, "text"], "a": Pair(2.5, torch.Size([3, 4]))}
    mapped = map_leaves(lambda number: 10 * number, structure, int)
    assert mapped == {"b": [10, "text"], "a": Pair(2.5, torch.Size([30, 40]))}
    assert list(mapped) == ["b", "a"]
    assert type(mapped["a"].right) is torch.Size


def test_nodes_are_listed_with_containers_before_their_elements() -> None:
    structure = {"b": [1, ()], "a": BatchEncoding({"ids": None})}
    assert nodes(structure) == [structure, [1, ()], 1, (), {"ids": None}, None]


def test_bytes_are_those_of_all_tensors() -> None:
    assert nbytes((torch.zeros(3, dtype=torch.float64), {"a": torch.zeros(2, 2, dtype=torch.int8)}, "text")) == 28


def test_structure_moves_to_a_device_with_all_its_tensors() -> None:
    moved = to_device({"a": torch.ones(1), "b": [torch.ones(1), 2]}, torch.device("meta"))
    assert [tensor.device.type for tensor in tensors_in(moved)] == ["meta", "meta"]
    assert moved["b"][1] == 2


# --- comparison ------------------------------------------------------------------------------------------------------

SAME = [
    (torch.tensor([1.0, NAN]), torch.tensor([1.0, NAN])),
    (torch.tensor(NAN), torch.tensor(NAN)),
    ({"a": (torch.ones(2), None)}, {"a": (torch.ones(2), None)}),
    (torch.zeros(0, 3), torch.zeros(0, 3)),
    (torch.arange(6).reshape(2, 3).t(), torch.arange(6).reshape(2, 3).t().contiguous()),
    (torch.ones(2, dtype=torch.complex64).conj(), torch.ones(2, dtype=torch.complex64).conj()),
    (torch.tensor([True, False]), torch.tensor([True, False])),
    (None, None),
    ((1, "a"), (1, "a")),
    ((np.array([1.0, NAN]), "a"), (np.array([1.0, NAN]), "a")),
    (np.array(["a", {"b": 1}], dtype=object), np.array(["a", {"b": 1}], dtype=object)),
]
DIFFERENT = [
    (torch.tensor([0.0]), torch.tensor([-0.0])),
    (torch.ones(2), torch.ones(2, dtype=torch.float64)),
    (torch.ones(2), torch.ones(2, 1)),
    (torch.ones(2), torch.ones(2).numpy()),
    (torch.ones(2), None),
    ({"a": np.arange(2)}, {"a": np.arange(2) + 1}),
    (np.arange(2), np.arange(2).reshape(1, 2)),
    (np.zeros(2, np.float32), np.zeros(2, np.int32)),
    (np.array([0.0]), np.array([-0.0])),
    (np.array(["a", {}]), np.array(["b", {}])),
    ((torch.ones(2),), [torch.ones(2)]),
    ((torch.ones(2),), (torch.ones(2), torch.ones(2))),
    ({"a": 1}, {"b": 1}),
    ({"a": torch.ones(2)}, {"a": torch.ones(2) + 1e-7}),
    (torch.tensor([1.0]), torch.tensor([1.0 + 2**-23])),
    (1, True),
    ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
]


@pytest.mark.parametrize(("left", "right"), SAME)
def test_equal_structures_are_identical_and_nan_equals_itself(left, right) -> None:
    assert identical(left, right)
    assert content_hash(left) == content_hash(right)


@pytest.mark.parametrize(("left", "right"), DIFFERENT)
def test_structures_that_differ_in_a_bit_or_a_type_are_not_identical(left, right) -> None:
    assert not identical(left, right)
    assert not identical(right, left)


# --- hashing ---------------------------------------------------------------------------------------------------------


def test_hash_changes_with_value_dtype_shape_key_order_and_nesting() -> None:
    ones = torch.ones(2, 3)
    variants = [
        ones,
        ones + 1e-7,
        ones.double(),
        ones.reshape(3, 2),
        ones.int(),
        ones[:1],
        -0.0 * ones,
        0.0 * ones,
        {"a": ones},
        {"b": ones},
        {"a": ones, "b": ones},
        {"a": (ones, ones)},
        (ones,),
        ((ones,),),
        (ones, ones),
        ("a",),
        (1,),
        ("1",),
        (True,),
        (1.0,),
        (None,),
        ("a", "b"),
        ("ab",),
        (),
        {},
        np.ones((2, 3)),
        np.ones((3, 2)),
    ]
    hashes = [content_hash(variant) for variant in variants]
    assert len(set(hashes)) == len(variants)


def test_hash_sees_every_element_of_a_long_array() -> None:
    arrays = [np.zeros(5000) for _ in range(2)]
    arrays[1][2500] = 1
    assert content_hash(arrays[0]) != content_hash(arrays[1])
    assert content_hash(arrays[0]) == content_hash(np.zeros(5000))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.bool])
def test_hash_reads_tensors_of_every_type_and_layout(dtype: torch.dtype) -> None:
    tensor = torch.tensor([[1, 0, 1], [0, 0, 1]]).to(dtype)
    copies = [tensor.clone(), tensor.t().contiguous().t(), torch.stack([tensor, tensor], dim=2)[:, :, 1]]
    assert {content_hash(copy) for copy in copies} == {content_hash(tensor)}
    flipped = tensor.clone()
    flipped[0, 1] = 1
    assert content_hash(flipped) != content_hash(tensor)


def test_hash_ignores_gradients_and_is_the_same_in_every_process() -> None:
    tensor = torch.arange(3.0)
    assert content_hash(tensor) == content_hash(tensor.clone().requires_grad_())
    assert content_hash({"a": (tensor, None, 2)}) == "6215845ce1dcc4389ddf21bf8b343759"


ROWS = torch.arange(6.0).reshape(2, 3)


@pytest.mark.parametrize(
    ("structure", "expected"),
    [
        (ROWS, "1d6ed7b8db07b17aaac6bba6623521da"),
        (ROWS.bfloat16(), "9a16592cc634f0338aaaa65bb93bd9c4"),
        ((ROWS, None, True, 1.5), "7b9239da236355581465e42d6a4c5dd8"),
        ([ROWS, [1, "a"]], "471bdbb4bcbe0841d0c2dfcaf342048b"),
        ({"b": ROWS, "a": (ROWS.int(),)}, "2746573ad8d5cd19fc3a7a510d9290f7"),
        (OrderedDict(z=1, y=ROWS), "23d1023ba600b94494ca862fa921d258"),
        (Pair(ROWS, {"k": 2}), "fdc0547e9a59b80856873de62ba14628"),
        (BaseModelOutput(last_hidden_state=ROWS, hidden_states=(ROWS, ROWS)), "433c5bf7f576d367d433b5e0b6cf3217"),
        (
            BatchEncoding({"input_ids": ROWS.long(), "attention_mask": ROWS.bool()}),
            "4cbf3dddb37c0d887eb50dc1cd87c784",
        ),
        (torch.Size([2, 3]), "814019ecd670d8ba7e0dc2108a63422b"),
        (np.arange(4, dtype=np.float32), "c1b6b1805c712ee34ef1c22797f94535"),
        ({1: 2, "1": 2}, "b7001d15663e9c66e7f2a9bbe9c52328"),
        (((), [], {}), "878f8ec35360fb2e73ecdbe775eb5cff"),
        ((torch.float32, torch.device("cpu")), "c1ea70e657e0f74954ef802d3a0aabf3"),
        ("text", "a573fc42372611bf15c2aaf6622f56f4"),
    ],
)
def test_hash_stays_the_one_that_is_on_disk(structure: object, expected: str) -> None:
    assert content_hash(structure) == expected


def test_hashes_of_random_tensors_never_collide() -> None:
    generator = torch.Generator().manual_seed(0)
    tensors = [torch.randn(4, generator=generator) for _ in range(200)]
    for left, right in itertools.combinations([content_hash(tensor) for tensor in tensors], 2):
        assert left != right
