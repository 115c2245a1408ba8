"""Flash distillation of every model family of the test suite: how the blocks ran, and the largest difference of weights
from the naive loop of full forwards. Under a minute on one core: `python benchmarks/families.py`."""

from __future__ import annotations

import sys
from pathlib import Path

import transformers
from common import machine, print_table, write_results

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

from families import FAMILIES, Family  # noqa: E402
from naive_distillation import distil_both_ways, largest_difference, make_distiller  # noqa: E402

HEADERS = ("family", "blocks", "replayed", "why not", "largest weight difference from the reference")


def measure(name: str, family: Family) -> dict[str, object]:
    """One row of the table."""
    settings = {"train_steps": 5, "automatic_mapping": "blocks"}  # embeddings train with a block: it is not replayed
    distiller = make_distiller(family.teacher(), family.batches(), **settings | family.flash)
    engine, naive, records = distil_both_ways(family.student(), distiller)
    return {
        "family": name,
        "blocks": len(records),
        "replayed": sum(record["mode"] == "replay" for record in records),
        "why not": "; ".join(dict.fromkeys(record["reason"] for record in records if record["reason"])),
        "largest weight difference from the reference": largest_difference(engine, naive),
    }


def main() -> None:
    """Measure every family, print the table and write it."""
    transformers.logging.set_verbosity_error()
    description = machine()
    rows = [measure(name, family) for name, family in FAMILIES.items()]
    print_table("Model families", HEADERS, [[row[header] for header in HEADERS] for row in rows])
    print("written to", write_results("families", {"machine": description, "families": rows}))


if __name__ == "__main__":
    main()
