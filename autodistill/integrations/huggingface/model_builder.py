"""Builds students with the transformers library: an architecture applied to a configuration, and a model class."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import logging
import math
import string
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import start_blocker
from autodistill.models.families import FAMILIES, ConfigFields
from search_spaces import Architecture, FloatRange, IntRange, SearchSpace, SearchSpaceError
from search_spaces.checks import did_you_mean

logger = logging.getLogger(__name__)


class TransformersBuilder:
    """Builds the student of an architecture: `model_cls` from a copy of a configuration with the architecture's keys.

    Keys are fields of the configuration, or its common names for them (`hidden_size` for GPT-2's `n_embd`). Dependent
    fields are derived: MobileBERT's `true_hidden_size`, Llama's `head_dim`, the number of key-value heads if it equals
    the number of heads, and the types of layers if their number changes.

    Students have float32 weights if those of the configuration are bfloat16 or float16: small updates of such weights
    are lost in rounding. A dimension `dtype` sets another precision.

    Args:
        model_cls: an auto class (`AutoModelForPreTraining`) or a model class (`BertForMaskedLM`).
        base_config: the configuration of a student; it is not changed.

    Raises:
        ConfigurationError: `model_cls` builds no models from such a configuration.

    Examples:
        >>> from transformers import AutoModel, BertConfig
        >>> base = BertConfig(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)
        >>> builder = TransformersBuilder(AutoModel, base)
        >>> builder({"hidden_size": 4}).config.hidden_size, base.hidden_size
        (4, 8)
        >>> builder.constraints(SearchSpace({"hidden_size": [4, 6], "num_attention_heads": [2, 4]}))
        ['hidden_size % num_attention_heads == 0']
    """

    def __init__(self, model_cls: Any, base_config: Any) -> None:
        self.model_cls = model_cls
        self.base_config = base_config
        if not hasattr(base_config, "to_dict") or not hasattr(base_config, "model_type"):
            raise ConfigurationError(
                "the built-in model builder changes a configuration of the transformers library, but got "
                f"{type(base_config).__name__}; pass your own model_builder."
            )
        problem = self._class_problem()
        if problem is not None:
            raise ConfigurationError(problem)

    def __call__(self, architecture: Architecture) -> nn.Module:
        """The student, with random weights."""
        config = self.config(architecture)
        make = self.model_cls.from_config if self._is_auto else self.model_cls
        student: nn.Module = make(config)
        return student if config.dtype is None else student.to(_precision(config.dtype))

    @property
    def _is_auto(self) -> bool:
        return hasattr(self.model_cls, "from_config")

    def _class_problem(self) -> str | None:
        name, kind = getattr(self.model_cls, "__name__", repr(self.model_cls)), type(self.base_config)
        mapping = getattr(self.model_cls, "_model_mapping", None)
        if self._is_auto and mapping is not None:
            if kind in mapping:
                return None
            return (
                f"model_cls must build models from the student's configuration, but {name} does not support "
                f"{kind.__name__}."
            )
        config_class = getattr(self.model_cls, "config_class", None)
        is_model = isinstance(self.model_cls, type) and issubclass(self.model_cls, nn.Module)
        if not is_model or config_class is None:
            return (
                "model_cls must be a class of the transformers library such as AutoModelForPreTraining, "
                f"but got {name}; pass such a class, or a model_builder."
            )
        if not isinstance(self.base_config, config_class):
            return (
                f"model_cls must build models from the student's configuration, but {name} takes a "
                f"{config_class.__name__} and the configuration is a {kind.__name__}."
            )
        return None

    def config(self, architecture: Architecture) -> Any:
        """The configuration of a student.

        Raises:
            ConfigurationError: a key is no field of the configuration.
        """
        problems = list(self.problems(architecture))
        if problems:
            raise ConfigurationError(problems)
        base, config = self.base_config, copy.deepcopy(self.base_config)
        if config.dtype is not None and _precision(config.dtype) in (torch.bfloat16, torch.float16):
            config.dtype = torch.float32
        for key, value in architecture.items():
            setattr(config, key, value)
        searched = {self._field(key) for key in architecture}
        derived = {name: value(config) for name, value in self._family_fields.derived.items()}
        for field, value in (*derived.items(), *_following(base, config)):
            if field not in searched:
                setattr(config, field, value)
        return config

    def problems(self, names: Sequence[str] | Architecture) -> Iterator[str]:
        """A sentence for each name that is no field of the configuration, with the nearest fields."""
        known = [*self._fields, *self.base_config.attribute_map]
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known, "see its documentation.")
                yield (f"a dimension must be a field of {type(self.base_config).__name__}, but {name!r} is not; {hint}")

    @property
    def _fields(self) -> list[str]:
        described = ("transformers_version", "_name_or_path", "model_type", "architectures")
        return [name for name in self.base_config.to_dict() if name not in described]

    def _field(self, name: str) -> str:
        field: str = self.base_config.attribute_map.get(name, name)
        return field

    @property
    def _family_fields(self) -> ConfigFields:
        known = FAMILIES.get(self.base_config.model_type)
        return known.fields if known is not None else ConfigFields()

    def constraints(self, space: SearchSpace) -> list[str]:
        """The constraints of a space that every buildable architecture satisfies: heads divide the width, and so on."""
        found = []
        for rule in self._rules(space):
            names = [name for _, name, *_ in string.Formatter().parse(rule) if name is not None]
            terms = {name: self._term(name, space) for name in names}
            if not set(space.names).isdisjoint(terms.values()):
                found.append(rule.format(**terms))
        return found

    def _rules(self, space: SearchSpace) -> list[str]:
        """The constraints on the configurations of students: expressions with names of fields in braces."""
        base, family = self.base_config, self._family_fields
        width, heads = family.attention_width(base), "num_attention_heads"
        if not hasattr(base, width) or not hasattr(base, heads) or hasattr(base, "d_kv"):
            return []
        rules = [*family.constraints]
        if not _has_own_head_size(base):
            rules.append(f"{{{width}}} % {{{heads}}} == 0")
            if hasattr(base, "rope_parameters"):
                rules.append(f"({{{width}}} // {{{heads}}}) % 2 == 0")
        if _key_value_heads(base) != getattr(base, heads) or "num_key_value_heads" in space.names:
            rules.append(f"{{{heads}}} % {{num_key_value_heads}} == 0")
        return rules

    def _term(self, name: str, space: SearchSpace) -> str:
        """The term for a field in a constraint: the name of its dimension, or the value in the configuration."""
        same = (dimension for dimension in space.names if self._field(dimension) == self._field(name))
        return next(same, str(getattr(self.base_config, name, None)))

    def feasible(self, space: SearchSpace) -> SearchSpace:
        """The space without the architectures that cannot be built; logs what is left out.

        Raises:
            ConfigurationError: a dimension is no field of the configuration.
            SearchSpaceError: no architecture is left.
        """
        problems = list(self.problems(space.names))
        if problems:
            raise ConfigurationError(problems)
        new = [rule for rule in self.constraints(space) if rule not in space.constraints]
        narrowed = SearchSpace(dict(space.dimensions), [*space.constraints, *new]) if new else space
        narrowed.ensure_feasible()
        if not new or narrowed.size == space.size:
            return space
        left_out = f"{space.size - narrowed.size} of {space.size}" if space.size and narrowed.size else "some"
        logger.warning("%s architectures cannot be built and are left out: they break %s", left_out, " and ".join(new))
        return narrowed

    def start_blocker(self, teacher: nn.Module, space: SearchSpace) -> str | None:
        """The reason why students of a space cannot start inside a teacher; None if they can."""
        if self.base_config.model_type not in FAMILIES:
            return f"no table names the weights of a {self.base_config.model_type}"
        for architecture in _varied(space):
            try:
                with torch.device("meta"):
                    student = self(architecture)
            except Exception:  # failed builds are reported elsewhere
                continue
            reason = start_blocker(student, teacher)
            if reason is not None:
                return f"of {dict(architecture)}: {reason}"
        return None

    def to_json(self) -> dict[str, Any]:
        """A description of the students, with which a resumed search is compared."""
        config = json.loads(self.base_config.to_json_string(use_diff=False))
        described = ("transformers_version", "_name_or_path", "architectures")
        return {
            "model_cls": getattr(self.model_cls, "__name__", repr(self.model_cls)),
            "config": {key: value for key, value in config.items() if key not in described},
            "attention": getattr(self.base_config, "_attn_implementation", None),
        }


def _stages(base: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """The names of a backbone's stages, the stem first, and those that it returns, if their number changes."""
    names = getattr(base, "stage_names", None)
    if names is None:
        return
    before, now = (
        len(fields.depths) if hasattr(fields, "depths") else fields.num_hidden_layers for fields in (base, config)
    )
    if before == now or len(names) != before + 1:
        return
    stages = [*names[:1], *(f"stage{number}" for number in range(1, now + 1))]
    # The last stage stays the last; the others keep their share of the depth.
    chosen = sorted({math.ceil(index % len(names) * now / before) for index in base.out_indices})
    yield "stage_names", stages
    yield "_out_features", [stages[index] for index in chosen]
    yield "_out_indices", chosen


def _is_read_only(config: Any, field: str) -> bool:
    attribute = getattr(type(config), field, None)
    return isinstance(attribute, property) and attribute.fset is None


def _precision(dtype: str | torch.dtype) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return found


def _varied(space: SearchSpace) -> Iterator[Architecture]:
    """For each value of each dimension (both ends of a range), an architecture of the space that has this value."""
    for name, domain in space.dimensions.items():
        for value in (domain.low, domain.high) if isinstance(domain, IntRange | FloatRange) else domain.values():
            with contextlib.suppress(SearchSpaceError):  # no architecture has it
                part = SearchSpace({**space.dimensions, name: [value]}, space.constraints)
                yield part.sample(np.random.default_rng(0))


def _key_value_heads(config: Any) -> int:
    heads: int = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return heads


def _has_own_head_size(config: Any) -> bool:
    """Whether the channels per head are configured independently of the width and the number of heads."""
    size = getattr(config, "head_dim", None)
    return size is not None and size != config.hidden_size // config.num_attention_heads


_COMPUTED: Mapping[str, Callable[[Any], int]] = {
    "head_dim": lambda config: config.hidden_size // config.num_attention_heads,
    "d_head": lambda config: config.hidden_size // config.num_attention_heads,
    "intermediate_size": lambda config: int(config.expand * config.hidden_size),
    "time_step_rank": lambda config: math.ceil(config.hidden_size / 16),
    "mamba_d_head": lambda config: config.mamba_expand * config.hidden_size // config.mamba_n_heads,
}
"""Fields that configurations compute when they are constructed; each follows if the base's has the computed value."""


def _following(base: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """The dependent fields, with their values, in the configurations of any family."""
    for field, compute in _COMPUTED.items():
        with contextlib.suppress(AttributeError):  # a family without the field, or without what it is computed from
            if getattr(base, field) == compute(base):
                yield field, compute(config)
    yield from _stages(base, config)
    if getattr(base, "num_key_value_heads", None) is not None and _key_value_heads(base) == base.num_attention_heads:
        yield "num_key_value_heads", config.num_attention_heads
    types = None if _is_read_only(base, "layer_types") else getattr(base, "layer_types", None)
    if types and len(types) == base.num_hidden_layers:
        yield "layer_types", list(itertools.islice(itertools.cycle(types), config.num_hidden_layers))
