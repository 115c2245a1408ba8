"""Flash distillation written plainly: at every step the whole teacher and the whole student run. The reference that the
engine must equal to the bit; it shares only the loss criterion and the derivation of seeds with it."""

from __future__ import annotations

import random

import numpy as np
import torch
from torch import nn
from transformers import get_scheduler

from autodistill.distillation.layers import find_module
from autodistill.randomness import derive_seed
from autodistill.structures import map_tensors


def capture_outputs(model, paths):
    """Hooks that keep what the modules return; gives the dictionary and the handles."""
    outputs = {}

    def keep(path):
        def hook(module, args, output):
            outputs[path] = map_tensors(torch.clone, output)  # later layers may change it in place

        return hook

    handles = [find_module(model, path).register_forward_hook(keep(path)) for path in paths]
    return outputs, handles


def naive_flash(student, teacher, stages, criteria, batches, seed):
    """Train every block of `student` in place, by full forwards of both models."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    required = {parameter: parameter.requires_grad for parameter in student.parameters()}
    torch.backends.mha.set_fastpath_enabled(False)  # nn.TransformerEncoder's, which hands on ragged tensors
    for index, (stage, criterion) in enumerate(zip(stages, criteria, strict=True)):
        blocks = [find_module(student, path) for path in stage.blocks]
        student.eval()
        for parameter in student.parameters():
            parameter.requires_grad = False
        for block in blocks:
            block.train()
            for parameter in block.parameters():
                parameter.requires_grad = required[parameter]
        unique = dict.fromkeys(p for block in blocks for p in block.parameters() if p.requires_grad)
        trained = [*unique, *criterion.parameters()]
        settings = stage.settings
        optimizer = getattr(torch.optim, settings.optimizer)(
            trained, lr=settings.learning_rate, weight_decay=settings.weight_decay, **settings.optimizer_arguments
        )
        schedule = get_scheduler(
            settings.scheduler,
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * stage.steps),
            num_training_steps=stage.steps,
        )
        for step in range(stage.steps):
            torch.manual_seed(derive_seed(derive_seed(seed, "flash", index), step))
            batch = batches[step % len(batches)]
            teacher_outputs, handles = capture_outputs(teacher, {tap.path for tap in stage.teacher_taps})
            with torch.no_grad():
                batch.call(teacher.eval())
            for handle in handles:
                handle.remove()
            student_outputs, handles = capture_outputs(student, {tap.path for tap in stage.student_taps})
            batch.call(student)
            for handle in handles:
                handle.remove()
            loss = criterion.loss_cal(
                {tap: tap.extract(student_outputs[tap.path]) for tap in stage.student_taps},
                {tap: tap.extract(teacher_outputs[tap.path]) for tap in stage.teacher_taps},
                batch,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            schedule.step()
    student.eval()
    for parameter, flag in required.items():
        parameter.requires_grad = flag
    torch.backends.mha.set_fastpath_enabled(True)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
