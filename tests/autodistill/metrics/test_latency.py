"""Timing of models with a clock that only the models advance."""

import itertools
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.metrics.latency import time_models


class Clock:
    """A clock that only the models below advance."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


class Sleeper(nn.Module):
    """Each call takes the next of the given times, and is logged."""

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
    assert "".join(log) == "st" * 2 + "st" * 5


def test_fast_model_fills_its_caches_again_after_a_slow_one() -> None:
    models, clock, log = sleepers(itertools.repeat(0.001), itertools.repeat(1.0))
    time_models(models, example(), clock=clock)
    assert "".join(log) == "st" * 2 + "s" + "sst" * 5


def test_a_slow_first_call_does_not_make_a_model_slow() -> None:
    models, clock, log = sleepers(itertools.chain([5.0], itertools.repeat(0.001)), itertools.repeat(0.002))
    assert time_models(models, example(), clock=clock)["student"].rounds == 50
    assert "".join(log) == "st" * 3 + "sstt" * 50


def test_timing_stops_after_one_second() -> None:
    models, clock, _ = sleepers(itertools.repeat(0.01), itertools.repeat(0.015))  # a round takes 50 ms
    assert time_models(models, example(), clock=clock)["student"].rounds in (20, 21)  # the clock's sums are rounded


def test_interruptions_hardly_change_the_median_and_show_in_the_spread() -> None:
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
