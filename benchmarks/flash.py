"""The engine of flash distillation against the naive loop, compared in one run.

    python benchmarks/flash.py [--quick] [--depths 6 24] [--widths 256 128] [--repetitions 5]

The naive loop runs the whole teacher and the whole student at every step of every block (with correct freezing and
trained matchers, without caches); the engine computes the same weights. The teachers are BERT encoders of width 384:
the pre-trained MiniLM (6 blocks), and a random one of 24 blocks. Batches are 16 x 64 tokens of the standard library's
docstrings. The students have no dropout, so that every variant computes the same. Variants run in alternation, and
medians are reported.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from common import Timing, in_turns, machine, print_table, read_results, write_results
from text import minilm_directory, token_batches
from torch import nn
from transformers import BertConfig, BertModel, get_scheduler

from autodistill.config import AutoDistillationConfig
from autodistill.distiller import Distiller, Storage
from autodistill.models.taps import TapRecorder
from autodistill.training import TrainingContext

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))
from naive_distillation import naive_flash

SEED = 0
GOALS = {  # (blocks, width) -> (cold, warm): speedup over the naive loop
    (6, 256): (3.5, 5.0),
    (6, 128): (4.5, 9.0),
    (24, 256): (11.0, 15.0),
    (24, 128): (12.0, 27.0),
}
GOAL_OF_ONE_PASS = 1.33
Trained = tuple[nn.Module, list[float]]


@dataclass(frozen=True)
class Case:
    """One teacher and one student.

    Attributes:
        depth: the number of blocks of both.
        width: the width of the student; its heads have 32 channels, as those of the teacher.
        steps: the number of steps of each block, for all variants except the naive one.
        naive_steps: the number of steps of each block for the naive loop, whose steps all cost the same.
    """

    depth: int
    width: int
    steps: int
    naive_steps: int


def bert(width: int, depth: int, seed: int, **settings: Any) -> BertModel:
    """A random BERT encoder with heads of 32 channels."""
    config = BertConfig(
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=width // 32,
        intermediate_size=4 * width,
        **settings,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BertModel(config).eval()


def load_teacher(depth: int) -> BertModel:
    """The pre-trained MiniLM for 6 blocks, else a random encoder of its width."""
    return BertModel.from_pretrained(minilm_directory()).eval() if depth == 6 else bert(384, depth, seed=1)


@dataclass
class Bench:
    """The variants of one case. Each method prepares a run, untimed, and returns the function to be timed.

    Attributes:
        case: the teacher and student.
        teacher: in eval mode.
        data: at least `case.steps` batches.
        directory: the directory of the teacher cache files.
        results: the student and the last loss of each block of the latest run of each variant.
    """

    case: Case
    teacher: nn.Module
    data: Sequence[dict[str, torch.Tensor]]
    directory: Path
    results: dict[str, Trained] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._student = bert(
            self.case.width, self.case.depth, SEED, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
        )
        self._long, self._short = self.distiller(self.case.steps), self.distiller(self.case.naive_steps)
        for distiller in (
            self._long,
            self._short,
        ):  # the caches are warm, as they are from the second trial of a search
            for batch in distiller.flash_set.batches:
                distiller.cache.features(batch, distiller.resolve(self.student()).teacher_taps)

    def student(self) -> nn.Module:
        """The untrained student, the same one every time."""
        return copy.deepcopy(self._student)

    def distiller(self, steps: int, directory: Path | None = None) -> Distiller:
        """A distiller with empty caches."""
        config = AutoDistillationConfig.load(
            {
                "search": {"search_space": {"width": [self.case.width]}, "metrics": ["loss"]},
                "flash_distillation": {"train_steps": steps, "automatic_mapping": "blocks"},  # embeddings are frozen
            }
        )
        return Distiller(self.teacher, config, self.data[:steps], torch.device("cpu"), Storage(directory))

    def naive(self) -> Callable[[], None]:
        """Full forwards of both models at every step."""
        student = self.student()
        plan, batches = self._short.resolve(student), self._short.flash_set.batches

        def run() -> None:
            losses = naive_flash(student, self.teacher, plan.flash, plan.flash_criteria, batches, SEED)
            self.results["naive"] = student, losses

        return run

    def cold(self) -> Callable[[], None]:
        """The first trial of a search: the time includes hashes, teacher forwards and writing the cache to disk."""
        student = self.student()
        directory = Path(tempfile.mkdtemp(dir=self.directory))
        return lambda: self._ours("cold", self.distiller(self.case.steps, directory), student)

    def warm(self) -> Callable[[], None]:
        """A later trial of a search."""
        student = self.student()
        return lambda: self._ours("warm", self._long, student)

    def warm_short(self) -> Callable[[], None]:
        """A later trial with as many steps as the naive loop: shows the costs that do not depend on steps."""
        student = self.student()
        return lambda: self._ours("warm, short", self._short, student)

    def _ours(self, name: str, distiller: Distiller, student: nn.Module) -> None:
        records = distiller.train(student, TrainingContext(SEED)).stages
        assert all(record.mode == "replay" for record in records), records
        self.results[name] = student, [record.last_loss for record in records]

    def torchdistill(self) -> Callable[[], None]:
        """The same stages by torchdistill, for as many steps as the naive loop takes."""
        from peers.torchdistill_flash import torchdistill_run

        student = self.student()
        plan, batches = self._short.resolve(student), self._short.flash_set.batches
        run = torchdistill_run(student, copy.deepcopy(self.teacher), plan.flash, plan.flash_criteria, batches)
        return lambda: self.results.update(torchdistill=(student.eval(), run()))

    def plain(self) -> Callable[[], None]:
        """One training pass of the student, embeddings frozen, towards the teacher's last block (cached)."""
        return self._pass("plain", slice(-1, None))

    def plain_all(self) -> Callable[[], None]:
        """The same towards all of the teacher's blocks, with the losses and matchers of flash distillation together."""
        return self._pass("plain, all blocks", slice(None))

    def _pass(self, name: str, kept: slice) -> Callable[[], None]:
        student, settings = self.student(), self._long.config.flash_distillation
        plan = self._long.resolve(student)
        stages, criteria = plan.flash[kept], plan.flash_criteria[kept]
        student.embeddings.requires_grad_(False)
        student.encoder.train()
        matchers = [parameter for criterion in criteria for parameter in criterion.parameters()]
        trained = [*student.encoder.parameters(), *matchers]
        optimizer = torch.optim.AdamW(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
        schedule = get_scheduler(
            settings.scheduler, optimizer, round(settings.warmup_ratio * self.case.steps), self.case.steps
        )
        taps = [tap for stage in stages for tap in stage.student_taps]

        def run() -> None:
            losses: list[torch.Tensor] = []
            for batch in self._long.flash_set.batches:
                teacher = self._long.cache.features(batch, plan.teacher_taps)
                with TapRecorder(student, taps) as recorder:
                    features = recorder.run(lambda: batch.call(student))  # noqa: B023
                losses = [criterion.loss_cal(features, teacher, batch) for criterion in criteria]
                optimizer.zero_grad()
                torch.stack(losses).sum().backward()
                nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
                optimizer.step()
                schedule.step()
            self.results[name] = student, [loss.item() for loss in losses]

        return run

    def forward(self, model: nn.Module) -> Callable[[], Callable[[], None]]:
        """A forward of a model over four batches."""

        @torch.no_grad()
        def run() -> None:
            for batch in self._long.flash_set.batches[:4]:
                batch.call(model)

        return lambda: run

    def weight_difference(self, left: str, right: str) -> float:
        """The largest absolute difference between the weights of two variants."""
        a, b = self.results[left][0].state_dict(), self.results[right][0].state_dict()
        return max((a[name].double() - b[name].double()).abs().max().item() for name in a)


def run_case(case: Case, teacher: nn.Module, data: Sequence[Any], repetitions: int, peer: bool) -> dict[str, Any]:
    """Run all variants of a case in alternation; return the results."""
    with tempfile.TemporaryDirectory() as directory:
        bench = Bench(case, teacher, data, Path(directory))
        variants = {
            "naive": bench.naive,
            "cold": bench.cold,
            "warm": bench.warm,
            "warm, short": bench.warm_short,
            "plain": bench.plain,
            "plain, all blocks": bench.plain_all,
            "T": bench.forward(teacher),
            "S": bench.forward(bench.student()),
        }
        if peer:
            variants["torchdistill"] = bench.torchdistill
        timings = in_turns(variants, repetitions)
        units = {"naive": case.naive_steps, "torchdistill": case.naive_steps, "T": 4, "S": 4, "warm, short": 1}
        per_step = {name: timing.per(units.get(name, case.steps)) for name, timing in timings.items()}
        compared = [name for name in ("warm, short", "torchdistill") if name in variants]
        return {
            "depth": case.depth,
            "width": case.width,
            "steps": case.steps,
            "naive_steps": case.naive_steps,
            "seconds_per_step_of_all_blocks": {name: timing.to_json() for name, timing in per_step.items()},
            "ratios": ratios(case, per_step),
            "last_losses": {name: losses for name, (_, losses) in bench.results.items()},
            "weight_difference_from_naive": {name: bench.weight_difference("naive", name) for name in compared},
        }


def ratios(case: Case, per_step: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """The speedups that are compared with the goals, by wall-clock and by CPU time, and their theoretical bounds."""
    n, found = case.depth, {}
    for clock in ("median", "cpu_median"):
        t = {name: getattr(timing, clock) for name, timing in per_step.items()}
        # A trial also has costs that do not depend on steps; they matter less when blocks train longer.
        step = (t["warm"] * case.steps - t["warm, short"]) / (case.steps - case.naive_steps)
        naive = n * (t["T"] + t["S"]) + 2 * t["S"]
        engine = (4 - 1 / n) * t["S"]  # the last block's outputs are not needed
        found["wall" if clock == "median" else "cpu"] = {
            "cold": t["naive"] / t["cold"],
            "warm": t["naive"] / t["warm"],
            "warm, steps alone": t["naive"] / step,
            "bound cold": naive / (t["T"] + engine),
            "bound warm": naive / engine,
            "warm / one pass": t["warm"] / t["plain"],
            "warm / one pass, all blocks": t["warm"] / t["plain, all blocks"],
            "steps alone / one pass, all blocks": step / t["plain, all blocks"],
            **({"torchdistill / warm": t["torchdistill"] / t["warm"]} if "torchdistill" in t else {}),
        }
    return found


def report_case(result: dict[str, Any]) -> None:
    """Print the times, the last losses and the memory of one case."""
    title = f"{result['depth']} blocks, student width {result['width']}: {result['steps']} steps a block"
    rows = []
    for name, timing in result["seconds_per_step_of_all_blocks"].items():
        losses, memory = result["last_losses"].get(name), timing["peak_mib"]
        unit = 1 if name == "warm, short" else 1000
        rows.append(
            [
                f"{name} ({result['naive_steps']} steps, s in all)" if unit == 1 else name,
                f"{unit * timing['wall_median']:.1f}",
                f"{unit * timing['cpu_median']:.1f}",
                f"{losses[-1]:.6f}" if losses else "",
                f"{memory:.0f}" if memory is not None else "",
            ]
        )
    print_table(title, ["variant", "ms a step of all blocks", "CPU ms", "last loss", "peak MiB"], rows)
    for name, difference in result["weight_difference_from_naive"].items():
        print(f"largest weight difference between naive and {name}: {difference:g}\n")


def report_ratios(results: list[dict[str, Any]]) -> None:
    """Print the ratios of all cases next to their goals."""
    rows = []
    for result in results:
        case = f"{result['depth']} x {result['width']}"
        cold, warm = GOALS.get((result["depth"], result["width"]), (None, None))
        goals = {"cold": cold, "warm": warm, "warm / one pass": GOAL_OF_ONE_PASS}
        for name, wall in result["ratios"]["wall"].items():
            rows.append([case, name, f"{wall:.2f}", f"{result['ratios']['cpu'][name]:.2f}", goals.get(name) or ""])
    print_table("ratios", ["blocks x width", "ratio", "wall", "CPU", "goal"], rows)


def main() -> None:
    """Run the cases, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small case in under a minute")
    parser.add_argument("--depths", type=int, nargs="+", default=[6, 24], choices=[6, 24])
    parser.add_argument("--widths", type=int, nargs="+", default=[256, 128])
    parser.add_argument("--repetitions", type=int, help="of every variant; by default 3 for 6 blocks and 2 for 24")
    parser.add_argument("--peer", action="store_true", help="torchdistill too (see `make bench-peers`)")
    arguments = parser.parse_args()
    description = machine()
    lengths = {6: (48, 4), 24: (32, 1)}  # depth: steps, naive steps
    repetitions = {6: 3, 24: 2}  # medians; more would make the default run longer than ten minutes
    if arguments.quick:
        arguments.depths, arguments.widths, lengths, repetitions = [6], [128], {6: (8, 2)}, {6: 1}
    name = "flash-peers" if arguments.peer else "flash-quick" if arguments.quick else "flash"
    data = token_batches(max(lengths[depth][0] for depth in arguments.depths))
    results = {(case["depth"], case["width"]): case for case in read_results(name).get("cases", [])}
    for depth in arguments.depths:
        teacher = load_teacher(depth)
        for width in arguments.widths:
            case = Case(depth, width, *lengths[depth])
            rounds = arguments.repetitions or repetitions[depth]
            result = {"machine": description} | run_case(case, teacher, data, rounds, arguments.peer)
            report_case(result)
            results[depth, width] = result
            # After every case: an interrupted run keeps its cases, and those of earlier runs are kept too.
            write_results(name, {"cases": [results[key] for key in sorted(results)]})
    report_ratios([results[key] for key in sorted(results)])


if __name__ == "__main__":
    main()
