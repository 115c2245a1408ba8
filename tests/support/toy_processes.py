"""Scenarios of several processes, as a program under `accelerate launch`: toy_processes.py DIRECTORY SCENARIO...

Every process writes what it observed in a scenario to `DIRECTORY/<scenario>-<rank>.json`.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import sys
import weakref
from pathlib import Path

import torch
import toy_search
from small_models import ConvolutionalNetwork, Transformer
from torch import nn
from toy_search import make_config, make_search

from autodistill import SearchStoppedError, TrialError
from autodistill.config import AutoDistillationConfig
from autodistill.distillation.step_loop import StepLoop
from autodistill.distiller import Distiller
from autodistill.processes import current_processes
from autodistill.tensors import content_hash
from autodistill.training import TrainingContext

SPACE = {"width": [8, 12], "depth": [1, 2]}
UNUSABLE = "/dev/null/search"  # a process that writes to this path fails


def config(max_trials=3, **settings):
    search = make_config(search_space=SPACE, search_algorithm="Grid", max_trials=max_trials)
    return search | {"regular_distillation": {"train_steps": 9}, "checkpoint_steps": 3} | settings


def searching(directory, name, *, students=None, **arguments):
    """A search in which process 0 alone has a directory; `students` collects those that this process trains."""

    def builder(architecture):
        student = Transformer(**architecture)
        if students is not None:
            students[str(architecture)] = student
        return student

    path = directory / name if current_processes().is_main else UNUSABLE
    search = make_search(path, **{"config": config(), **arguments})
    search.model_builder = builder
    return search


def hashes(students):
    return {name: content_hash(student.state_dict()) for name, student in students.items()}


def search(directory):
    students = {}
    best = searching(directory, "search", students=students).search_loop()
    return {"best": best, "students": hashes(students), "pid": os.getpid()}


def promoting(directory):
    """Trials are trained in two parts, as process 0 decides."""
    settings = config()
    settings["search"] |= {"promote": 0.5}
    students = {}
    best = searching(directory, "promoting", students=students, config=settings).search_loop()
    return {"best": best, "students": hashes(students)}


def killed(directory):
    """Kill process 0 at the eighth optimizer step of regular distillation, two steps after a checkpoint."""
    update, steps = StepLoop._update, []

    def counting(loop, *arguments):
        steps.append(loop.name)
        if current_processes().is_main and steps.count("regular distillation") == 8:
            os.kill(os.getpid(), signal.SIGKILL)
        update(loop, *arguments)

    StepLoop._update = counting
    searching(directory, "killed").search_loop()


def resumed(directory):
    update, steps = StepLoop._update, []

    def counting(loop, *arguments):
        steps.append(loop.name)
        update(loop, *arguments)

    StepLoop._update = counting
    students = {}
    searching(directory, "killed", students=students).search_loop(n_trials=1)
    StepLoop._update = update
    return {"students": hashes(students), "steps": steps.count("regular distillation")}


class Failing(Transformer):
    """Fails while it trains in one process, or when it is evaluated."""

    def forward(self, tokens):
        rank, width, depth = current_processes().rank, self.head.in_features, len(self.layers)
        if self.head.weight.requires_grad and self.training and rank == 1 and depth == 2:
            if width == 8:
                raise RuntimeError("out of luck")
            return super().forward(tokens) * float("nan")
        return super().forward(tokens)


def failing(directory):
    def evaluate(student):
        if len(student.layers) == 1 and student.head.in_features == 8:
            raise OSError("nothing to evaluate with")
        return toy_search.evaluate(student)

    search = searching(directory, "failing", config=config(max_trials=4), eval_func=evaluate)
    search.model_builder = lambda architecture: Failing(**architecture)
    return {"best": search.search_loop()}


def stopping(directory):
    def fail(student):
        raise OSError("nothing to evaluate with")

    try:
        searching(directory, "stopping", eval_func=fail).search_loop()
    except SearchStoppedError as error:
        return {"error": str(error)}


def evaluating(directory):
    return searching(directory, "none").train_evaluate({"width": 8, "depth": 1})


def buffers(directory):
    """Batch normalisation with different batches in every process."""
    generator = torch.Generator().manual_seed(0)
    images = [torch.randn(4, 1, 8, 8, generator=generator) for _ in range(6)]
    settings = AutoDistillationConfig.load(
        {
            "search": {"search_space": SPACE, "metrics": ["loss"]},
            "regular_distillation": {"train_steps": 5, "add_origin_loss": False},
        }
    )
    torch.manual_seed(current_processes().rank)  # students that differ, until process 0 sends its weights
    student, teacher = ConvolutionalNetwork(3, 1), ConvolutionalNetwork(4, 1)
    distil = Distiller(
        teacher, settings, [(i, None) for i in images], torch.device("cpu"), processes=current_processes()
    )
    before = content_hash(student.state_dict())
    records = distil.train(student, TrainingContext(seed=0)).stages
    return {
        "before": before,
        "after": content_hash(student.state_dict()),
        "batches": int(student.blocks[0].body[1].num_batches_tracked),
        "loss": records[-1].last_loss,
    }


def exchanges(directory):
    """Gradients that exist only in some processes, and tensors of every kind."""
    processes = current_processes()
    parameters = [nn.Parameter(torch.zeros(2)) for _ in range(3)]
    parameters[processes.rank].grad = torch.full((2,), 1.0 + processes.rank)
    loss = processes.average_gradients(parameters, torch.tensor(float(processes.rank)))
    kinds = [torch.tensor(7 - processes.rank), torch.tensor([processes.is_main, False]), torch.zeros(0)]
    kinds += [torch.full((3,), 0.1 + processes.rank, dtype=dtype) for dtype in (torch.bfloat16, torch.float64)]
    processes.broadcast_tensors(kinds)
    return {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in parameters],
        "loss": loss.item(),
        "kinds": [kind.tolist() for kind in kinds],
        "message": processes.broadcast({"from": processes.rank}, source=1),
    }


def parting(directory):
    """Fail in process 1 after the exchange of the second step, while process 0 continues with the third."""
    processes, parameter, step = current_processes(), nn.Parameter(torch.zeros(1)), 0
    try:
        with processes.together():
            for step in range(4):
                with processes.together():
                    parameter.grad = torch.ones(1)
                processes.average_gradients([parameter], torch.tensor(0.0))
                if step == processes.rank == 1:
                    raise KeyError("lost")
    except (TrialError, KeyError) as error:
        return {"step": step, "error": f"{type(error).__name__}: {error}"}


def write_remaining_groups(folder, groups):
    path = folder / f"left-{os.environ['RANK']}.json"
    path.write_text(json.dumps({"groups": [group() is not None for group in groups]}))


if __name__ == "__main__":
    folder, groups = Path(sys.argv[1]), []
    atexit.register(write_remaining_groups, folder, groups)  # registered first, it runs last
    for scenario in sys.argv[2:]:
        observed = globals()[scenario](folder)
        (folder / f"{scenario}-{current_processes().rank}.json").write_text(json.dumps(observed))
    groups.append(weakref.ref(current_processes()._group))
