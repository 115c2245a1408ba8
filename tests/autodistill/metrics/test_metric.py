"""Metrics: direction, bounds, and the check of their values."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch

from autodistill.errors import ConfigurationError, NonFiniteError, TrialError
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.metric import Metric, losses, metric_problems, metric_values, violations, with_limits


def test_direction_of_a_metric_is_greater_unless_known_or_given() -> None:
    assert Metric("accuracy").greater_is_better is True
    assert Metric("error", greater_is_better=False).greater_is_better is False
    assert {name: Metric(name).greater_is_better for name in BUILT_IN} == {
        "latency": False,
        "speedup": True,
        "parameters": False,
        "flops": False,
        "size_mb": False,
    }


@pytest.mark.parametrize("name", BUILT_IN)
def test_known_direction_may_be_given_and_a_contradicting_one_is_refused(name: str) -> None:
    known = BUILT_IN[name].greater_is_better
    assert Metric(name, greater_is_better=known) == Metric(name)
    better = "greater" if known else "less"
    with pytest.raises(ConfigurationError, match=f"'{name}' {better} is better; leave greater_is_better out"):
        Metric(name, greater_is_better=not known)


def test_loss_orders_values_so_that_less_is_better() -> None:
    assert Metric("accuracy").loss(0.9) < Metric("accuracy").loss(0.8)
    assert Metric("latency").loss(1.0) < Metric("latency").loss(2.0)


def test_violations_are_one_for_each_bound_and_positive_where_it_is_broken() -> None:
    metric = Metric("x", at_most=10, at_least=2)
    assert metric.violations(12.0) == (2.0, -10.0)
    assert metric.violations(1.0) == (-9.0, 1.0)
    assert metric.violations(10.0) == (0.0, -8.0)
    assert Metric("x").violations(3.0) == ()


def test_losses_leave_measured_metrics_out_and_violations_do_not() -> None:
    metrics = [Metric("accuracy", at_least=0.5), Metric("latency", measured=True, at_most=1)]
    values = {"accuracy": 0.75, "latency": 3.0, "unasked": 1.0}
    assert losses(metrics, values) == (-0.75,)
    assert violations(metrics, values) == (-0.25, 2.0)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": ""}, "name must be a non-empty string, but got ''"),
        ({"name": 3}, "name must be a non-empty string, but got 3"),
        ({"name": "x", "at_most": float("nan")}, "at_most of metric 'x' must be a finite number, but got nan"),
        ({"name": "x", "at_least": "5"}, "at_least of metric 'x' must be a finite number, but got '5'"),
        ({"name": "x", "at_most": True}, "at_most of metric 'x' must be a finite number, but got True"),
        ({"name": "x", "at_most": 1, "at_least": 2}, "needs at_least <= at_most, but got at_least=2 and at_most=1"),
        ({"name": "accuracy", "at_least": 0.9, "before_training": True}, "but metric 'accuracy' has it; leave it out"),
        ({"name": "latency", "before_training": True}, "before_training of metric 'latency' needs a bound to check"),
        ({"name": "latency", "before_training": 1}, "before_training of metric 'latency' must be True or False"),
        ({"name": "x", "measured": 1}, "measured of metric 'x' must be True or False, but got 1"),
        ({"name": "x", "greater_is_better": "no"}, "greater_is_better of metric 'x' must be True or False"),
    ],
)
def test_wrong_argument_is_refused_in_a_sentence(arguments: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        Metric(**arguments)


def test_all_wrong_arguments_are_reported_in_one_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Metric("latency", greater_is_better=True, at_most=float("inf"), at_least="0")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


def test_metric_is_made_from_its_name_a_mapping_or_itself() -> None:
    metric = Metric("latency", at_most=5)
    assert Metric.of(metric) is metric
    assert Metric.of("latency") == Metric("latency")
    assert Metric.of("error", False) == Metric("error", greater_is_better=False)
    assert Metric.of({"name": "latency", "at_most": 5}) == metric
    assert Metric.of(json.loads(json.dumps(metric.to_json()))) == metric


@pytest.mark.parametrize("spec", [3, {"at_most": 5}, {"name": "x", "atmost": 5}, ["x"]])
def test_metric_from_anything_else_is_refused(spec: Any) -> None:
    with pytest.raises(ConfigurationError, match="a metric is a name or a mapping with the keys name, "):
        Metric.of(spec)


def test_problems_of_a_list_of_metrics() -> None:
    assert metric_problems([Metric("a"), Metric("b", measured=True)]) == []
    assert metric_problems([]) == ["at least one metric must be given, but got none."]
    assert metric_problems([Metric("a"), Metric("a")]) == ["metrics must have different names, but 'a' is given twice."]


# --- values of metrics -----------------------------------------------------------------------------------------------


def test_values_of_every_numeric_kind_become_floats_under_names_that_are_text() -> None:
    values = {"a": 1, "b": torch.tensor(0.5), "c": np.float32(2), "d": np.array(3.5), "e": torch.tensor([0.25]), 6: 7.0}
    found, errors = metric_values(values, "eval_func returned")
    assert found == {"a": 1.0, "b": 0.5, "c": 2.0, "d": 3.5, "e": 0.25, "6": 7.0}
    assert all(type(value) is float for value in found.values())
    assert errors == []


@pytest.mark.parametrize("value", [None, "high", [0.5], torch.zeros(2), {"accuracy": 1}])
def test_value_that_is_not_a_number_is_a_trial_error_with_the_value(value: Any) -> None:
    found, (error,) = metric_values({"accuracy": value, "loss": 1}, "eval_func returned")
    assert found == {"loss": 1.0}
    assert type(error) is TrialError
    assert str(error) == f"a metric must be a finite number, but eval_func returned {value!r} for 'accuracy'."


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, torch.tensor(math.nan), np.float64("inf"), 10**400])
def test_value_that_is_not_finite_is_a_non_finite_error(value: Any) -> None:
    found, (error,) = metric_values({"loss": value}, "got")
    assert found == {}
    assert isinstance(error, NonFiniteError)
    assert str(error).startswith("a metric must be a finite number, but got ")


def test_every_wrong_value_has_its_error() -> None:
    found, errors = metric_values({"a": None, "b": math.nan, "c": 1}, "got")
    assert (found, [type(error) for error in errors]) == ({"c": 1.0}, [TrialError, NonFiniteError])


def test_new_limits_replace_the_bounds_of_their_metrics_only():
    metrics = [
        Metric("latency", False, at_most=9.0),
        Metric("accuracy", True, at_least=0.1),
        Metric("parameters", False),
    ]
    limited = with_limits(metrics, {"latency": 5, "accuracy": 0.9})
    assert [(metric.at_most, metric.at_least) for metric in limited] == [(5.0, None), (None, 0.9), (None, None)]
    assert type(limited[0].at_most) is float
    assert [metric.name for metric in limited] == ["latency", "accuracy", "parameters"]
    assert metrics[0].at_most == 9.0
    assert [metric.measured for metric in limited] == [True, True, False]  # parameters is the goal that is left
    assert not with_limits(metrics[:1], {"latency": 5})[0].measured
    assert with_limits(metrics, {}) == tuple(metrics)
    assert with_limits([Metric("latency", at_least=1.0)], {"latency": 5})[0].at_least == 1.0
