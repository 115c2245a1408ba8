"""The configuration of a search: one way in for a dict, a YAML file and typed objects."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from advisors import AdvisorError, create_advisor
from autodistill.distillation.settings import Count, FlashDistillationConfig, RegularDistillationConfig, Section
from autodistill.errors import ConfigurationError
from autodistill.initialization.settings import InitializationConfig
from autodistill.metrics import Metric, metric_problems
from search_spaces import SearchSpace, domain_from_json


class SearchConfig(Section):
    """What is searched, how, and for what.

    Attributes:
        search_space: a mapping of dimension names to lists or domains, or a `SearchSpace`. In a file a range is written
            `{low: 2, high: 12, step: 2}` or, with a decimal point, `{low: 0.0, high: 0.3}`.
        constraints: of the space, as expressions; only where `search_space` is a mapping.
        search_algorithm: 'BO', 'Random', 'Grid', 'TPE', 'LocalSearch', 'Evolution', or a name registered by a plug-in.
        metrics: names or `Metric` objects; all that `eval_func` returns may be named, and the built-in ones.
        higher_is_better: one flag for each metric that is given by name; built-in metrics know their direction.
        max_trials: the number of trials of the search directory, over all runs.
        seed: everything random in the search derives from it.
    """

    search_space: SearchSpace
    search_algorithm: str = "BO"
    metrics: tuple[Metric, ...]
    max_trials: Count = 10
    seed: int = Field(default=42, ge=0, strict=True)

    @field_validator("search_algorithm")
    @classmethod
    def _known_algorithm(cls, name: str) -> str:
        try:
            create_advisor(name, SearchSpace({"any": [0]}))
        except AdvisorError as error:
            raise ValueError(str(error)) from None
        return name

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        constraints = data.pop("constraints", None)
        if constraints is not None:
            data["search_space"] = _Constrained(data.get("search_space"), constraints)
        directions = data.pop("higher_is_better", None)
        if "metrics" in data:
            data["metrics"] = _Directed(data["metrics"], directions)
        return data

    @field_validator("search_space", mode="before")
    @classmethod
    def _make_space(cls, space: Any) -> Any:
        constraints: Any = ()
        if isinstance(space, _Constrained):
            space, constraints = space.dimensions, space.constraints
            if not isinstance(space, Mapping):
                raise ValueError("constraints belong to a search_space given as a mapping; a SearchSpace has its own.")
        if not isinstance(space, Mapping):
            return space
        problems: list[str] = []
        dimensions = {name: _collect(problems, partial(_dimension, given)) for name, given in space.items()}
        made = None if problems else _collect(problems, partial(SearchSpace, dimensions, constraints))
        if problems:
            raise ValueError("\n".join(problems))
        return made

    @field_validator("metrics", mode="before")
    @classmethod
    def _make_metrics(cls, given: _Directed) -> Any:
        problems: list[str] = []
        made = _metrics(given.metrics, given.directions, problems)
        if problems:
            raise ValueError("\n".join(problems))
        return made


@dataclass(frozen=True)
class _Constrained:
    """The dimensions of a space as they were given, and the constraints beside them."""

    dimensions: Any
    constraints: Any


def _dimension(given: Any) -> Any:
    """A dimension; a mapping is a range, of floats where one of its bounds is one."""
    if not isinstance(given, Mapping):
        return given
    if "type" in given:
        return domain_from_json(given)
    floats = any(isinstance(given.get(bound), float) for bound in ("low", "high"))
    return domain_from_json({"type": "float_range" if floats else "int_range", **given})


@dataclass(frozen=True)
class _Directed:
    """Metrics as they were given, and `higher_is_better` for them."""

    metrics: Any
    directions: Any


def _metrics(metrics: Any, directions: Any, problems: list[str]) -> Any:
    """The metrics with the direction that `higher_is_better` gives them."""
    specs = [metrics] if isinstance(metrics, str | Metric | Mapping) else metrics
    if not isinstance(specs, list | tuple):
        problems.append(f"metrics must be a list of names, but got {metrics!r}.")
        return metrics
    flags = directions if isinstance(directions, list | tuple) else [directions] * len(specs)
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
        checkpoint_steps: steps of regular distillation between two checkpoints.
        flash_distillation: block by block; `"auto"` for the defaults.
        regular_distillation: the whole student, after flash distillation; `"auto"` for the defaults.
        init: `"teacher"`, or settings of it: students begin with weights from the teacher instead of those that
            `model_builder` gives them.

    Examples:
        >>> config = AutoDistillationConfig.load({
        ...     "search": {"search_space": {"width": [16, 32]}, "metrics": ["accuracy", "latency"]},
        ...     "regular_distillation": {"train_steps": 200},
        ... })
        >>> config.search.max_trials, config.flash_distillation, config.regular_distillation.train_steps
        (10, None, 200)
    """

    search: SearchConfig
    checkpoint_steps: Count = 200
    flash_distillation: FlashDistillationConfig | None = None
    regular_distillation: RegularDistillationConfig | None = None
    init: InitializationConfig | None = None

    @model_validator(mode="before")
    @classmethod
    def _automatic(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        data = dict(data)
        phases = ("flash_distillation", "regular_distillation")
        neither = all(data.get(phase) is None for phase in phases)
        for phase in phases:
            if neither or data.get(phase) == "auto":
                data[phase] = {}
        if data.get("init") == "teacher":
            data["init"] = {}
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

    def starting_from(self, init: Any) -> AutoDistillationConfig:
        """The same with other first weights; None changes nothing.

        Raises:
            ConfigurationError: with every mistake at once.
        """
        if init is None:
            return self
        try:
            settings = InitializationConfig.model_validate({} if init == "teacher" else init)
        except ValidationError as error:
            sentences = [f"init.{sentence}" for sentence in _sentences(InitializationConfig, error)]
            raise ConfigurationError(sentences) from None
        return self.model_copy(update={"init": settings})


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
    for place, section, item in _mistakes(model, error):
        where = ".".join(place) or "the configuration"
        if item["type"] == "extra_forbidden":
            sentences.append(_unknown_key(where, place[-1], list(section.model_fields)))
        elif item["type"] == "missing":
            sentences.append(f"{where}: is required, but not given.")
        elif item["type"] == "value_error":
            sentences.extend(f"{where}: {line}" for line in str(item["ctx"]["error"]).splitlines())
        else:
            sentences.append(f"{where}: {item['msg']}, but got {item['input']!r}.")
    return sentences


_OTHER_KIND = ("tuple_type", "callable_type", "model_type")
"""What pydantic says of the members of a union that the value was never meant for."""


def _mistakes(model: type[BaseModel], error: ValidationError) -> list[tuple[list[str], type[BaseModel], ErrorDetails]]:
    """The mistakes with their place and section; of what the members of a union say, the nearest to the point."""
    mistakes = [(*_place(model, item), item) for item in error.errors(include_url=False)]
    kept: list[tuple[list[str], type[BaseModel], ErrorDetails]] = []
    for place, section, item in mistakes:
        below = [other for other, _, _ in mistakes if len(other) > len(place) and other[: len(place)] == place]
        same = [other for other_place, _, other in mistakes if other_place == place and other is not item]
        better = [other for other in same if other["type"] not in _OTHER_KIND]
        said = any(place == other for other, _, _ in kept) if item["type"] in _OTHER_KIND else False
        if not (below or said or (better and item["type"] in _OTHER_KIND)):
            kept.append((place, section, item))
    return kept


def _place(model: type[BaseModel], item: ErrorDetails) -> tuple[list[str], type[BaseModel]]:
    """Where a mistake was made, without pydantic's names for the members of a union, and the section it lies in."""
    place: list[str] = []
    *parents, last = item["loc"] or ("",)
    for part in parents:
        if part in model.model_fields:
            annotation = model.model_fields[str(part)].annotation
            model = next((kind for kind in (annotation, *get_args(annotation)) if _is_section(kind)), model)
        elif not isinstance(part, int):
            continue
        place.append(str(part))
    if last in model.model_fields or isinstance(last, int) or item["type"] == "extra_forbidden":
        place.append(str(last))
    return place, model


def _unknown_key(where: str, key: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {nearest[0]!r}?" if nearest else f"the keys here are {', '.join(known)}."
    return f"{where}: is not a key of the configuration; {hint}"


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)
