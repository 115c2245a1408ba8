"""Replay: a block's inputs are captured once, and the block is trained alone on them.

The inputs of block i over the whole flash set are captured in one pass. When the block is finished, its outputs replace
them, and the model runs with the finished blocks' `forward` patched to return what they returned, which moves the
captured inputs to block i + 1 without running any finished block twice. The modules stay in place meanwhile, since
models read their attributes and hooks.

Replay computes exactly the same as full forwards if the block receives the same inputs at every step. `replay_blockers`
reports where it does not; what cannot be known in advance is verified bit for bit on real batches.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.distillation.plan import Stage
from autodistill.models.calls import Call, removing
from autodistill.models.module_paths import find_module, is_inside
from autodistill.tensors import Container, container_kind, elements, identical, map_tensors, nodes

logger = logging.getLogger(__name__)


STORABLE = (torch.Tensor, bool, int, float, str, type(None), torch.dtype, torch.device)
PLAIN = (tuple, list, dict, torch.Size)


def replay_blockers(stages: Sequence[Stage], student: nn.Module, batch: Batch) -> list[str | None]:
    """For each stage the reason why it cannot be replayed, or None if it can.

    Runs the student, which must be frozen, once on `batch`, and each block once more.
    """
    blockers = [_blocker_by_form(stage, student) for stage in stages]
    alone = [stage.blocks[0] for stage, blocker in zip(stages, blockers, strict=True) if blocker is None]
    found = _blockers_by_running(student, {block: find_module(student, block) for block in alone}, batch)
    return [blocker or found[stage.blocks[0]] for stage, blocker in zip(stages, blockers, strict=True)]


def _blocker_by_form(stage: Stage, student: nn.Module) -> str | None:
    if len(stage.blocks) > 1:
        return "it trains several modules together"
    block = stage.blocks[0]
    if stage.add_origin_loss:
        return "the student's own loss needs its whole forward"
    outside = [tap.path for tap in stage.student_taps if not is_inside(tap.path, block)]
    if outside:
        return f"the mapped layer {outside[0]!r} lies outside the block"
    module = find_module(student, block)
    shared = _parameter_shared_outside(student, module)
    if shared is not None:
        return f"its parameter {shared!r} is shared with a module outside the block"
    return None


def _parameter_shared_outside(student: nn.Module, block: nn.Module) -> str | None:
    members = set(block.modules())
    outside = {
        id(p) for m in student.modules() if m not in members for p in (*m._parameters.values(), *m._buffers.values())
    }
    tensors = (*block.named_parameters(), *block.named_buffers())
    return next((name for name, tensor in tensors if id(tensor) in outside), None)


def _blockers_by_running(student: nn.Module, blocks: Mapping[str, nn.Module], batch: Batch) -> dict[str, str | None]:
    """What one full forward reveals: how often each block runs, its inputs, and whether alone it returns the same."""
    calls: dict[nn.Module, list[Call]] = {block: [] for block in blocks.values()}
    outputs: dict[nn.Module, Any] = {}

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        calls[module].append(Call(copied(args), copied(kwargs)))

    def after(module: nn.Module, args: Any, output: Any) -> None:
        outputs[module] = copied(output)

    handles = [block.register_forward_pre_hook(before, with_kwargs=True) for block in calls]
    handles += [block.register_forward_hook(after) for block in calls]
    with removing(*handles):
        if blocks:
            batch.call(student)
    return {path: _blocker_of_calls(block, calls[block], outputs.get(block)) for path, block in blocks.items()}


def _blocker_of_calls(block: nn.Module, calls: Sequence[Call], output: Any) -> str | None:
    if len(calls) != 1:
        return f"it runs {len(calls)} times in one forward" if calls else "it never runs in the student's forward"
    unknown = _unstorable(calls[0])
    if unknown is not None:
        return f"its argument {unknown} cannot be stored"
    other = next((node for node in nodes(output) if dataclasses.is_dataclass(node) and elements(node) is None), None)
    if other is not None:
        return f"it returns a {type(other).__name__}, which cannot be stored"
    call = Call(copied(calls[0].args), copied(calls[0].kwargs))
    if not identical(copied(call(block)), output):
        return "alone it does not return what it returns inside the student"
    return None if call.same_as(calls[0]) else "it changes its input in place"


def _unstorable(call: Call) -> str | None:
    named = [*((f"number {index}", value) for index, value in enumerate(call.args)), *call.kwargs.items()]
    for name, value in named:
        for node in nodes(value):
            if not _is_storable(node):
                return f"{name} (a {type(node).__name__})"
    return None


def _is_storable(node: Any) -> bool:
    """Whether a value or a container can be stored and rebuilt; other classes may have further attributes."""
    return isinstance(node, STORABLE) or type(node) in PLAIN or container_kind(node.__class__) is Container.NAMED_TUPLE


def copied(structure: Any) -> Any:
    return map_tensors(lambda tensor: tensor.detach().clone(), structure)
