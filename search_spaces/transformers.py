"""Ready-made spaces for families of transformers: students of a quarter of the teacher's size up to all of it.

Dimensions have the names of the family's configuration fields, so that an architecture is the set of changes to a
student's configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from search_spaces.checks import did_you_mean
from search_spaces.errors import SearchSpaceError
from search_spaces.space import SearchSpace

_SHARES = (Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(2, 3))
_RATIOS = (2, 4)  # of the feed-forward width to the width, unless the teacher's is outside


@dataclass(frozen=True)
class _Sizes:
    """The size of a model; the feed-forward width is None if it follows from the width."""

    layers: int
    width: int
    heads: int
    feed_forward: int | None


@dataclass(frozen=True)
class _Family:
    """The names of a family's sizes, and the sizes of its usual model.

    Args:
        fields: the configuration fields of layers, width, heads and feed-forward width.
        base: the sizes of the usual model.
        rotary: position embeddings rotate pairs of channels, so a head has an even number of them; there may be fewer
            key and value heads (`num_key_value_heads`) than query heads.
    """

    fields: tuple[str, str, str, str]
    base: _Sizes
    rotary: bool = False

    def sizes(self, config: Mapping[str, Any]) -> _Sizes:
        missing = [field for field in self.fields if field not in config]
        if missing:
            raise SearchSpaceError(
                f"a teacher's configuration must contain its sizes, but {', '.join(missing)} is missing"
            )
        return _Sizes(*(config[field] for field in self.fields))


_BERT = _Family(
    ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size"), _Sizes(12, 768, 12, 3072)
)
_LLAMA = _Family(_BERT.fields, _Sizes(16, 2048, 32, 8192), rotary=True)

_FAMILIES: Mapping[str, _Family] = {
    "bert": _BERT,
    "roberta": _BERT,
    "xlm-roberta": _BERT,
    "distilbert": _Family(("n_layers", "dim", "n_heads", "hidden_dim"), _Sizes(6, 768, 12, 3072)),
    "vit": _BERT,
    "gpt2": _Family(("n_layer", "n_embd", "n_head", "n_inner"), _Sizes(12, 768, 12, None)),
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
}

_MOBILEBERT = SearchSpace(
    {
        "hidden_size": [128, 246, 384, 512],
        "intra_bottleneck_size": [64, 96, 128, 160],
        "num_attention_heads": [1, 2, 4, 8],
        "intermediate_size": [384, 512, 640],
        "num_feedforward_networks": [2, 4, 6],
    },
    constraints=["intra_bottleneck_size % num_attention_heads == 0"],
)

FAMILIES: tuple[str, ...] = ("mobilebert", *_FAMILIES)
"""The families that `transformers_space` knows, as `config.model_type` names them."""


def transformers_space(family: str, teacher: Mapping[str, Any] | None = None) -> SearchSpace:
    """The space of students of one family, for a teacher of the same or of another family.

    Layers, width and feed-forward width are a quarter, a third, half and two thirds of the teacher's; the number of
    layers may also be the teacher's. The numbers of heads are divisors of the teacher's, down to a quarter of it.
    Attention heads divide the width, and the feed-forward width is two to four times the width, as in the published
    models. For MobileBERT the space is that of the specification, whatever the teacher.

    Args:
        family: of the students, one of `FAMILIES`.
        teacher: its configuration (`teacher.config.to_dict()`); by default that of the family's usual model.

    Raises:
        SearchSpaceError: the family of the students or of the teacher is not known, or the teacher's sizes leave no
            architecture.

    Examples:
        >>> space = transformers_space("bert")
        >>> space.dimensions["hidden_size"].values(), space.dimensions["num_hidden_layers"].values()
        ((192, 256, 384, 512), (3, 4, 6, 8, 12))
        >>> minilm = {"model_type": "bert", "num_hidden_layers": 6, "hidden_size": 384, "num_attention_heads": 12,
        ...           "intermediate_size": 1536}
        >>> transformers_space("distilbert", minilm).dimensions["dim"].values()
        (96, 128, 192, 256)
        >>> transformers_space("mobilebert").size
        576
    """
    if family == "mobilebert":
        return _MOBILEBERT
    known = _known(family)
    sizes = known.base if teacher is None else _known(str(teacher.get("model_type"))).sizes(teacher)
    return _used(SearchSpace(_dimensions(known, sizes, teacher or {}), _constraints(known, sizes)))


def _known(family: str) -> _Family:
    if family not in _FAMILIES:
        raise SearchSpaceError(
            f"ready-made spaces exist for the families {', '.join(FAMILIES)}, but got {family!r}; "
            f"{did_you_mean(family, FAMILIES)}; or describe the space yourself"
        )
    return _FAMILIES[family]


def _dimensions(family: _Family, sizes: _Sizes, teacher: Mapping[str, Any]) -> dict[str, list[int]]:
    layers, width, heads, feed_forward = family.fields
    feed_forward_width = sizes.feed_forward or 4 * sizes.width
    dimensions = {
        layers: [*_shares(sizes.layers, 1), sizes.layers],
        width: _shares(sizes.width, _unit(sizes.width)),
        heads: _divisors(sizes.heads),
        feed_forward: _shares(feed_forward_width, _unit(feed_forward_width)),
    }
    if family.rotary:
        dimensions["num_key_value_heads"] = _divisors(teacher.get("num_key_value_heads") or sizes.heads // 4 or 1)
    return {name: sorted({*values}) for name, values in dimensions.items()}


def _constraints(family: _Family, sizes: _Sizes) -> list[str]:
    _, width, heads, feed_forward = family.fields
    ratio = Fraction(sizes.feed_forward or 4 * sizes.width, sizes.width)
    low, high = min(_RATIOS[0], int(ratio)), max(_RATIOS[1], -int(-ratio // 1))
    constraints = [f"{width} % {heads} == 0", f"{low} * {width} <= {feed_forward} <= {high} * {width}"]
    if family.rotary:
        constraints[0] = f"{width} % (2 * {heads}) == 0"
        constraints.append(f"{heads} % num_key_value_heads == 0")
    return constraints


def _unit(width: int) -> int:
    """Widths are multiples of a power of two, so that many numbers of heads divide them."""
    return max(8, 1 << (width // 16).bit_length() >> 1)


def _shares(size: int, unit: int) -> list[int]:
    """The shares of a size, rounded to whole units."""
    return [max(1, round(share * size / unit)) * unit for share in _SHARES]


def _divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0 and 4 * divisor >= number]


def _used(space: SearchSpace) -> SearchSpace:
    """The space without the values that its constraints exclude from every architecture."""
    space.ensure_feasible()
    values: dict[str, Sequence[Any]] = {
        name: sorted({architecture[name] for architecture in space.enumerate()}) for name in space.names
    }
    return SearchSpace(values, space.constraints)
