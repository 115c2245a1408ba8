"""A naive implementation of flash distillation: at every step the whole teacher and the whole student run. It is the
reference that the engine must equal bit for bit. Its losses, its masks and its mapping of blocks are its own; the two
share the matchers and the derivation of seeds. The functions below it run both on the same student."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import get_scheduler

from autodistill.config import AutoDistillationConfig
from autodistill.config.phase import PhaseConfig
from autodistill.distillation.flash import FlashDistillation
from autodistill.distiller import Distiller
from autodistill.models.module_paths import find_module
from autodistill.seeds import derive_seed
from autodistill.tensors import map_tensors
from autodistill.training import TrainingContext


def _optimizer(settings: PhaseConfig, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The configured optimizer; Adam and AdamW update all parameters in one pass, which rounds differently."""
    fused = {"fused": True} if settings.optimizer in ("Adam", "AdamW") else {}
    return getattr(torch.optim, settings.optimizer)(
        parameters,
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        **fused | settings.optimizer_arguments,
    )


def capture_outputs(model, paths):
    """Register hooks that record what the modules return; return the dictionary and the handles."""
    outputs = {}

    def keep(path):
        def hook(module, args, output):
            outputs[path] = map_tensors(torch.clone, output)  # later layers may change it in place

        return hook

    handles = [find_module(model, path).register_forward_hook(keep(path)) for path in paths]
    return outputs, handles


def capture(model, taps):
    """The same for taps, which may record the input of a module; return the handles and a function for the features."""
    inputs = {}

    def keep(path):
        def hook(module, args, kwargs):
            inputs[path] = (args[0] if args else next(iter(kwargs.values()))).clone()

        return hook

    outputs, handles = capture_outputs(model, {tap.path for tap in taps})
    for tap in taps:
        if tap.process == "input":
            handles.append(find_module(model, tap.path).register_forward_pre_hook(keep(tap.path), with_kwargs=True))
    return handles, lambda: {
        tap: inputs[tap.path] if tap.process == "input" else tap.extract(outputs[tap.path]) for tap in taps
    }


def naive_mask(path, content):
    """(N, L), True where a position counts: in a decoder with targets by their labels, else by `attention_mask`."""
    if not isinstance(content, dict):
        return None
    if path.startswith("decoder") and "labels" in content:
        return content["labels"] != -100
    return content["attention_mask"].bool() if "attention_mask" in content else None


def naive_mean(values, mask):
    """The mean of (N, L, ...) over the positions that count."""
    if mask is None or bool(mask.all()):
        return values.mean()
    mask = mask.reshape(mask.shape + (1,) * (values.dim() - 2)).expand_as(values)
    return torch.where(mask, values, 0).sum() / mask.sum()


def naive_term(kind, student, teacher, mask):
    """A loss between two features: (N, C), (N, L, C), images (N, C, H, W) or attention (N, heads, L, L)."""
    if student.dim() == 4 and kind == "KL":  # the probabilities of a query, over the keys
        tiny = torch.finfo(student.dtype).tiny
        logarithms = student.clamp(min=tiny).log() - student.sum(-1, keepdim=True).clamp(min=tiny).log()
        return naive_mean(F.kl_div(logarithms, teacher, reduction="none").sum(-1).movedim(1, -1), mask)
    if student.dim() == 4:
        student, teacher = student.movedim(1, -1), teacher.movedim(1, -1)
    if kind == "KL":
        logarithms = [F.log_softmax(logits, dim=-1) for logits in (student, teacher)]
        return naive_mean(F.kl_div(*logarithms, reduction="none", log_target=True).sum(-1), mask)
    if kind == "cosine":
        return naive_mean(1 - F.cosine_similarity(student, teacher, dim=-1), mask)
    assert kind in ("MSE", "NMSE"), kind
    error = naive_mean((student - teacher).square().mean(-1), mask)
    return error if kind == "MSE" else error / naive_mean(teacher.square().mean(-1), mask)


def naive_loss(stage, matchers, student, teacher, content, mask_of=naive_mask):
    """The weighted sum of a stage's losses on one batch; `mask_of` returns a layer's mask, as `naive_mask` does."""
    total = torch.zeros(())
    for mapping, kind, weight, matcher in zip(
        stage.mappings, stage.loss_types, stage.loss_weights, matchers, strict=True
    ):
        feature = matcher(student[mapping.student])
        mask = mask_of(mapping.student.path, content) if feature.dim() > 2 else None
        total = total + weight * naive_term(kind, feature, teacher[mapping.teacher], mask)
    return total


def naive_mapping(student_depth, teacher_depth):
    """For each block of the student the index of the teacher's, evenly spaced, the last one to the last one."""
    return [round((index + 1) * teacher_depth / student_depth) - 1 for index in range(student_depth)]


def naive_flash(student, teacher, stages, criteria, batches, seed, mask_of=naive_mask):
    """Train every block of `student` in place, by full forwards of both models; return the last loss of each."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    required = {parameter: parameter.requires_grad for parameter in student.parameters()}
    torch.backends.mha.set_fastpath_enabled(False)  # that of nn.TransformerEncoder returns ragged tensors
    last_losses = []
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
        optimizer = _optimizer(settings, trained)
        schedule = get_scheduler(
            settings.scheduler,
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * stage.steps),
            num_training_steps=stage.steps,
        )
        for step in range(stage.steps):
            torch.manual_seed(derive_seed(derive_seed(seed, "flash", index), step))
            batch = batches[step % len(batches)]
            handles, teacher_features = capture(teacher, stage.teacher_taps)
            with torch.no_grad():
                batch.call(teacher.eval())
            for handle in handles:
                handle.remove()
            handles, student_features = capture(student, stage.student_taps)
            batch.call(student)
            for handle in handles:
                handle.remove()
            loss = naive_loss(
                stage, criterion.feature_matchers, student_features(), teacher_features(), batch.content, mask_of
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
            optimizer.step()
            schedule.step()
        last_losses.append(loss.item())
    student.eval()
    for parameter, flag in required.items():
        parameter.requires_grad = flag
    torch.backends.mha.set_fastpath_enabled(True)
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    return last_losses


def make_distiller(teacher, data, device="cpu", **flash):
    """A distiller for a few steps of flash distillation."""
    config = AutoDistillationConfig.load(
        {
            "search": {"search_space": {"width": [1]}, "metrics": ["loss"]},
            "flash_distillation": {"train_steps": 6, "learning_rate": 1e-2} | flash,
        }
    )
    return Distiller(teacher, config, data, torch.device(device))


def distil(student, distiller, *, replay=True):
    """Run the engine, with replay or without; return its records."""
    plan = distiller.resolve(student)
    flash_set = distiller.flash_set.with_later_taps(plan.teacher_taps)
    engine = FlashDistillation(student, plan.flash, plan.flash_criteria, flash_set, replay=replay)
    return engine.run(TrainingContext(seed=7))


def distil_both_ways(student, distiller, *, replay=True, mask_of=naive_mask):
    """Distil a student by the engine and by the reference; return both, and the engine's records."""
    twin = copy.deepcopy(student)
    records = distil(student, distiller, replay=replay)
    plan = distiller.resolve(twin)
    batches = distiller.flash_set.batches
    naive_flash(twin, distiller.teacher, plan.flash, plan.flash_criteria, batches, seed=7, mask_of=mask_of)
    return student, twin, records


def largest_difference(left, right):
    """The largest absolute difference between the weights and buffers of two models."""
    pairs = zip(left.state_dict().values(), right.state_dict().values(), strict=True)
    return torch.stack([(a.double() - b.double()).abs().max() for a, b in pairs]).max().item()  # NaN stays NaN


def assert_identical(left, right):
    """Both models have the same parameters and buffers, to the bit."""
    for (name, a), (_, b) in zip(left.state_dict().items(), right.state_dict().items(), strict=True):
        assert torch.equal(a, b), name


def naive_teacher_fed(student, teacher, stages, criteria, batches, seed, project=lambda hidden: hidden):
    """Train every block of `student` in place, each between two hidden states of the teacher, one after the other. The
    other arguments of a block come from full forwards of the initial student. Return the losses of each."""
    original = copy.deepcopy(student).eval()
    for module in original.modules():
        if hasattr(module, "config"):
            module.config.use_cache = False  # otherwise a call contains a cache that grows whenever it is repeated
    torch.backends.mha.set_fastpath_enabled(False)
    curves = []
    for index, (stage, criterion) in enumerate(zip(stages, criteria, strict=True)):
        block, settings = find_module(student, stage.blocks[0]), stage.settings
        block.train()
        parameters = list(block.parameters())
        optimizer = _optimizer(settings, parameters)
        schedule = get_scheduler(
            settings.scheduler,
            optimizer,
            num_warmup_steps=round(settings.warmup_ratio * stage.steps),
            num_training_steps=stage.steps,
        )
        curves.append([])
        for step in range(stage.steps):
            batch = batches[step % len(batches)]
            args, kwargs = _first_call(find_module(original, stage.blocks[0]), original, batch)
            hidden = _teachers_hidden_state(teacher, stage.input.teacher, batch)
            if args:
                args = (project(hidden), *args[1:])
            else:
                kwargs["hidden_states"] = project(hidden)
            outputs, handles = capture_outputs(student, {mapping.student.path for mapping in stage.mappings})
            torch.manual_seed(derive_seed(derive_seed(seed, "flash", index), step))
            block(*args, **kwargs)
            for handle in handles:
                handle.remove()
            targets = {
                mapping.teacher: _teachers_hidden_state(teacher, mapping.teacher, batch) for mapping in stage.mappings
            }
            block_target = next(m.teacher for m in stage.mappings if m.student.path == stage.blocks[0])
            loss = naive_loss(
                stage,
                criterion.feature_matchers,
                {m.student: m.student.extract(outputs[m.student.path]) for m in stage.mappings},
                targets | {block_target: project(targets[block_target])},
                batch.content,
            )
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, settings.max_grad_norm)
            optimizer.step()
            schedule.step()
            curves[-1].append(loss.item())
        student.eval()
    torch.backends.mha.set_fastpath_enabled(True)
    return curves


def _first_call(module, model, batch):
    calls = []
    handle = module.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    with torch.no_grad():
        batch.call(model)
    handle.remove()
    (call,) = calls
    return call


def _teachers_hidden_state(teacher, tap, batch):
    """A feature of the teacher, by a full forward; with the process "input" the first argument of a module."""
    if tap.process == "input":
        args, kwargs = _first_call(find_module(teacher, tap.path), teacher.eval(), batch)
        return args[0] if args else kwargs["hidden_states"]
    outputs, handles = capture_outputs(teacher, {tap.path})
    with torch.no_grad():
        batch.call(teacher.eval())
    for handle in handles:
        handle.remove()
    return tap.extract(outputs[tap.path])
