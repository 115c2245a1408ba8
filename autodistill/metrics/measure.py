"""The built-in metrics, measured on a model: latency, speed-up, parameters, floating-point operations, size."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from autodistill.data import Batch
from autodistill.errors import ConfigurationError
from autodistill.metrics.latency import _forward, inference, time_models
from autodistill.metrics.metric import BUILT_IN

_TIMED = ("latency", "speedup")


@dataclass(frozen=True)
class Measurement:
    """What was measured: the metrics asked for, and how sure the timed ones are.

    Args:
        metrics: one value for each name.
        details: `latency` holds, for student and teacher, the quartiles in ms per sample and the number of rounds.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


def measure(
    student: nn.Module, names: Sequence[str], *, example: Any = None, teacher: nn.Module | None = None
) -> Measurement:
    """Measure built-in metrics of a student; both models end in the training mode they came in.

    Args:
        student: the model to measure, on the device to measure it on.
        names: of `latency` (ms per sample), `speedup` (the teacher's latency over the student's), `parameters`,
            `flops` (per sample) and `size_mb` (10**6 bytes).
        example: a batch to call the models with: a mapping (keyword arguments, labels left out) or a pair
            `(inputs, targets)`. Needed for latency, speedup and flops.
        teacher: timed in turns with the student where there is one; needed for speedup.

    Raises:
        ConfigurationError: an unknown name, or no example or teacher where one is needed.

    Examples:
        >>> measure(nn.Linear(3, 2), ["parameters", "flops"], example=(torch.zeros(4, 3), None)).metrics
        {'parameters': 8.0, 'flops': 12.0}
    """
    problems = _problems(names, example, teacher)
    if problems:
        raise ConfigurationError(problems)
    values: dict[str, float] = {}
    details: dict[str, Any] = {}
    batch = None if example is None else example if isinstance(example, Batch) else Batch(example)
    if batch is not None and any(name in _TIMED for name in names):
        timings = time_models({"student": student} | ({} if teacher is None else {"teacher": teacher}), batch)
        details["latency"] = {owner: timing.to_json() for owner, timing in timings.items()}
        values["latency"] = timings["student"].median
        if "teacher" in timings:
            values["speedup"] = timings["teacher"].median / timings["student"].median
    if batch is not None and "flops" in names:
        values["flops"] = count_flops(student, batch)
    values["parameters"] = float(count_parameters(student))
    values["size_mb"] = size_in_bytes(student) / 1e6
    return Measurement({name: values[name] for name in names}, details)


def _problems(names: Sequence[str], example: Any, teacher: nn.Module | None) -> list[str]:
    problems = [
        f"{name!r} is no built-in metric; those are {', '.join(BUILT_IN)}." for name in names if name not in BUILT_IN
    ]
    needy = [name for name in names if name in (*_TIMED, "flops")]
    if needy and example is None:
        problems.append(f"measuring {', '.join(needy)} needs an example batch, but there is none.")
    if "speedup" in names and teacher is None:
        problems.append("speedup compares the student with the teacher, but there is no teacher; use latency.")
    return problems


def count_flops(model: nn.Module, batch: Batch) -> float:
    """Floating-point operations of one forward pass, per sample.

    Matrix products, convolutions and attention are counted, a multiplication and an addition as two; elementwise work
    is not. Fused kernels hide their products from the counter, so the plain ones are used while counting: the
    number does not depend on the device or on which kernels it has.
    """
    with inference([model]), _plain_kernels(), FlopCounterMode(display=False) as counter:
        _forward(model, batch)()
    return float(counter.get_total_flops() / batch.size)


@contextlib.contextmanager
def _plain_kernels() -> Iterator[None]:
    libraries: tuple[Any, ...] = (torch.backends.mkldnn, torch.backends.cudnn)
    enabled = [library.enabled for library in libraries]
    fast_path = torch.backends.mha.get_fastpath_enabled()
    try:
        for library in libraries:  # their recurrent layers are one kernel
            library.enabled = False
        torch.backends.mha.set_fastpath_enabled(False)  # nn.TransformerEncoderLayer as one kernel
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)
        for library, was in zip(libraries, enabled, strict=True):
            library.enabled = was


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
        # Two parameters may be one piece of memory; a tensor without memory of its own (meta, wrapped) is itself.
        plain = tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.data_ptr() != 0
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        distinct.setdefault(place if plain else id(tensor), tensor)
    return list(distinct.values())
