"""Bounds that are checked on the untrained student, before a trial is spent on it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from autodistill.errors import ConfigurationError
from autodistill.frameworks.framework import Framework
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.metric import Metric, violations
from search_spaces import Architecture, SearchSpace

UNTRAINED = tuple(name for name, metric in BUILT_IN.items() if metric.known_untrained)
"""The built-in metrics that distillation does not change."""

logger = logging.getLogger(__name__)


class UntrainedBounds:
    """Checks whether a student keeps its bounds, as far as that is known without training it.

    Args:
        metrics: of the search; those without a bound are ignored.
        framework: builds and measures the students.
        space: of the architectures.
        keeps_size: the training does not change the metrics in `UNTRAINED`. Otherwise only the bounds of metrics
            marked `before_training` are checked.
    """

    def __init__(
        self, metrics: Sequence[Metric], framework: Framework, space: SearchSpace, *, keeps_size: bool
    ) -> None:
        unchanged = UNTRAINED if keeps_size else ()
        bounded = [metric for metric in metrics if metric.violations(0.0)]
        self._checked = [metric for metric in bounded if metric.name in unchanged or metric.before_training]
        self._framework = framework
        self._space = space
        self._kept: dict[str, bool] = {}

    def keeps(self, architecture: Architecture) -> bool:
        """Whether the student keeps the bounds; built once for each architecture, and only if a bound is checked.

        For a student that cannot be built or run the result is True: its trial records the error.
        """
        if not self._checked:
            return True
        key = self._space.key(architecture)
        if key not in self._kept:
            self._kept[key] = self._measure(architecture)
        return self._kept[key]

    def _measure(self, architecture: Architecture) -> bool:
        names = [metric.name for metric in self._checked]
        try:
            values = self._framework.measure(self._framework.build(architecture), names).metrics
        except ConfigurationError:
            raise
        except Exception:
            return True
        kept = all(violation <= 0 for violation in violations(self._checked, values))
        if not kept:
            logger.debug("%s is skipped, since it breaks a bound before training: %s", architecture, values)
        return kept
