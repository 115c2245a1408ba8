"""Ready-made spaces for families of transformers: students from a quarter of the teacher's size to its full size.

Dimensions have the names of the family's configuration fields, so that an architecture can be applied to a
configuration. `autodistill.models.families` lists the fields that contain the sizes of each family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from autodistill.models.families import FAMILIES, ModelFamily, ModelSizes
from search_spaces import SearchSpace, SearchSpaceError
from search_spaces.checks import did_you_mean

_SHARES = (Fraction(1, 4), Fraction(1, 3), Fraction(1, 2), Fraction(2, 3))
_RATIOS = (2, 4)  # feed-forward width over width, extended to the teacher's ratio if that is outside

FAMILIES_WITH_SIZES = tuple(name for name, family in FAMILIES.items() if family.usual_sizes is not None)
"""The families whose teachers have known sizes, by `config.model_type`."""

FAMILIES_WITH_SPACE = tuple(
    name for name in FAMILIES if name in FAMILIES_WITH_SIZES or FAMILIES[name].space is not None
)
"""The families of students for which `transformers_space` has a space."""


def transformers_space(
    family: str, teacher: Mapping[str, Any] | None = None, *, equal_heads: bool = False
) -> SearchSpace:
    """The space of students of one family, for a teacher of the same or of another family.

    Layers, width and feed-forward width are a quarter, a third, half and two thirds of the teacher's; the number of
    layers may also be the teacher's. The numbers of heads are divisors of the teacher's, down to a quarter of it.
    Attention heads divide the width, and the feed-forward width is two to four times the width, as in the published
    models. The space of MobileBERT does not depend on the teacher.

    Args:
        family: the family of the students, one of `FAMILIES_WITH_SPACE`.
        teacher: the configuration of the teacher (`teacher.config.to_dict()`); by default the family's usual model.
        equal_heads: the heads of all students have the size of the teacher's, so that they are slices of one another
            (`elastic`).

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
        >>> transformers_space("bert", minilm, equal_heads=True).dimensions["num_attention_heads"].values()
        (3, 4, 6, 8)
        >>> transformers_space("mobilebert").size
        576
    """
    students = _known(family, FAMILIES_WITH_SPACE, "exist for")
    if students.space is not None:
        return students.space
    sizes = students.usual_sizes
    if teacher is not None:
        sizes = _sizes(_known(str(teacher.get("model_type")), FAMILIES_WITH_SIZES, "fit teachers of"), teacher)
    assert sizes is not None  # every family without a space has usual sizes
    dimensions, constraints = _dimensions(students, sizes, teacher or {}), _constraints(students, sizes)
    embeddings = (teacher or {}).get("embedding_size", sizes.width)
    if embeddings != sizes.width:  # students would lack the map from their embeddings to their stream
        constraints.append(f"{students.fields.width} != {embeddings}")
    if equal_heads:
        channels = sizes.width // sizes.heads
        width, heads = students.fields.width, students.fields.heads
        dimensions[heads] = [value // channels for value in dimensions[width] if value % channels == 0]
        constraints[0] = f"{width} == {channels} * {heads}"
    return _used(SearchSpace(dimensions, constraints))


def _known(family: str, known: Sequence[str], relation: str) -> ModelFamily:
    if family not in known:
        raise SearchSpaceError(
            f"ready-made spaces {relation} the families {', '.join(known)}, but got {family!r}; "
            f"{did_you_mean(family, known)}; or describe the space yourself"
        )
    return FAMILIES[family]


def _sizes(family: ModelFamily, config: Mapping[str, Any]) -> ModelSizes:
    names = family.fields.sizes
    missing = [name for name in names if name not in config]
    if missing:
        raise SearchSpaceError(f"a teacher's configuration must contain its sizes, but {', '.join(missing)} is missing")
    return ModelSizes(*(config[name] for name in names))


def _dimensions(family: ModelFamily, sizes: ModelSizes, teacher: Mapping[str, Any]) -> dict[str, list[int]]:
    layers, width, heads, feed_forward = family.fields.sizes
    feed_forward_width = sizes.feed_forward or 4 * sizes.width
    dimensions = {
        layers: [*_shares(sizes.layers, 1), sizes.layers],
        width: _shares(sizes.width, _unit(sizes.width)),
        heads: _divisors(sizes.heads),
        feed_forward: _shares(feed_forward_width, _unit(feed_forward_width)),
    }
    groups = family.fields.key_value_heads
    if groups is not None:
        dimensions[groups] = _divisors(teacher.get(groups) or sizes.heads // 4 or 1)
    return {name: sorted({*values}) for name, values in dimensions.items()}


def _constraints(family: ModelFamily, sizes: ModelSizes) -> list[str]:
    _, width, heads, feed_forward = family.fields.sizes
    ratio = Fraction(sizes.feed_forward or 4 * sizes.width, sizes.width)
    low, high = min(_RATIOS[0], int(ratio)), max(_RATIOS[1], -int(-ratio // 1))
    constraints = [f"{width} % {heads} == 0", f"{low} * {width} <= {feed_forward} <= {high} * {width}"]
    if family.weights.rotary:
        constraints[0] = f"{width} % (2 * {heads}) == 0"
    if family.fields.key_value_heads is not None:
        constraints.append(f"{heads} % {family.fields.key_value_heads} == 0")
    return constraints


def _unit(width: int) -> int:
    """Widths are multiples of a power of two, so that many numbers of heads divide them."""
    return max(8, 1 << (width // 16).bit_length() >> 1)


def _shares(size: int, unit: int) -> list[int]:
    """The fractions of a size, rounded to multiples of the unit."""
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
