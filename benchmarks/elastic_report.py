"""The tables of `elastic.py`, from its result file."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from common import print_table
from scipy.stats import kendalltau
from scipy.stats import t as student_t

RESAMPLINGS = 2000


def by_name(rows: Sequence[Mapping[str, Any]], **chosen: Any) -> dict[str, list[float]]:
    """The scores of rows by architecture, of those with these entries."""
    found: dict[str, list[float]] = {}
    for row in rows:
        if all(row[key] == value for key, value in chosen.items()):
            found.setdefault("x".join(map(str, row["architecture"].values())), []).append(row["score"])
    return found


def interval(scores: Sequence[float]) -> str:
    """Mean and half width of the 95% interval of the mean."""
    if not scores:
        return ""
    if len(scores) < 2:
        return f"{scores[0]:.3f}"
    half = student_t.ppf(0.975, len(scores) - 1) * statistics.stdev(scores) / len(scores) ** 0.5
    return f"{statistics.mean(scores):.3f} ± {half:.3f}"


def kendall(first: Mapping[str, float], second: Mapping[str, float]) -> str:
    """Kendall's τ over the architectures that both have, with the 95% interval of a bootstrap."""
    names = [name for name in first if name in second]
    points = np.array([[first[name], second[name]] for name in names]).T
    rng = np.random.default_rng(0)
    drawn = (points[:, rng.integers(len(names), size=len(names))] for _ in range(RESAMPLINGS))
    resampled = [kendalltau(*sample).statistic for sample in drawn if np.ptp(sample, axis=1).all()]
    low, high = np.percentile(resampled, [2.5, 97.5])
    return f"{kendalltau(*points).statistic:.2f} ({low:.2f} to {high:.2f}, {len(names)} architectures)"


def report(results: Mapping[str, Any]) -> None:
    """Print the tables of every task."""
    for task, found in results["tasks"].items():
        budget = found["budget"]
        alone = by_name(found["alone"], budget=budget)
        longer = by_name(found["alone"], budget=4 * budget)
        finished = by_name(found.get("finished", []))
        slices = {name: [row["scores"][name] for row in found["elastic"]] for name in found["costs"]}
        print_table(
            f"{task}: {found['metric']}; width x depth x feed-forward",
            ["architecture", f"alone {budget:g} s", "slice", f"slice + {budget / 4:g} s", f"alone {4 * budget:g} s"],
            [
                [name, *(interval(rows.get(name, [])) for rows in (alone, slices, finished, longer))]
                for name in found["costs"]
            ],
        )
        _differences(found, alone, slices, finished)
        _costs(found, budget)
        _ranks(found, alone, longer, slices, finished)


def means(rows: Mapping[str, Sequence[float]], sign: int = 1) -> dict[str, float]:
    """The mean of each architecture, times a sign."""
    return {name: sign * statistics.mean(scores) for name, scores in rows.items() if scores}


def _differences(found: Mapping[str, Any], alone: Any, slices: Any, finished: Any) -> None:
    """The worst and the mean difference from training alone, for each width; above zero is better."""
    sign = 1 if found["greater_is_better"] else -1
    expected = means(alone)
    widths: dict[str, list[str]] = {}
    for name in expected:
        widths.setdefault(name.split("x")[0], []).append(name)
    rows = []
    for width, names in widths.items():
        row = [width]
        for received in (means(slices), means(finished)):
            gaps = [sign * (received[name] - expected[name]) for name in names if name in received]
            row.append(f"{min(gaps):+.3f}, {statistics.mean(gaps):+.3f}" if gaps else "")
        rows.append(row)
    print_table("difference from alone: worst, mean", ["width", "slice", "slice finished"], rows)


def _costs(found: Mapping[str, Any], budget: float) -> None:
    elastic = found["elastic"]
    spent = statistics.mean(row["training"] + row["extraction"] for row in elastic)
    together = budget * len(found["costs"])
    print(
        f"elastic training and extraction: {spent:.0f} CPU s ({_mean(elastic, 'extraction'):.1f} of "
        f"them extraction), {spent / together:.3f} of the {together:.0f} s of all alone"
    )


def _ranks(found: Mapping[str, Any], alone: Any, longer: Any, slices: Any, finished: Any) -> None:
    sign = 1 if found["greater_is_better"] else -1
    sizes = {name: float(size) for name, size in found.get("parameters", {}).items()}
    candidates = {"slice": means(slices, sign), "slice finished": means(finished, sign), "parameters": sizes}
    rows = []
    for name, scores in candidates.items():
        pairs = [kendall(scores, means(other, sign)) if scores and other else "" for other in (alone, longer)]
        rows.append([name, *pairs])
    rows.append(["alone", "", kendall(means(alone, sign), means(longer, sign)) if longer else ""])
    print_table("Kendall's τ (95% interval)", ["", "against alone", "against alone, four times as long"], rows)


def _mean(rows: Sequence[Mapping[str, Any]], key: str) -> float:
    return statistics.mean(row[key] for row in rows)
