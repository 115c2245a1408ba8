"""Bounds that are checked on the untrained student, before a trial is spent on it."""

from __future__ import annotations

import logging

from autodistill.errors import ConfigurationError
from autodistill.machine_faults import machine_fault
from autodistill.metrics.built_in import BUILT_IN
from autodistill.metrics.metric import Metric, violations
from autodistill.search.run_trial import TrialSpec
from search_spaces import Architecture

UNTRAINED = tuple(name for name, metric in BUILT_IN.items() if metric.known_untrained)
"""The built-in metrics that distillation does not change."""

logger = logging.getLogger(__name__)


class UntrainedBounds:
    """Checks whether the students of one search keep its bounds, as far as that is known without training them.

    Each student is built and measured once, however often its architecture is proposed.
    """

    def __init__(self) -> None:
        self._kept: dict[str, bool] = {}  # by the key of the architecture

    def keeps(self, spec: TrialSpec, architecture: Architecture) -> bool:
        """Whether the student keeps the bounds; it is built only if there is a bound to check.

        Args:
            spec: of the search. The bounds on the metrics in `UNTRAINED` are checked if the training keeps the size of
                the student, and always those of metrics marked `before_training`.
            architecture: of the student. If it cannot be built or run, the result is True: its trial records the error.
        """
        unchanged = UNTRAINED if spec.training.keeps_size else ()
        bounded = [metric for metric in spec.metrics if metric.violations(0.0)]
        checked = [metric for metric in bounded if metric.name in unchanged or metric.before_training]
        if not checked:
            return True
        key = spec.search_space.key(architecture)
        if key not in self._kept:
            self._kept[key] = _keeps(checked, spec, architecture)
        return self._kept[key]


def _keeps(checked: list[Metric], spec: TrialSpec, architecture: Architecture) -> bool:
    framework = spec.framework
    try:
        with framework.isolated():
            values = framework.measure(framework.build(architecture), [metric.name for metric in checked]).metrics
    except ConfigurationError:
        raise
    except Exception as error:
        if machine_fault(error) is not None:
            raise
        return True
    kept = all(violation <= 0 for violation in violations(checked, values))
    if not kept:
        logger.debug("%s is skipped, since it breaks a bound before training: %s", architecture, values)
    return kept
