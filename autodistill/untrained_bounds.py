"""Bounds that a student breaks before it is trained: checked while it costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.measure import measure
from autodistill.metrics import Metric, violations

UNTRAINED = ("parameters", "flops", "size_mb")
"""The built-in metrics that distillation does not change."""

logger = logging.getLogger(__name__)


class UntrainedBounds:
    """Tells whether a student keeps the bounds on its parameters, FLOPs and size, without training it.

    Args:
        metrics: of the search; those without a bound, and those that training may change, are passed over.

    Examples:
        >>> bounds = UntrainedBounds([Metric("accuracy"), Metric("parameters", at_most=5)])
        >>> bounds.keeps("a", lambda: nn.Linear(4, 1)), bounds.keeps("b", lambda: nn.Linear(5, 1))
        (True, False)
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = [metric for metric in metrics if metric.name in UNTRAINED and metric.violations(0.0)]
        self._kept: dict[str, bool] = {}

    def keeps(self, key: str, build: Callable[[], nn.Module], example: Any = None) -> bool:
        """Whether the student keeps the bounds; it is built once for each key, and not where nothing is bounded.

        A student that cannot be built or run keeps them: its trial will tell why.
        """
        if self._metrics and key not in self._kept:
            self._kept[key] = self._measured_to_keep(build, example)
        return self._kept.get(key, True)

    def _measured_to_keep(self, build: Callable[[], nn.Module], example: Any) -> bool:
        try:
            values = measure(build(), [metric.name for metric in self._metrics], example=example).metrics
        except ConfigurationError:
            raise
        except Exception:
            return True
        kept = all(violation <= 0 for violation in violations(self._metrics, values))
        if not kept:
            logger.debug("an architecture is passed over, since untrained it breaks a bound: %s", values)
        return kept
