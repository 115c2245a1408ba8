"""Builds students with the transformers library: an architecture applied to a configuration, and a model class."""

from __future__ import annotations

import contextlib
import copy
import itertools
import json
import logging
import math
import string
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.initialization.from_teacher import start_blocker
from autodistill.models.families import FAMILIES, ConfigFields
from search_spaces import Architecture, Choice, Domain, FloatRange, IntRange, SearchSpace, SearchSpaceError
from search_spaces.checks import did_you_mean
from search_spaces.domains import as_json

logger = logging.getLogger(__name__)


class TransformersBuilder:
    """Builds the student of an architecture: `model_cls` from a copy of a configuration with the architecture's keys.

    Keys are fields of the configuration, or the common names for them (`hidden_size` for GPT-2's `n_embd`), or those of
    a configuration inside it (`vision_config.hidden_size`). Dependent fields are derived: MobileBERT's
    `true_hidden_size`, Llama's `head_dim`, the number of key-value heads if it equals the number of heads, and the
    types of layers if their number changes.

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
            ConfigurationError: a key is no field of the configuration, or a list has no entry for some stage.
        """
        problems = list(self.problems(architecture))
        if problems:
            raise ConfigurationError(problems)
        config = copy.deepcopy(self.base_config)
        if config.dtype is not None and _precision(config.dtype) in (torch.bfloat16, torch.float16):
            config.dtype = torch.float32
        for part in _parts(architecture):
            base, changed = _part(self.base_config, part), _part(config, part)
            _change(base, changed, _of_part(architecture, part))
            problems.extend(_stage_problems(base, changed))
        if problems:
            raise ConfigurationError(problems)
        return config

    def problems(self, names: Sequence[str] | Architecture) -> Iterator[str]:
        """A sentence for each name that is no field of the configuration, and for two names of one field."""
        used: dict[str, str] = {}
        for name in names:
            part, _, short = name.rpartition(".")
            config = _part(self.base_config, part)
            known = _names(self.base_config if config is None else config)
            if config is None or short not in known:
                hint = did_you_mean(short if config is not None else name, known, "see its documentation.")
                kind = type(self.base_config if config is None else config).__name__
                yield f"a dimension must be a field of {kind}, but {name!r} is not; {hint}"
                continue
            other = used.setdefault(f"{part}.{_field(config, short)}", name)
            if other != name:
                yield f"a field may be one dimension, but {other!r} and {name!r} are the same field; leave one out."

    def constraints(self, space: SearchSpace) -> list[str]:
        """The constraints of a space that every buildable architecture satisfies: heads divide the width, and so on."""
        found = []
        for part in _parts(space.names):
            base, dimensions = _part(self.base_config, part), _of_part({name: name for name in space.names}, part)
            listed = {name for name, domain in space.dimensions.items() if _has_lists(domain)}
            for rule in self._rules(base, dimensions):
                names = [name for _, name, *_ in string.Formatter().parse(rule) if name is not None]
                terms = {name: self._term(base, name, dimensions) for name in names}
                if not set(space.names).isdisjoint(terms.values()) and listed.isdisjoint(terms.values()):
                    found.append(rule.format(**terms))
        return found

    def _rules(self, base: Any, dimensions: Mapping[str, str]) -> list[str]:
        """The constraints on the configurations of students: expressions with names of fields in braces."""
        family = _family_fields(base)
        width, heads = family.attention_width(base), "num_attention_heads"
        if not all(isinstance(getattr(base, name, None), int) for name in (width, heads)) or hasattr(base, "d_kv"):
            return []
        rules = [*family.constraints]
        if not _has_own_head_size(base):
            rules.append(f"{{{width}}} % {{{heads}}} == 0")
            if hasattr(base, "rope_parameters"):
                rules.append(f"({{{width}}} // {{{heads}}}) % 2 == 0")
        if _key_value_heads(base) != getattr(base, heads) or "num_key_value_heads" in dimensions:
            rules.append(f"{{{heads}}} % {{num_key_value_heads}} == 0")
        return rules

    def _term(self, base: Any, name: str, dimensions: Mapping[str, str]) -> str:
        """The term for a field in a constraint: the name of its dimension, or the value in the configuration."""
        same = (whole for short, whole in dimensions.items() if _field(base, short) == _field(base, name))
        return next(same, str(getattr(base, name, None)))

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


def _stage_problems(base: Any, config: Any) -> Iterator[str]:
    """A sentence for each list with an entry per stage that has fewer entries than `depths`."""
    depths = getattr(base, "depths", None)
    if not isinstance(depths, list | tuple):
        return
    for field, value in base.to_dict().items():
        if isinstance(value, list | tuple) and len(value) == len(depths) and not field.startswith("out_"):
            now = getattr(config, field, value)
            if isinstance(now, list | tuple) and len(now) < len(config.depths):
                yield (
                    f"{field} must have an entry for each of the {len(config.depths)} stages in depths, but is "
                    f"{list(now)}; make both dimensions, with the constraint 'len(depths) == len({field})'."
                )


def _is_read_only(config: Any, field: str) -> bool:
    attribute = getattr(type(config), field, None)
    return isinstance(attribute, property) and attribute.fset is None


def _precision(dtype: str | torch.dtype) -> torch.dtype:
    found: torch.dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
    return found


def _names(config: Any) -> list[str]:
    """The names by which the fields of a configuration can be searched."""
    described = ("transformers_version", "_name_or_path", "model_type", "architectures")
    fields = [name for name in config.to_dict() if name not in described]
    return [*fields, *config.attribute_map, *_common_names(config)]


def _common_names(config: Any) -> dict[str, str]:
    """The fields of a family's sizes, by their names in most configurations."""
    common = ("num_hidden_layers", "hidden_size", "num_attention_heads", "intermediate_size")
    known = FAMILIES.get(config.model_type)
    return dict(zip(common, known.fields.sizes, strict=True)) if known is not None else {}


def _field(config: Any, name: str) -> str:
    """The field that a name stands for."""
    field: str = (_common_names(config) | config.attribute_map).get(name, name)
    return field


def _family_fields(config: Any) -> ConfigFields:
    known = FAMILIES.get(config.model_type)
    return known.fields if known is not None else ConfigFields()


def _parts(names: Iterable[str]) -> list[str]:
    """The paths of the configurations to which dimensions belong; that of the whole is empty."""
    return list(dict.fromkeys(name.rpartition(".")[0] for name in names))


def _part(config: Any, path: str) -> Any:
    """The configuration inside another at a path; None if there is none."""
    for name in path.split(".") if path else []:
        config = getattr(config, name, None)
    return config if hasattr(config, "attribute_map") else None


def _of_part(values: Mapping[str, Any], path: str) -> dict[str, Any]:
    """The entries whose names belong to the configuration at a path, by the last part of their names."""
    return {name.rpartition(".")[2]: value for name, value in values.items() if name.rpartition(".")[0] == path}


def _has_lists(domain: Domain) -> bool:
    return isinstance(domain, Choice) and any(isinstance(option, tuple) for option in domain.options)


def _change(base: Any, config: Any, settings: Mapping[str, Any]) -> None:
    """Set fields of a copy of `base`, and those that follow from them."""
    changed = {_field(base, name): as_json(value) for name, value in settings.items()}
    for field, value in changed.items():
        setattr(config, field, value)
    derived = {name: value(config) for name, value in _family_fields(base).derived.items()}
    for field, value in (*derived.items(), *_dependent_fields(base, config)):
        if field not in changed:
            setattr(config, field, value)


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
    "num_heads": lambda config: int(config.expand * config.hidden_size) // config.head_dim,
    "mamba_d_head": lambda config: config.mamba_expand * config.hidden_size // config.mamba_n_heads,
}
"""Fields that configurations compute when they are constructed; derived if that of the base has the computed value."""


def _dependent_fields(base: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """The dependent fields, with their values, in the configurations of any family."""
    for field, compute in _COMPUTED.items():
        with contextlib.suppress(AttributeError):  # a family without the field, or without what it is computed from
            if getattr(base, field) == compute(base) and not _is_read_only(base, field):
                yield field, compute(config)
    yield from _backbone_stages(base, config)
    if getattr(base, "num_key_value_heads", None) is not None and _key_value_heads(base) == base.num_attention_heads:
        yield "num_key_value_heads", config.num_attention_heads
    yield from _sizes_of_stages(base, config)
    types = None if _is_read_only(base, "layer_types") else getattr(base, "layer_types", None)
    if types and len(types) == base.num_hidden_layers:
        yield "layer_types", list(itertools.islice(itertools.cycle(types), config.num_hidden_layers))


def _sizes_of_stages(base: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """Further fields that follow from the stages of an image model, where they do so in the base configuration."""
    if not isinstance(getattr(base, "depths", None), list | tuple):
        return

    def values(source: Any) -> Iterator[tuple[str, Any]]:
        stages = len(source.depths)
        yield "num_layers", stages
        yield "num_stages", stages
        if hasattr(source, "embed_dim"):
            yield "hidden_size", int(source.embed_dim * 2 ** (stages - 1))

    for (field, before), (_, after) in zip(values(base), values(config), strict=True):
        if before != after and getattr(base, field, None) == before:
            yield field, after


def _backbone_stages(base: Any, config: Any) -> Iterator[tuple[str, Any]]:
    """The names of all stages of a backbone, the stem first, and of those that it returns, if their number changes."""
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
