"""The built-in metrics, one entry each: direction, unit, requirements, and computation.

No torch is imported here: a metric is computed from `Quantities`, which a framework measures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

Need = Literal["example", "teacher"]


class Quantities(Protocol):
    """Quantities of a student, each measured when it is first read; `metrics.measure` implements them for PyTorch."""

    @property
    def latency(self) -> float:
        """In ms per sample, the median of many calls; timed in turns with the teacher if there is one."""

    @property
    def teacher_latency(self) -> float:
        """The teacher's latency from the same calls."""

    @property
    def parameters(self) -> int:
        """The number of parameters; shared ones count once."""

    @property
    def flops(self) -> float:
        """Floating-point operations per sample; a multiplication and an addition count as two."""

    @property
    def size_in_bytes(self) -> int:
        """The bytes of parameters and buffers; shared ones count once."""


@dataclass(frozen=True)
class Measurement:
    """The requested metrics, and the precision of the timed ones.

    Args:
        metrics: one value for each name.
        details: `latency` holds, for student and teacher, the quartiles in ms per sample and the number of rounds.
    """

    metrics: dict[str, float]
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class BuiltInMetric:
    """A metric that is measured without a user function.

    Args:
        name: in configurations and results.
        value: computes the metric.
        greater_is_better: its direction.
        unit: for table headings; empty for a number without a unit.
        needs: what is required to measure it: an example batch, a teacher.
        known_untrained: training that keeps the shapes of a student's parameters does not change the metric, so that
            its bounds can be checked before training.
        alternative: the metric to use if there is no teacher.
    """

    name: str
    value: Callable[[Quantities], float]
    greater_is_better: bool = False
    unit: str = ""
    needs: tuple[Need, ...] = ()
    known_untrained: bool = False
    alternative: str = ""


BUILT_IN: Mapping[str, BuiltInMetric] = {
    metric.name: metric
    for metric in (
        BuiltInMetric("latency", lambda student: student.latency, unit="ms", needs=("example",)),
        BuiltInMetric(
            "speedup",
            lambda student: student.teacher_latency / student.latency,
            greater_is_better=True,
            needs=("example", "teacher"),
            alternative="latency",
        ),
        BuiltInMetric("parameters", lambda student: float(student.parameters), known_untrained=True),
        BuiltInMetric("flops", lambda student: student.flops, needs=("example",), known_untrained=True),
        BuiltInMetric("size_mb", lambda student: student.size_in_bytes / 1e6, unit="MB", known_untrained=True),
    )
}
"""The built-in metrics by name."""


def needing(need: Need, names: Iterable[str]) -> list[BuiltInMetric]:
    """The built-in metrics among these names that cannot be measured without an example batch, or without a teacher.

    Examples:
        >>> [metric.name for metric in needing("example", ["flops", "accuracy", "parameters"])]
        ['flops']
    """
    return [BUILT_IN[name] for name in names if name in BUILT_IN and need in BUILT_IN[name].needs]
