"""Metrics, and their measurement on models whose numbers can be computed by hand."""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from autodistill.data import Batch
from autodistill.errors import ConfigurationError
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.latency import time_models
from autodistill.metrics.measure import count_flops, count_parameters, measure, size_in_bytes
from autodistill.metrics.metric import Metric, losses, metric_problems, violations

# --- what a metric is ------------------------------------------------------------------------------------------------


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


def test_all_wrong_arguments_are_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        Metric("latency", greater_is_better=True, at_most=float("inf"), at_least="0")  # type: ignore[arg-type]
    assert len(caught.value.problems) == 3


def test_metric_comes_from_its_name_a_mapping_or_itself() -> None:
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


# --- parameters and size ---------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding whose table is the output layer's as well."""

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.output = nn.Linear(width, vocabulary, bias=False)
        self.output.weight = self.embedding.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        output: torch.Tensor = self.output(self.embedding(x))
        return output


def test_parameters_equal_the_formulas() -> None:
    assert count_parameters(nn.Linear(7, 5)) == 7 * 5 + 5
    assert count_parameters(nn.Conv2d(3, 8, (3, 5), groups=1)) == 3 * 8 * 15 + 8
    assert count_parameters(nn.BatchNorm1d(6)) == 12  # its statistics are buffers
    d, f = 16, 32
    expected = 4 * (d * d + d) + (d * f + f) + (f * d + d) + 4 * d
    assert count_parameters(nn.TransformerEncoderLayer(d, 2, f)) == expected


def test_shared_weights_count_once_however_they_are_shared() -> None:
    model = Tied(10, 4)
    assert count_parameters(model) == 40
    assert size_in_bytes(model) == 160
    other = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))
    other[1].weight.data = other[0].weight.data  # two parameters, one memory
    assert count_parameters(other) == 16
    assert count_parameters(nn.Sequential(other, other)) == 16


def test_equal_but_separate_weights_count_each() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].load_state_dict(model[0].state_dict())
    assert count_parameters(model) == 40


def test_frozen_parameters_and_those_without_memory_count() -> None:
    frozen = nn.Linear(3, 3).requires_grad_(False)
    assert count_parameters(frozen) == 12
    with torch.device("meta"):
        assert count_parameters(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))) == 40


def test_size_counts_the_bytes_of_parameters_and_buffers() -> None:
    assert size_in_bytes(nn.Linear(7, 5)) == 40 * 4
    assert size_in_bytes(nn.Linear(7, 5).half()) == 40 * 2
    assert size_in_bytes(nn.BatchNorm1d(6)) == (12 + 12) * 4 + 8  # two statistics, and a 64-bit counter
    assert measure(nn.Linear(999, 1000), ["size_mb"]).metrics == {"size_mb": 4.0}


# --- floating-point operations ---------------------------------------------------------------------------------------


def flops(model: nn.Module, *shape: int) -> float:
    return count_flops(model, Batch((torch.zeros(*shape), None)))


class Attention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x)


def test_flops_of_linear_and_convolution_equal_the_formulas_per_sample() -> None:
    assert flops(nn.Linear(7, 5), 3, 7) == 2 * 7 * 5
    assert flops(nn.Linear(7, 5), 3, 11, 7) == 2 * 11 * 7 * 5
    assert flops(nn.Conv2d(3, 8, 3), 2, 3, 10, 10) == 2 * 8 * 8 * 8 * 3 * 9
    assert flops(nn.Conv2d(4, 8, 3, groups=2, stride=2, padding=1), 2, 4, 10, 10) == 2 * 5 * 5 * 8 * 2 * 9


def test_flops_of_attention_are_counted_though_its_kernel_is_fused() -> None:
    heads, length, width = 2, 5, 8
    assert flops(Attention(), 3, heads, length, width) == 2 * heads * (2 * length * length * width)


def test_flops_of_a_transformer_layer_equal_the_formula_though_inference_has_a_fused_path() -> None:
    d, f, heads, length = 16, 32, 2, 5
    layer = nn.TransformerEncoderLayer(d, heads, f, batch_first=True)
    projections, feed_forward, attention = 4 * 2 * d * d, 2 * 2 * d * f, 2 * 2 * length * d
    assert flops(layer, 3, length, d) == length * (projections + feed_forward + attention)


def test_flops_of_a_recurrent_layer_equal_the_formula_though_its_kernel_is_fused() -> None:
    class Last(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 6, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.lstm(x)[0]
            return states[:, -1]

    assert flops(Last(), 2, 3, 4) == 3 * 4 * (2 * 6 * (4 + 6))


def test_counting_leaves_the_kernel_settings_as_they_were() -> None:
    def settings() -> tuple[Any, ...]:
        backends: Any = torch.backends
        cuda = backends.cuda
        return (
            backends.mkldnn.enabled,
            backends.cudnn.enabled,
            backends.mha.get_fastpath_enabled(),
            (cuda.flash_sdp_enabled(), cuda.math_sdp_enabled(), cuda.mem_efficient_sdp_enabled()),
        )

    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise RuntimeError("broken")

    before = settings()
    flops(nn.Linear(2, 2), 1, 2)
    with pytest.raises(RuntimeError, match="broken"):
        flops(Broken(), 1, 2)
    assert settings() == before


# --- latency ---------------------------------------------------------------------------------------------------------


class Clock:
    """A clock that only the models below move."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Sleeper(nn.Module):
    """Takes the given times in turn, and notes its calls."""

    def __init__(self, name: str, clock: Clock, seconds: Iterator[float], log: list[str]) -> None:
        super().__init__()
        self.name, self.clock, self.seconds, self.log = name, clock, seconds, log

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not self.training
        assert torch.is_inference_mode_enabled()
        self.clock.seconds += next(self.seconds)
        self.log.append(self.name)
        return x


def sleepers(student: Iterator[float], teacher: Iterator[float]) -> tuple[dict[str, nn.Module], Clock, list[str]]:
    clock, log = Clock(), list[str]()
    models: dict[str, nn.Module] = {
        "student": Sleeper("s", clock, student, log),
        "teacher": Sleeper("t", clock, teacher, log),
    }
    return models, clock, log


def example(samples: int = 4) -> Batch:
    return Batch((torch.zeros(samples, 2), None))


def test_models_are_timed_in_turns_after_a_warm_up() -> None:
    models, clock, log = sleepers(itertools.repeat(0.001), itertools.repeat(0.002))
    timings = time_models(models, example(), clock=clock)
    assert "".join(log) == "st" * 3 + "sstt" * 50
    assert timings["student"].rounds == timings["teacher"].rounds == 50


def test_latency_is_the_median_in_milliseconds_per_sample() -> None:
    models, clock, _ = sleepers(itertools.repeat(0.008), itertools.repeat(0.016))
    timings = time_models(models, example(samples=4), clock=clock)
    assert timings["student"].median == pytest.approx(2.0)
    assert timings["teacher"].median == pytest.approx(4.0)


def test_slow_models_are_timed_in_few_rounds() -> None:
    models, clock, log = sleepers(itertools.repeat(1.0), itertools.repeat(10.0))
    timings = time_models(models, example(), clock=clock)
    assert timings["student"].rounds == 5
    assert "".join(log) == "st" * 3 + "sstt" * 5


def test_timing_stops_once_its_second_is_spent() -> None:
    models, clock, _ = sleepers(itertools.repeat(0.01), itertools.repeat(0.015))  # a round takes 50 ms
    assert time_models(models, example(), clock=clock)["student"].rounds in (20, 21)  # the clock's sums are rounded


def test_interruptions_move_the_median_little_and_show_in_the_spread() -> None:
    rng = np.random.default_rng(0)
    noisy = [0.001 * (1 + (rng.random() < 0.3) * 50) for _ in range(200)]
    models, clock, _ = sleepers(iter(noisy), itertools.repeat(0.002))
    # Warm-up takes 3 calls; after that every second call of a model is timed.
    timing = time_models(models, example(samples=1), clock=clock)["student"]
    timed = [1000 * value for value in noisy[4::2]][: timing.rounds]
    lower, median, upper = np.percentile(timed, [25, 50, 75])
    assert (timing.lower, timing.median, timing.upper) == pytest.approx((lower, median, upper))
    assert timing.median == pytest.approx(1.0)
    assert timing.to_json()["interquartile_ms"] == pytest.approx(upper - lower)


# --- everything at once ----------------------------------------------------------------------------------------------


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))


def test_measure_gives_exactly_what_is_asked_for() -> None:
    assert measure(model(), []).metrics == {}
    pair = (torch.zeros(4, 2), torch.zeros(4))
    measured = measure(model(), list(BUILT_IN), example=pair, teacher=nn.Linear(2, 1))
    assert list(measured.metrics) == list(BUILT_IN)
    assert measured.metrics["parameters"] == 2 * 3 + 3 + 3 + 1
    assert measured.metrics["flops"] == 2 * (6 + 3)
    assert measured.metrics["size_mb"] == 13 * 4 / 1e6
    assert all(type(value) is float for value in measured.metrics.values())


def test_latency_details_hold_the_spread_of_both_models_and_explain_the_speedup() -> None:
    measured = measure(model(), ["speedup"], example=(torch.zeros(4, 2), None), teacher=model())
    latency = measured.details["latency"]
    assert set(latency) == {"student", "teacher"}
    for timing in latency.values():
        assert 0 < timing["lower_quartile_ms"] <= timing["median_ms"] <= timing["upper_quartile_ms"]
        assert timing["interquartile_ms"] == timing["upper_quartile_ms"] - timing["lower_quartile_ms"]
    assert measured.metrics == {"speedup": latency["teacher"]["median_ms"] / latency["student"]["median_ms"]}
    json.dumps(measured.details, allow_nan=False)


def test_untimed_metrics_call_neither_model_more_than_counting_needs() -> None:
    models, _, log = sleepers(itertools.repeat(0.0), itertools.repeat(0.0))
    names = ["parameters", "size_mb", "flops"]
    measured = measure(models["student"], names, example=example(), teacher=models["teacher"])
    assert log == ["s"]
    assert measured.details == {}


def test_training_flags_come_back_module_by_module_also_after_an_error() -> None:
    student, teacher = model(), model()
    student[1].eval()
    teacher.eval()
    flags = [module.training for module in (*student.modules(), *teacher.modules())]
    measure(student, ["latency", "flops"], example=(torch.zeros(4, 2), None), teacher=teacher)
    assert [module.training for module in (*student.modules(), *teacher.modules())] == flags
    with pytest.raises(RuntimeError):
        measure(student, ["flops"], example=(torch.zeros(4, 99), None))
    assert [module.training for module in (*student.modules(), *teacher.modules())] == flags


def test_measuring_leaves_weights_and_gradients_alone() -> None:
    student = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in student.state_dict().items()}
    measure(student, ["latency", "flops"], example=(torch.randn(4, 2), None))
    assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())
    assert all(parameter.grad is None for parameter in student.parameters())
    student(torch.randn(4, 2)).sum().backward()  # nothing of the inference is left behind


def test_mapping_is_passed_as_keywords_without_its_labels() -> None:
    seen: list[set[str]] = []

    class Keywords(nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            seen.append(set(inputs))
            return inputs["input_ids"]

    batch = {name: torch.zeros(2, 3) for name in ("input_ids", "attention_mask", "labels")}
    measure(Keywords(), ["flops"], example=batch)
    assert seen == [{"input_ids", "attention_mask"}]


def test_everything_missing_for_a_measurement_is_told_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        measure(model(), ["latency", "speedup", "watts"])
    assert caught.value.problems == [
        "'watts' is no built-in metric; those are latency, speedup, parameters, flops, size_mb.",
        "measuring latency, speedup needs an example batch, but there is none.",
        "speedup compares the student with the teacher, but there is no teacher; use latency.",
    ]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_latency_on_a_gpu_waits_for_its_kernels() -> None:
    heavy = nn.Sequential(*[nn.Linear(4096, 4096) for _ in range(20)]).cuda()
    measured = measure(heavy, ["latency", "flops"], example=(torch.zeros(4096, 4096), None))
    assert measured.metrics["flops"] == 20 * 2 * 4096**2
    seconds = measured.metrics["latency"] * 4096 / 1000
    assert seconds > 20 * 2 * 4096**3 / 5e15  # faster than this no GPU is: the kernels were only queued
