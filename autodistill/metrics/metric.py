"""Metrics that a search optimises and reports, with their direction and bounds."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from autodistill.errors import ConfigurationError, NonFiniteError, TrialError
from autodistill.metrics.built_in import BUILT_IN

_DIRECTIONS = {name: metric.greater_is_better for name, metric in BUILT_IN.items()} | {"eval_loss": False}


_BY_NAME: Any = None  # `greater_is_better` follows from the name; replaced in `Metric.__post_init__`


@dataclasses.dataclass(frozen=True)
class Metric:
    """One number that measures how good a student is.

    Args:
        name: a key of the mapping that `eval_func` returns, or a built-in metric, such as latency or parameters.
        greater_is_better: by default True, except for `eval_loss` and for built-in metrics, whose direction is known.
        at_most: a student above it is not feasible: it is never the best.
        at_least: a student below it is not feasible.
        measured: the metric is recorded and reported and its bounds apply, but it is not a goal of the search and the
            advisor does not receive it. With timed metrics marked this way, a search is reproducible.
        before_training: its bounds are checked on the built, untrained student, so that one that breaks them costs no
            trial. Only for built-in metrics with a bound: the others need a trained student.

    Raises:
        ConfigurationError: the direction contradicts that of a built-in metric, no value can keep the bounds, or
            `before_training` is set without a bound.

    Examples:
        >>> latency = Metric("latency", at_most=5)
        >>> latency.greater_is_better, latency.loss(4.0), latency.violations(7.0)
        (False, 4.0, (2.0,))
        >>> Metric("accuracy").loss(0.9)
        -0.9
    """

    name: str
    greater_is_better: bool = _BY_NAME
    at_most: float | None = None
    at_least: float | None = None
    measured: bool = False
    before_training: bool = False

    def __post_init__(self) -> None:
        if self.greater_is_better is _BY_NAME:
            object.__setattr__(self, "greater_is_better", _DIRECTIONS.get(self.name, True))
        problems = self._problems()
        if problems:
            raise ConfigurationError(problems)

    def _problems(self) -> list[str]:
        problems = []
        if not isinstance(self.name, str) or not self.name:
            return [f"a metric's name must be a non-empty string, but got {self.name!r}."]
        for flag in ("greater_is_better", "measured", "before_training"):
            if not isinstance(getattr(self, flag), bool):
                problems.append(
                    f"{flag} of metric {self.name!r} must be True or False, but got {getattr(self, flag)!r}."
                )
        if self.name in BUILT_IN and BUILT_IN[self.name].greater_is_better is not self.greater_is_better:
            better = "greater" if BUILT_IN[self.name].greater_is_better else "less"
            problems.append(f"for the built-in metric {self.name!r} {better} is better; leave greater_is_better out.")
        if self.before_training is True and self.name not in BUILT_IN:
            problems.append(
                f"before_training is for what can be measured on an untrained student ({', '.join(BUILT_IN)}), but "
                f"metric {self.name!r} has it; leave it out."
            )
        if self.before_training is True and self.at_most is None and self.at_least is None:
            problems.append(
                f"before_training of metric {self.name!r} needs a bound to check; set at_most or at_least, or "
                "leave it out."
            )
        bounds = {"at_most": self.at_most, "at_least": self.at_least}
        for bound, value in bounds.items():
            if value is not None and not is_finite_number(value):
                problems.append(f"{bound} of metric {self.name!r} must be a finite number, but got {value!r}.")
        if not problems and self.at_most is not None and self.at_least is not None and self.at_least > self.at_most:
            problems.append(
                f"metric {self.name!r} needs at_least <= at_most, but got at_least={self.at_least} and "
                f"at_most={self.at_most}."
            )
        return problems

    @classmethod
    def of(cls, spec: str | Mapping[str, Any] | Metric, greater_is_better: bool | None = None) -> Metric:
        """A metric from its name or from a mapping of the arguments above; a metric is returned as it is.

        Args:
            spec: a name, a mapping or a metric.
            greater_is_better: for a name, its direction; None for the known or default one.

        Raises:
            ConfigurationError: `spec` is none of these, or a mapping with an unknown key.

        Examples:
            >>> Metric.of("parameters").greater_is_better
            False
            >>> Metric.of({"name": "error", "greater_is_better": False}).loss(0.1)
            0.1
        """
        if isinstance(spec, Metric):
            return spec
        if isinstance(spec, str):
            return cls(spec) if greater_is_better is None else cls(spec, greater_is_better)
        keys = [field.name for field in dataclasses.fields(cls)]
        if not isinstance(spec, Mapping) or "name" not in spec or not set(spec) <= set(keys):
            raise ConfigurationError(
                f"a metric is a name or a mapping with the keys {', '.join(keys)}, but got {spec!r}."
            )
        return cls(**spec)

    def to_json(self) -> dict[str, Any]:
        """The mapping that `Metric.of` turns into an equal metric."""
        return dataclasses.asdict(self)

    def loss(self, value: float) -> float:
        """The value, with its sign changed if greater is better: less is always better."""
        return -value if self.greater_is_better else value

    def violations(self, value: float) -> tuple[float, ...]:
        """By how much each bound is broken, in the metric's unit; zero or less if it is kept."""
        above = () if self.at_most is None else (value - self.at_most,)
        below = () if self.at_least is None else (self.at_least - value,)
        return above + below


def losses(metrics: Sequence[Metric], values: Mapping[str, float]) -> tuple[float, ...]:
    """The loss of every metric that is a goal (not `measured`), in order.

    Examples:
        >>> losses([Metric("accuracy"), Metric("latency", measured=True)], {"accuracy": 0.9, "latency": 3.0})
        (-0.9,)
    """
    return tuple(metric.loss(values[metric.name]) for metric in metrics if not metric.measured)


def violations(metrics: Sequence[Metric], values: Mapping[str, float]) -> tuple[float, ...]:
    """The violations of every bound of the metrics, in order.

    Examples:
        >>> metrics = [Metric("accuracy", at_least=0.5), Metric("latency", at_most=2)]
        >>> violations(metrics, {"accuracy": 1.0, "latency": 3.0})
        (-0.5, 1.0)
    """
    return tuple(violation for metric in metrics for violation in metric.violations(values[metric.name]))


def metric_problems(metrics: Sequence[Metric]) -> list[str]:
    """The problems of a list of metrics as a whole, one sentence each; empty if there are none.

    Examples:
        >>> metric_problems([Metric("latency", measured=True)])
        ['at least one metric must be a goal of the search, but every one is marked measured=True.']
    """
    names = [metric.name for metric in metrics]
    repeated = sorted({name for name in names if names.count(name) > 1})
    problems = [f"metrics must have different names, but {name!r} is given twice." for name in repeated]
    if not metrics:
        problems.append("at least one metric must be given, but got none.")
    elif all(metric.measured for metric in metrics):
        problems.append("at least one metric must be a goal of the search, but every one is marked measured=True.")
    return problems


_WORDS_OF_LOSSES = frozenset(
    {
        "loss",
        "error",
        "err",
        "perplexity",
        "ppl",
        "mse",
        "rmse",
        "mae",
        "mape",
        "nll",
        "bpc",
        "bpb",
        "wer",
        "cer",
        "fid",
        "eer",
        "brier",
    }
)
"""In the name of a metric, these mean that less is better."""


def with_limits(metrics: Iterable[Metric], limits: Mapping[str, float]) -> tuple[Metric, ...]:
    """The metrics with other bounds: the largest value, or the least if greater is better.

    They are no goals of a search then, as long as another one is left: the best student under a limit is meant.

    Examples:
        >>> latency, accuracy = with_limits([Metric("latency"), Metric("accuracy")], {"latency": 5})
        >>> latency.at_most, latency.measured, accuracy.measured
        (5.0, True, False)
    """
    metrics = tuple(metrics)
    leaves_a_goal = any(not metric.measured and metric.name not in limits for metric in metrics)
    return tuple(
        _limited(metric, limits[metric.name], measured=leaves_a_goal or metric.measured)
        if metric.name in limits
        else metric
        for metric in metrics
    )


def _limited(metric: Metric, limit: float, *, measured: bool) -> Metric:
    if metric.greater_is_better:
        return dataclasses.replace(metric, at_least=float(limit), measured=measured)
    return dataclasses.replace(metric, at_most=float(limit), measured=measured)


def metrics_returned(returned: Any) -> tuple[Metric, ...]:
    """The metrics of a search that names none, from what `eval_func` returned; a number is the metric `score`.

    Less is better if the name contains such a word (`loss`, `error`, `perplexity`, …), else greater is better.

    Raises:
        ConfigurationError: it returned no metrics.

    Examples:
        >>> [(metric.name, metric.greater_is_better) for metric in metrics_returned({"accuracy": 0.5, "val_loss": 1.2})]
        [('accuracy', True), ('val_loss', False)]
        >>> metrics_returned(0.5)[0].name
        'score'
    """
    values = returned if isinstance(returned, Mapping) else {"score": returned}
    numbers, errors = metric_values(values, "eval_func returned")
    if errors or not numbers:
        raise ConfigurationError([*map(str, errors)] or f"eval_func must return metrics, but returned {returned!r}.")
    return tuple(
        Metric(name, False) if _WORDS_OF_LOSSES & {*re.split(r"[^a-z]+", name.lower())} else Metric(name)
        for name in numbers
    )


def named_values(returned: Any, metrics: Sequence[Metric]) -> Mapping[Any, Any]:
    """What `eval_func` returned as a mapping: a number is the one metric that is not built in.

    Raises:
        TrialError: it is neither a mapping nor a number, or it is a number and there are several such metrics.

    Examples:
        >>> named_values(0.5, [Metric("accuracy"), Metric("latency")])
        {'accuracy': 0.5}
    """
    if isinstance(returned, Mapping):
        return returned
    if metric_values({"": returned}, "")[1] and not isinstance(returned, float):
        raise TrialError(f"eval_func must return a mapping of metrics, but returned {type(returned).__name__}.")
    names = [metric.name for metric in metrics]
    own = [name for name in names if name not in BUILT_IN] or names
    if len(own) != 1:
        raise TrialError(
            f"eval_func may return a number if it measures one metric, but returned {returned!r} for "
            f"{', '.join(map(repr, own))}; return a mapping."
        )
    return {own[0]: returned}


def metric_values(values: Mapping[Any, Any], source: str) -> tuple[dict[str, float], list[TrialError]]:
    """Values of metrics as finite floats, and an error for each value that is not one; nothing is raised.

    Args:
        values: names to numbers; a tensor or an array of one element counts as a number.
        source: the origin of the values, which precedes the value in messages: "eval_func returned".

    Returns:
        The valid values by name; and the errors: `NonFiniteError` for NaN and infinity.

    Examples:
        >>> metric_values({"accuracy": 1, "loss": float("nan")}, "got")
        ({'accuracy': 1.0}, [NonFiniteError("a metric must be a finite number, but got nan for 'loss'.")])
    """
    found: dict[str, float] = {}
    errors: list[TrialError] = []
    for name, value in values.items():
        sentence = f"a metric must be a finite number, but {source} {value!r} for {name!r}."
        try:
            if isinstance(value, str | bytes):
                raise TypeError
            number = float(value)
        except OverflowError:  # an integer beyond the largest float
            number = math.inf
        except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several elements
            errors.append(TrialError(sentence))
            continue
        if math.isfinite(number):
            found[str(name)] = number
        else:
            errors.append(NonFiniteError(sentence))
    return found, errors


def is_finite_number(value: object) -> bool:
    """Whether a setting is a finite number; booleans are not, nor are integers beyond the largest float."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False
