"""Attention heads: selecting those that a student keeps, and resizing them to fewer or more channels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from autodistill.models.families import HeadSizes


@dataclass(frozen=True)
class HeadGroup:
    """The source of one key-value head of the student: the teacher's key-value head, and the heads that read it."""

    key_value_head: int
    heads: tuple[int, ...]


def choose_heads(
    importance: torch.Tensor, teacher: HeadSizes, student: HeadSizes, *, ordered: bool = False
) -> list[HeadGroup]:
    """The teacher's heads that a student keeps, in the teacher's order; at most as many as the student has.

    The heads of each of the teacher's key-value heads are grouped, the strongest first. The size of a group is the
    number of heads per key-value head of the student. The strongest groups are kept.

    Args:
        importance: the importance of each of the teacher's heads, (teacher heads,).
        teacher: the head sizes of the teacher.
        student: the head sizes of the student.
        ordered: the strongest come first, instead of the teacher's order.

    Examples:
        >>> choose_heads(torch.tensor([1.0, 9.0, 3.0, 4.0]), HeadSizes(4, 4, 8), HeadSizes(2, 2, 8))
        [HeadGroup(key_value_head=1, heads=(1,)), HeadGroup(key_value_head=3, heads=(3,))]
        >>> choose_heads(torch.tensor([1.0, 9.0, 3.0, 4.0]), HeadSizes(4, 2, 8), HeadSizes(2, 1, 8))
        [HeadGroup(key_value_head=0, heads=(0, 1))]
    """
    per_group, size = teacher.heads // teacher.key_value_heads, student.heads // student.key_value_heads
    groups = []
    for key_value_head in range(teacher.key_value_heads):
        members = list(range(key_value_head * per_group, (key_value_head + 1) * per_group))
        members.sort(key=lambda head: (-float(importance[head]), head))
        groups += [
            HeadGroup(key_value_head, tuple(_in_order(members[start : start + size], ordered)))
            for start in range(0, per_group, size)
        ]
    groups.sort(key=lambda group: (-float(importance[list(group.heads)].sum()), group.heads))
    chosen = groups[: student.key_value_heads]
    return chosen if ordered else sorted(chosen, key=lambda group: (group.key_value_head, group.heads))


def _in_order(heads: list[int], ordered: bool) -> list[int]:
    return heads if ordered else sorted(heads)


def strongest(importance: torch.Tensor, count: int, *, ordered: bool = False) -> torch.Tensor:
    """The indices of the `count` largest entries (all entries if there are fewer), in ascending order.

    Args:
        importance: the entries.
        count: how many are kept.
        ordered: the indices of the largest entries come first, instead of the smallest indices.

    Examples:
        >>> strongest(torch.tensor([1.0, 5.0, 3.0]), 2), strongest(torch.tensor([1.0, 3.0, 5.0]), 2, ordered=True)
        (tensor([1, 2]), tensor([2, 1]))
    """
    kept = torch.argsort(importance, descending=True, stable=True)[:count]
    return kept if ordered else kept.sort().values


def narrow(left: torch.Tensor, right: torch.Tensor, channels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (channels, k) of the two sides of the product leftᵀ right that approximate it with fewer channels.

    The leading singular directions of the product are kept; the singular values are divided evenly between the sides.

    Args:
        left: (k, m).
        right: (k, n).
        channels: the number of channels of the student's head, at most k.

    Examples:
        >>> left, right = torch.randn(4, 6).double(), torch.randn(4, 5).double()
        >>> to_left, to_right = narrow(left, right, 4)
        >>> torch.allclose((to_left @ left).T @ (to_right @ right), left.T @ right)
        True
    """
    left_core = torch.linalg.qr(left.T).R
    right_core = torch.linalg.qr(right.T).R
    u, values, vh = torch.linalg.svd(left_core @ right_core.T)
    root = values[:channels].clamp(min=values[0] * 1e-12 + 1e-300).rsqrt()[:, None]
    return root * (vh[:channels] @ right_core), root * (u[:, :channels].T @ left_core)


def rotary_pairs(teacher: int, student: int) -> torch.Tensor:
    """A selection (student channels, teacher channels): each rotary pair of the smaller head has the nearest frequency.

    The pair (i, i + k/2) of a head of k channels rotates with frequency θ^(-2i/k).
    """
    small, large = sorted((teacher // 2, student // 2))
    nearest = torch.round(torch.arange(small) * (large / small)).long().clamp(max=large - 1)
    select = torch.zeros(2 * small, 2 * large, dtype=torch.float64)
    rows = torch.arange(small)
    select[rows, nearest] = 1.0
    select[rows + small, nearest + large] = 1.0
    return select if student <= teacher else select.T


def widen(teacher: int, student: int) -> torch.Tensor:
    """A selection (student channels, teacher channels) with the teacher's channels first."""
    return torch.eye(student, teacher, dtype=torch.float64)


def query_key_maps(
    queries: Sequence[torch.Tensor], key: torch.Tensor, channels: int, *, rotary: bool, ordered: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (channels, k) of the queries and of the key of one key-value head.

    Args:
        queries: the queries of the heads that read it, (k, d) each.
        key: the key, (k, d).
        channels: the number of channels of a head of the student.
        rotary: whether channels rotate in pairs, so that only whole pairs can be kept.
        ordered: heads of the teacher's size are turned too, so that their first channels are the leading directions.
    """
    size = len(key)
    if channels == size and (rotary or not ordered):
        return torch.eye(size, dtype=torch.float64), torch.eye(size, dtype=torch.float64)
    if rotary:
        pairs = rotary_pairs(size, channels)
        return pairs, pairs
    if channels > size:
        return widen(size, channels), widen(size, channels)
    return narrow(torch.cat(list(queries), dim=1), key, channels)


def value_output_maps(
    outputs: Sequence[torch.Tensor], value: torch.Tensor, channels: int, *, ordered: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Maps (channels, k) of the outputs and of the value of one key-value head; the outputs are (d, k) each.

    For `ordered`, see `query_key_maps`.
    """
    size = len(value)
    if channels > size or (channels == size and not ordered):
        return widen(size, channels), widen(size, channels)
    return narrow(torch.cat([output.T for output in outputs], dim=1), value, channels)
