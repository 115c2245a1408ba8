"""Students at full width and depth that start inside their teacher, in float64: how much they differ from it.

    python benchmarks/identity.py

Every weight, gain and bias of the teachers is random. For each family the table has the most general P with which the
student computes the same function as its teacher, and an arbitrary rotation P. Families whose norms stand after the
residual sum (BERT) have gains that commute only with permutations. LayerNorms before the readers (GPT-2, ViT) need
P·1 = 1, and any other P raises an error; RMSNorms (Llama, Qwen, T5) allow every rotation, but compute in float32 in any
precision of the model. Students of MobileBERT are always selections of channels; DeBERTa and ModernBERT are exact for
permutations of a stream without mean. Differences are relative where the
values of the teacher exceed one.
"""

from __future__ import annotations

import sys
from pathlib import Path

from common import machine, print_table, write_results

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))
from identity_cases import CASES, DEPTH, KEEPS_CONSTANT, ORTHOGONAL, SELECTION, WIDTH, identity_errors


def main() -> None:
    """Print the table, write the JSON."""
    results = []
    for name, case in CASES.items():
        turns = case.directions not in (SELECTION, KEEPS_CONSTANT)
        kinds = dict.fromkeys((case.directions, ORTHOGONAL) if turns else (case.directions,))
        for kind in kinds:
            found, _ = identity_errors(case, kind=kind)
            results.append({"model": name, "P": kind, "outputs": found.outputs, "matched_hidden_states": found.matched})
    print_table(
        "largest difference between student and teacher",
        ["model", "P", "outputs", "matched hidden states"],
        [[row["model"], row["P"], f"{row['outputs']:.0e}", f"{row['matched_hidden_states']:.0e}"] for row in results],
    )
    write_results("identity", {"machine": machine(), "width": WIDTH, "blocks": DEPTH, "results": results})


if __name__ == "__main__":
    main()
