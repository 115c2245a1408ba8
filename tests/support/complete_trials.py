"""Trials that are complete, by their number and metrics."""

from __future__ import annotations

from datetime import UTC, datetime

from autodistill.search.trial import Trial

START = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def trial(number: int, **metrics: float) -> Trial:
    return Trial(number, {"layers": number}, started_at=START).complete(metrics)
