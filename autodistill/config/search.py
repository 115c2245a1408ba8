"""The section `search`: the space, the algorithm and the metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Annotated, Any

from pydantic import Field, field_validator, model_serializer, model_validator

from advisors import AdvisorError, registered_name
from autodistill.config.section import Count, Section
from autodistill.metrics.metric import Metric, metric_problems
from search_spaces import Choice, SearchSpace, domain_from_json


class SearchConfig(Section):
    """The space, the algorithm and the metrics of a search.

    Attributes:
        search_space: a mapping of dimension names to lists or domains, or a `SearchSpace`. In a file a range is written
            `{low: 2, high: 12, step: 2}` or, with a decimal point, `{low: 0.0, high: 0.3}`.
        constraints: of the space, as expressions; only if `search_space` is a mapping.
        search_algorithm: 'BO', 'LocalSearch', 'Evolution', 'Random', 'Grid', 'TPE', or a name registered by a plug-in.
        metrics: names or `Metric` objects: those that `eval_func` returns, and the built-in ones. If none are given,
            they are what `eval_func` returns for an untrained student; without `eval_func`, a trainer adds its own.
        higher_is_better: one flag for each metric that is given by name; built-in metrics have a direction.
        max_trials: the number of trials of the search directory, over all runs; None for every architecture of the
            space. The search ends before, with a warning, if no architecture is left.
        promote: the share of trials that are trained to the end, between 0 and 1, as a number or `"1/3"`: every trial
            is evaluated after flash distillation, and the best go on to regular distillation. None finishes all.
        seed: everything random in the search derives from it. None chooses one when the search starts; it is recorded
            in the search directory, and used again when the search is resumed.
    """

    search_space: SearchSpace
    search_algorithm: str = "BO"
    metrics: tuple[Metric, ...] = ()
    max_trials: Count | None = 10
    promote: float | None = None
    seed: Annotated[int, Field(ge=0, strict=True)] | None = 42

    @model_serializer(mode="plain")
    def _plain(self) -> dict[str, Any]:
        """The form in a file; a constraint that is a function is written by its name."""
        space = self.search_space.to_json()
        given = {name: getattr(self, name) for name in ("search_algorithm", "max_trials", "promote", "seed")}
        return {
            "search_space": {
                name: domain.to_json()["options"] if isinstance(domain, Choice) else domain.to_json()
                for name, domain in self.search_space.dimensions.items()
            },
            **({"constraints": space["constraints"]} if space["constraints"] else {}),
            **({"metrics": [_plain_metric(metric) for metric in self.metrics]} if self.metrics else {}),
            **{name: value for name, value in given.items() if name in self.model_fields_set},
        }

    @field_validator("search_algorithm")
    @classmethod
    def _known_algorithm(cls, name: str) -> str:
        try:
            registered_name(name)
        except AdvisorError as error:
            raise ValueError(str(error)) from None
        return name

    @field_validator("promote", mode="before")
    @classmethod
    def _is_a_share(cls, value: Any) -> Any:
        try:
            share = None if value is None or isinstance(value, bool) else _share(value)
        except (TypeError, ValueError, OverflowError, ZeroDivisionError):
            share = None
        if value is not None and (share is None or not 0 < share < 1):
            raise ValueError(f"must be a share of the trials between 0 and 1, such as 1/3, but got {value!r}.")
        return share

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
        elif directions is not None:
            raise ValueError("higher_is_better belongs to metrics, but none are given.")
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


def _share(value: Any) -> float:
    try:
        return float(value)  # not by Fraction: that of "1e999999999" has a billion digits
    except ValueError:
        return float(Fraction(value))


def _plain_metric(metric: Metric) -> Any:
    return metric.name if metric == Metric(metric.name) else metric.to_json()


@dataclass(frozen=True)
class _Constrained:
    """The dimensions of a space and its constraints, as configured."""

    dimensions: Any
    constraints: Any


def _dimension(given: Any) -> Any:
    """A dimension; a mapping is a range, of floats if one of its bounds is a float."""
    if not isinstance(given, Mapping):
        return given
    if "type" in given:
        return domain_from_json(given)
    floats = any(isinstance(given.get(bound), float) for bound in ("low", "high"))
    return domain_from_json({"type": "float_range" if floats else "int_range", **given})


@dataclass(frozen=True)
class _Directed:
    """Metrics and their `higher_is_better`, as configured."""

    metrics: Any
    directions: Any


def _metrics(metrics: Any, directions: Any, problems: list[str]) -> Any:
    """The metrics with their directions from `higher_is_better`."""
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
