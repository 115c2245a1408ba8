"""Latency: models are timed in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.models.calls import inference_call
from autodistill.models.devices import device_of
from autodistill.models.modes import inference

_WARM_UP = 3  # calls of each model before the first timed one; a slow model has one less


_SLOW = 0.05  # seconds of a call, in which filling the caches is a small part


_MIN_ROUNDS, _MAX_ROUNDS = 5, 50


_TIMING_BUDGET = 1.0  # seconds of timed rounds; applies after _MIN_ROUNDS


@dataclass(frozen=True)
class Timing:
    """The quartiles of one model's timed calls, in ms per sample."""

    lower: float
    median: float
    upper: float
    rounds: int

    def to_json(self) -> dict[str, float]:
        """The quartiles and their difference, the spread."""
        spread = self.upper - self.lower
        return {
            "median_ms": self.median,
            "lower_quartile_ms": self.lower,
            "upper_quartile_ms": self.upper,
            "interquartile_ms": spread,
            "rounds": self.rounds,
        }


def time_models(
    models: Mapping[str, nn.Module], batch: Batch, *, clock: Callable[[], float] = time.perf_counter
) -> dict[str, Timing]:
    """Time models in turns, so that other load on the machine affects all of them.

    In every round each model is called twice and the second call is timed: the first fills the caches with this model
    again. A model whose call takes longer than 50 ms does without it, which halves the time of its measurement.
    Interruptions have little effect on the median of the rounds.

    Args:
        models: by their names in the result.
        batch: the input of the models; times are divided by its size.
        clock: returns seconds.
    """
    calls = {name: _synchronised_call(model, batch) for name, model in models.items()}
    seconds: dict[str, list[float]] = {name: [] for name in models}
    with inference(*models.values()):
        slow = _warm_up(calls, clock)
        begin = clock()
        for number in range(1, _MAX_ROUNDS + 1):
            for name, call in calls.items():
                if name not in slow:
                    call()
                start = clock()
                call()
                seconds[name].append(clock() - start)
            if number >= _MIN_ROUNDS and clock() - begin > _TIMING_BUDGET:
                break
    return {name: _timing(values, batch.size) for name, values in seconds.items()}


def _warm_up(calls: Mapping[str, Callable[[], None]], clock: Callable[[], float]) -> set[str]:
    """Call each model a few times; returns those whose call is slow, which the first one does not decide."""
    slow: set[str] = set()
    for number in range(_WARM_UP):
        for name in [name for name in calls if name not in slow]:
            start = clock()
            calls[name]()
            if number > 0 and clock() - start > _SLOW:
                slow.add(name)
    return slow


def _timing(seconds: Sequence[float], samples: int) -> Timing:
    per_sample = [1000 * value / samples for value in seconds]  # ms
    lower, median, upper = statistics.quantiles(per_sample, n=4, method="inclusive")
    return Timing(lower, median, upper, len(per_sample))


def _synchronised_call(model: nn.Module, batch: Batch) -> Callable[[], None]:
    device = device_of(model)
    call = inference_call(model, batch)

    def run() -> None:
        call()
        if device.type == "cuda":  # its kernels are only queued at this point
            torch.cuda.synchronize(device)

    return run
