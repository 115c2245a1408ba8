"""How much faster a search is with several workers: the same search in one process, and in two with one thread each.

    python benchmarks/workers.py [--quick | --full] [--workers 2] [--repetitions 2]

The search is that of the command line's template for sentence encoders (MiniLM, real paragraphs) with fewer steps, with
an elastic student and without; `blocks` is the training of one student of 6 blocks, mostly by flash distillation, whose
blocks several workers train at the same time. Each run is a program of its own, and runs with one worker and with
several take turns. The time is that of `search_loop`, which starts the workers too.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from common import machine, print_table, write_results
from search_sentences import sentence_setup
from search_watch import Options

from autodistill import SearchResult

KINDS = ("alone", "elastic", "blocks")
SPACE = {
    "num_hidden_layers": [2, 3, 4, 6],
    "hidden_size": [96, 128, 192],
    "num_attention_heads": [3, 4, 6],
    "intermediate_size": [384, 512],
}
LARGEST = {name: values[-1] for name, values in SPACE.items()}


def main() -> None:
    """Run the searches in turns, and print how they compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny searches, to see that the program works")
    parser.add_argument("--full", action="store_true", help="the template's number of trials")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repetitions", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)  # the kind of search, and the number of workers
    arguments = parser.parse_args()
    if arguments.run is not None:
        print(json.dumps(run(arguments.run[0], int(arguments.run[1]), arguments)))
        return
    results: dict[str, Any] = {"machine": machine(), "date": datetime.now(UTC).date().isoformat(), "runs": []}
    for _ in range(arguments.repetitions):
        for kind in arguments.only:
            for workers in (1, arguments.workers):
                results["runs"].append(in_a_program(kind, workers))
                print(results["runs"][-1], flush=True)
    report(results["runs"], arguments)
    if not arguments.quick:
        write_results("workers", results)


def in_a_program(kind: str, workers: int) -> dict[str, Any]:
    """The result of one search, in a program with one thread."""
    command = [sys.executable, __file__, *sys.argv[1:], "--run", kind, str(workers)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    program = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(program.stdout.splitlines()[-1])
    return result


def run(kind: str, workers: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Search once."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    trials = 20 if arguments.full else 4 if arguments.quick else 12
    steps = (2, 4) if arguments.quick else (40, 150)
    changes: dict[str, dict[str, Any]] = {
        "search": {"search_space": SPACE, "metrics": ["spearman", "parameters"], "max_trials": trials},
        "flash_distillation": {"train_steps": steps[0]},
        "regular_distillation": {"train_steps": steps[1]},
    }
    if kind == "blocks":
        changes["flash_distillation"] = {"train_steps": 4 if arguments.quick else 400}
        changes["regular_distillation"] = {"train_steps": 4}
    if kind == "elastic":  # whose heads are of one size, as the template has them
        changes["search"]["constraints"] = ["hidden_size == 32 * num_attention_heads"]
    with tempfile.TemporaryDirectory() as directory:
        options = Options(quick=arguments.quick, directory=Path(directory))
        setup = sentence_setup(options, **changes)
        search_dir = options.directory / "search"
        agent = setup.search(search_dir, show_progress_bar=False)
        if kind == "elastic":
            elastic = {"train_steps": steps[1] * 2}
            agent.config = agent.config.with_changes(flash_distillation=None, elastic=elastic)
        began = time.perf_counter()
        if kind == "blocks":
            agent.finish(LARGEST, workers=workers if workers > 1 else None)
        else:
            agent.search_loop(workers=workers)
        wall = time.perf_counter() - began
        found = SearchResult.load(search_dir)
        started = [trial.started_at for trial in found if trial.started_at is not None]
        ended = [trial.finished_at for trial in found if trial.finished_at is not None]
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "kind": kind,
        "workers": workers,
        "threads": torch.get_num_threads(),
        "wall": wall,
        "wall_of_trials": (max(ended) - min(started)).total_seconds(),
        "cpu": sum(usage.ru_utime + usage.ru_stime for usage in (own, children)),
        "trials": len(found.completed),
        "best": max(trial.metrics["spearman"] for trial in found.completed),
    }


def report(runs: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """Print the median times, and their ratio."""
    rows = []
    for kind in arguments.only:
        for key, name in (("wall", "whole search, s"), ("wall_of_trials", "trials, s"), ("cpu", "CPU, s")):
            one, several = (
                [run[key] for run in runs if run["kind"] == kind and run["workers"] == workers]
                for workers in (1, arguments.workers)
            )
            ratio = statistics.median(one) / statistics.median(several)
            rows.append([kind, name, *(f"{statistics.median(times):.1f}" for times in (one, several)), f"{ratio:.2f}"])
    print_table("one worker against several", ["search", "", "1 worker", f"{arguments.workers} workers", "ratio"], rows)


if __name__ == "__main__":
    main()
