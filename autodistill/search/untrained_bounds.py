"""Bounds that a student breaks before it is trained: checked while it costs nothing."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.measure import measure
from autodistill.metrics.metric import Metric, violations

UNTRAINED = tuple(name for name, metric in BUILT_IN.items() if metric.known_untrained)


"""The built-in metrics that distillation does not change."""


logger = logging.getLogger(__name__)


class UntrainedBounds:
    """Tells whether a student keeps its bounds, as far as they can be checked without training it.

    Args:
        metrics: of the search; those without a bound are passed over.

    Examples:
        >>> bounds = UntrainedBounds([Metric("accuracy"), Metric("parameters", at_most=5)])
        >>> bounds.keeps("a", lambda: nn.Linear(4, 1)), bounds.keeps("b", lambda: nn.Linear(5, 1))
        (True, False)
    """

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._bounded = [metric for metric in metrics if metric.violations(0.0)]
        self._kept: dict[str, bool] = {}

    def keeps(
        self,
        key: str,
        build: Callable[[], nn.Module],
        example: Any = None,
        teacher: nn.Module | None = None,
        unchanging: Sequence[str] = UNTRAINED,
    ) -> bool:
        """Whether the student keeps the bounds; it is built once for each key, and not where nothing is to be checked.

        A student that cannot be built or run keeps them: its trial will tell why.

        Args:
            key: of its architecture.
            build: makes it.
            example: what latency and FLOPs are measured with.
            teacher: timed in turns with the student, as in a trial.
            unchanging: the metrics that the training is known not to change; beside them those are checked that are
                marked `before_training`.
        """
        checked = [metric for metric in self._bounded if metric.name in unchanging or metric.before_training]
        if checked and key not in self._kept:
            self._kept[key] = _measured_to_keep(checked, build, example, teacher)
        return self._kept.get(key, True)


def _measured_to_keep(
    metrics: Sequence[Metric], build: Callable[[], nn.Module], example: Any, teacher: nn.Module | None
) -> bool:
    try:
        values = measure(build(), [metric.name for metric in metrics], example=example, teacher=teacher).metrics
    except ConfigurationError:
        raise
    except Exception:
        return True
    kept = all(violation <= 0 for violation in violations(metrics, values))
    if not kept:
        logger.debug("an architecture is passed over, since untrained it breaks a bound: %s", values)
    return kept
