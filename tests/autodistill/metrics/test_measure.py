"""Built-in metrics of models whose numbers can be computed by hand."""

import json
import sys
from typing import Any

import pytest
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.latency import Timing
from autodistill.metrics.measure import count_flops, count_parameters, measure, size_in_bytes

# --- parameters and size ----------------------------------------------------------------------------------------------


class Tied(nn.Module):
    """An embedding that shares its table with the output layer."""

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
    other[1].weight.data = other[0].weight.data  # two parameters in the same memory
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


# --- floating-point operations ----------------------------------------------------------------------------------------


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


# --- all metrics together ---------------------------------------------------------------------------------------------


def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1))


def test_measure_returns_exactly_the_requested_metrics() -> None:
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


def test_latency_and_speedup_share_one_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    timings = {"student": Timing(1.0, 2.0, 3.0, 5), "teacher": Timing(5.0, 8.0, 9.0, 5)}  # ms per sample
    timed: list[list[str]] = []

    def time_models(models: dict[str, nn.Module], batch: Batch) -> dict[str, Timing]:
        timed.append(list(models))
        return timings

    monkeypatch.setattr(sys.modules["autodistill.metrics.measure"], "time_models", time_models)
    measured = measure(model(), ["speedup", "latency"], example=(torch.zeros(4, 2), None), teacher=model())
    assert measured.metrics == {"speedup": 4.0, "latency": 2.0}
    assert timed == [["student", "teacher"]]


def test_untimed_metrics_call_neither_model_more_than_counting_needs() -> None:
    called: list[nn.Module] = []
    student, teacher = model(), model()
    for each in (student, teacher):
        each.register_forward_pre_hook(lambda module, inputs: called.append(module))
    names = ["parameters", "size_mb", "flops"]
    measured = measure(student, names, example=(torch.zeros(4, 2), None), teacher=teacher)
    assert called == [student]
    assert measured.details == {}


def test_training_flags_are_restored_module_by_module_also_after_an_error() -> None:
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
    student(torch.randn(4, 2)).sum().backward()  # the inference left no trace


def test_mapping_is_passed_as_keywords_without_its_labels() -> None:
    received: list[set[str]] = []

    class Keywords(nn.Module):
        def forward(self, **inputs: torch.Tensor) -> torch.Tensor:
            received.append(set(inputs))
            return inputs["input_ids"]

    batch = {name: torch.zeros(2, 3) for name in ("input_ids", "attention_mask", "labels")}
    measure(Keywords(), ["flops"], example=batch)
    assert received == [{"input_ids", "attention_mask"}]


def test_everything_missing_for_a_measurement_is_reported_in_one_error() -> None:
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
    assert seconds > 20 * 2 * 4096**3 / 5e15  # no GPU is faster than this: the kernels would only have been queued
