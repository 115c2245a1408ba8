"""The configuration of a search: one way in for a dict, a YAML file and typed objects."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator

from autodistill.distillation.settings import FlashDistillationConfig, RegularDistillationConfig, Section
from autodistill.errors import ConfigurationError
from autodistill.metrics import Metric, metric_problems
from search_spaces import SearchSpace


class SearchConfig(Section):
    """What is searched, how, and for what.

    Attributes:
        search_space: a mapping of dimension names to lists or domains, or a `SearchSpace`.
        search_algorithm: 'BO', 'Random', 'Grid', 'TPE', or a name registered by a plug-in.
        metrics: names or `Metric` objects; all that `eval_func` returns may be named, and the built-in ones.
        higher_is_better: one flag for each metric that is given by name; built-in metrics know their direction.
        max_trials: the number of trials of the search directory, over all runs.
        seed: everything random in the search derives from it.
    """

    search_space: SearchSpace
    search_algorithm: str = "BO"
    metrics: tuple[Metric, ...]
    max_trials: int = Field(default=10, ge=1)
    seed: int = Field(default=42, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        problems: list[str] = []
        space = data.get("search_space")
        if isinstance(space, Mapping):
            data["search_space"] = _collect(problems, lambda: SearchSpace(space))
        directions = data.pop("higher_is_better", None)
        if "metrics" in data:
            data["metrics"] = _metrics(data["metrics"], directions, problems)
        if problems:
            raise ValueError("\n".join(problems))
        return data


def _metrics(metrics: Any, directions: Any, problems: list[str]) -> Any:
    """The metrics with the direction that `higher_is_better` gives them."""
    specs = [metrics] if isinstance(metrics, str | Metric | Mapping) else metrics
    if not isinstance(specs, Sequence):
        return metrics
    flags = [directions] * len(specs) if directions is None or isinstance(directions, bool) else list(directions)
    if len(flags) != len(specs):
        problems.append(
            f"higher_is_better must have one entry for each metric, but has {len(flags)} for {len(specs)} metrics."
        )
        flags = [None] * len(specs)
    parsed = [_collect(problems, partial(Metric.of, spec, flag)) for spec, flag in zip(specs, flags, strict=True)]
    known = [metric for metric in parsed if metric is not None]
    problems += [
        f"higher_is_better must agree with a metric's own direction, but is {flag} for {metric}."
        for metric, flag in zip(parsed, flags, strict=True)
        if metric is not None and flag not in (None, metric.greater_is_better)
    ]
    if len(known) == len(parsed):
        problems += metric_problems(known)
    return tuple(parsed)


def _collect(problems: list[str], make: Callable[[], Any]) -> Any:
    try:
        return make()
    except ValueError as error:
        problems.extend(getattr(error, "problems", [str(error)]))
        return None


class AutoDistillationConfig(Section):
    """The whole configuration: the search, and the two phases of the built-in training.

    A phase whose section is absent is skipped; with neither section, both are automatic.

    Attributes:
        search: what is searched, how, and for what.
        flash_distillation: block by block; `"auto"` for the defaults.
        regular_distillation: the whole student, after flash distillation; `"auto"` for the defaults.

    Examples:
        >>> config = AutoDistillationConfig.load({
        ...     "search": {"search_space": {"width": [16, 32]}, "metrics": ["accuracy", "latency"]},
        ...     "regular_distillation": {"train_steps": 200},
        ... })
        >>> config.search.max_trials, config.flash_distillation, config.regular_distillation.train_steps
        (10, None, 200)
    """

    search: SearchConfig
    flash_distillation: FlashDistillationConfig | None = None
    regular_distillation: RegularDistillationConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _automatic(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        phases = ("flash_distillation", "regular_distillation")
        for phase in phases:
            if data.get(phase) == "auto" or all(data.get(other) is None for other in phases):
                data[phase] = {}
        return data

    @classmethod
    def load(cls, source: AutoDistillationConfig | Mapping[str, Any] | str | Path) -> AutoDistillationConfig:
        """The configuration from a mapping, a YAML file, or a configuration.

        Raises:
            ConfigurationError: with every mistake at once.
        """
        if isinstance(source, AutoDistillationConfig):
            return source
        data = _read_yaml(Path(source)) if isinstance(source, str | Path) else source
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise ConfigurationError(list(_sentences(cls, error))) from None


def _read_yaml(path: Path) -> Any:
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"the configuration file {path} must be readable, but: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise ConfigurationError(f"the configuration file {path} must be YAML, but: {error}") from None
    if not isinstance(data, Mapping):
        raise ConfigurationError(f"the configuration file {path} must hold a mapping, but holds {type(data).__name__}.")
    return data


def _sentences(model: type[BaseModel], error: ValidationError) -> list[str]:
    """Each mistake as one sentence that begins with the place it was made in."""
    sentences: list[str] = []
    for item in error.errors(include_url=False):
        place = ".".join(str(part) for part in item["loc"] if not str(part).startswith(("tuple[", "function-")))
        if item["type"] == "extra_forbidden":
            sentences.append(_unknown_key(model, item["loc"]))
        elif item["type"] == "missing":
            sentences.append(f"{place}: is required, but not given.")
        elif item["type"] == "value_error":
            lines = str(item["ctx"]["error"]).splitlines()
            sentences.extend(f"{place}: {line}" if place else line for line in lines)
        else:
            sentences.append(f"{place}: {item['msg']}, but got {item['input']!r}.")
    return sentences


def _unknown_key(model: type[BaseModel], location: tuple[int | str, ...]) -> str:
    for part in location[:-1]:
        annotation = model.model_fields[str(part)].annotation
        model = next(kind for kind in (annotation, *get_args(annotation)) if _is_section(kind))
    key, known = str(location[-1]), list(model.model_fields)
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"the keys here are {', '.join(known)}."
    return f"{'.'.join(map(str, location))}: is not a key of the configuration; {hint}"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
