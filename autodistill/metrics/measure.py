"""Built-in metrics measured on PyTorch models: parameters, bytes and floating-point operations are counted here."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.metrics.built_in import BUILT_IN, Measurement, needing
from autodistill.metrics.latency import Timing, time_models
from autodistill.models.calls import inference_call
from autodistill.models.modes import inference


def measure(
    student: nn.Module, names: Sequence[str], *, example: Any = None, teacher: nn.Module | None = None
) -> Measurement:
    """Measure built-in metrics of a student; the training modes of both models are restored.

    Args:
        student: the model to measure, on the device to measure it on.
        names: of built-in metrics: `latency` (ms per sample), `speedup` (the teacher's latency over the student's),
            `parameters`, `flops` (per sample), `size_mb` (10**6 bytes).
        example: a batch to call the models with: a mapping (keyword arguments, labels left out) or a pair
            `(inputs, targets)`. Needed for latency, speedup and flops.
        teacher: timed in turns with the student if passed; needed for speedup.

    Raises:
        ConfigurationError: an unknown name, or no example or teacher where one is needed.

    Examples:
        >>> measure(nn.Linear(3, 2), ["parameters", "flops"], example=(torch.zeros(4, 3), None)).metrics
        {'parameters': 8.0, 'flops': 12.0}
    """
    problems = _problems(names, example, teacher)
    if problems:
        raise ConfigurationError(problems)
    batch = example if example is None or isinstance(example, Batch) else Batch(example)
    quantities = ModelQuantities(student, batch, teacher)
    metrics = {name: BUILT_IN[name].value(quantities) for name in names}
    return Measurement(metrics, quantities.details)


def _problems(names: Sequence[str], example: Any, teacher: nn.Module | None) -> list[str]:
    problems = [
        f"{name!r} is no built-in metric; those are {', '.join(BUILT_IN)}." for name in names if name not in BUILT_IN
    ]
    called = [metric.name for metric in needing("example", names)]
    if called and example is None:
        problems.append(f"measuring {', '.join(called)} needs an example batch, but there is none.")
    if teacher is None:
        problems += [
            f"{metric.name} compares the student with the teacher, but there is no teacher; use {metric.alternative}."
            for metric in needing("teacher", names)
        ]
    return problems


class ModelQuantities:
    """Implements `Quantities` for PyTorch models; latency and speedup share one timing.

    Args:
        student: the model to measure.
        batch: the input of the models; None if only quantities that need no call are read.
        teacher: timed in turns with the student; optional.

    Attributes:
        details: of what has been measured so far, as in `Measurement`.
    """

    def __init__(self, student: nn.Module, batch: Batch | None, teacher: nn.Module | None) -> None:
        self._models = {"student": student} | ({} if teacher is None else {"teacher": teacher})
        self._batch = batch
        self.details: dict[str, Any] = {}

    @property
    def latency(self) -> float:
        return self._timings["student"].median

    @property
    def teacher_latency(self) -> float:
        return self._timings["teacher"].median

    @property
    def parameters(self) -> int:
        return count_parameters(self._models["student"])

    @property
    def flops(self) -> float:
        assert self._batch is not None
        return count_flops(self._models["student"], self._batch)

    @property
    def size_in_bytes(self) -> int:
        return size_in_bytes(self._models["student"])

    @cached_property
    def _timings(self) -> dict[str, Timing]:
        assert self._batch is not None
        timings = time_models(self._models, self._batch)
        self.details["latency"] = {owner: timing.to_json() for owner, timing in timings.items()}
        return timings


def count_flops(model: nn.Module, batch: Batch) -> float:
    """Floating-point operations of one forward pass, per sample.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two; elementwise
    operations are not. Fused kernels hide their products from the counter, so plain kernels are used while counting,
    and the number does not depend on the device or its kernels.
    """
    with inference(model), _plain_kernels(), FlopCounterMode(display=False) as counter:
        inference_call(model, batch)()
    return float(counter.get_total_flops() / batch.size)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [library.enabled for library in libraries]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for library in libraries:  # they run recurrent layers as one kernel
            library.enabled = False
        torch.backends.mha.set_fastpath_enabled(False)  # nn.TransformerEncoderLayer as one kernel
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for library, before in zip(libraries, enabled, strict=True):
            library.enabled = before


def count_parameters(model: nn.Module) -> int:
    """The number of parameters, frozen ones included; shared ones count once.

    Examples:
        >>> tied = nn.Sequential(nn.Embedding(10, 4), nn.Linear(4, 10, bias=False))
        >>> tied[1].weight = tied[0].weight
        >>> count_parameters(tied)
        40
    """
    return sum(parameter.numel() for parameter in _distinct(model.parameters()))


def size_in_bytes(model: nn.Module) -> int:
    """The bytes of all parameters and buffers; shared ones count once."""
    tensors = _distinct(itertools.chain(model.parameters(), model.buffers()))
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _distinct(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    distinct: dict[Any, torch.Tensor] = {}
    for tensor in tensors:
        # Two parameters may share memory; a tensor without memory of its own (meta, wrapped) is identified by its id.
        plain = tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.data_ptr() != 0
        location = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        distinct.setdefault(location if plain else id(tensor), tensor)
    return list(distinct.values())
