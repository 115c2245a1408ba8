"""The step loop that flash and regular distillation share."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.config.phase import PhaseConfig
from autodistill.distillation.checkpoints import LoopCheckpoint
from autodistill.distillation.optimization import make_optimizer, make_schedule
from autodistill.errors import ConfigurationError, NonFiniteError
from autodistill.interrupts import is_interrupted, raise_if_interrupted, whole_steps
from autodistill.processes import ALONE, Processes
from autodistill.randomness import isolated_random_state, seed_torch
from autodistill.seeds import derive_seed
from autodistill.tensors import tensors_in

CHECK_EVERY = 20
"""Steps between two checks of the losses: each check waits for the device."""


LossInputs = Callable[[int], Mapping[str, Any]]
"""The inputs of a batch's loss, by the batch's number: names for messages, and the tensors."""


@dataclass(frozen=True)
class StepLoop:
    """Trains parameters for a number of optimizer steps.

    Args:
        name: of the stage, for messages.
        settings: optimizer, learning rate, schedule, clipping, accumulation and precision.
        steps: optimizer updates; each takes `settings.gradient_accumulation_steps` batches in each process.
        seed: the random state of batch number k (dropout) derives from `(seed, k)`, regardless of what ran before.
        report: called as `report(step, loss)` every few steps, for the progress display.
        processes: they share the batches in turn, and take each step together.
    """

    name: str
    settings: PhaseConfig
    steps: int
    seed: int
    device: torch.device
    report: Callable[[int, float], None]
    processes: Processes = ALONE

    def run(
        self,
        parameters: Sequence[nn.Parameter],
        matchers: Sequence[nn.Parameter],
        loss_at: Callable[[int, int], torch.Tensor],
        checkpoint: LoopCheckpoint | None = None,
        clipped_apart: Sequence[Sequence[nn.Parameter]] | None = None,
        buffers: Sequence[torch.Tensor] = (),
        loss_inputs_at: LossInputs = lambda number: {},
    ) -> list[float]:
        """Take the steps and return the loss of each.

        Args:
            parameters: those of the student that the stage trains.
            matchers: the criterion's parameters, trained with them.
            loss_at: `loss_at(step, batch number)` returns the loss to minimise, a scalar with its autograd graph.
            checkpoint: from which an interrupted loop resumes.
            clipped_apart: groups of parameters whose gradients are clipped separately; None clips the norm over all.
            buffers: those of the student; the values of process 0 are sent to all.
            loss_inputs_at: the inputs of the loss, to explain one that is not finite.

        Raises:
            ConfigurationError: the loss depends on none of the parameters.
            NonFiniteError: a loss was NaN or infinite.
            KeyboardInterrupt: a signal ends the search; the step was finished, and its checkpoint written.
        """
        trained = [*parameters, *matchers]
        optimizer = make_optimizer(self.settings, trained)
        schedule = make_schedule(self.settings, optimizer, self.steps)
        optimizer.zero_grad(set_to_none=True)  # the student may already have gradients
        scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.mixed_precision == "fp16")
        others = {"schedule": schedule, "scaler": scaler}
        losses = checkpoint.restore(optimizer, others) if checkpoint is not None else []
        first = len(losses)
        pending: list[torch.Tensor] = []
        with isolated_random_state(self.seed), whole_steps():
            for step in range(first, self.steps):
                with self.processes.together():
                    loss = self._accumulate(step, loss_at, scaler)
                pending.append(self.processes.average_gradients(trained, loss))
                self.processes.broadcast_tensors(buffers)
                if step == first:
                    self._check_gradients(parameters)
                self._update(optimizer, scaler, clipped_apart or [trained])
                schedule.step()
                interrupted = is_interrupted()
                saves = checkpoint is not None and ((step + 1) % checkpoint.every == 0 or interrupted)
                if len(pending) == CHECK_EVERY or saves or step + 1 == self.steps:
                    losses.extend(torch.stack(pending).tolist())
                    pending.clear()
                    self._check_finite(losses, loss_inputs_at)
                    self.report(step + 1, losses[-1])
                if checkpoint is not None and (saves or step + 1 == self.steps):
                    checkpoint.save(losses, optimizer, others)
                if interrupted:
                    raise_if_interrupted()
        return losses

    def _accumulate(
        self, step: int, loss_at: Callable[[int, int], torch.Tensor], scaler: torch.amp.GradScaler
    ) -> torch.Tensor:
        parts = self.settings.gradient_accumulation_steps
        losses: list[torch.Tensor] = []
        for number in self._numbers(step):
            seed_torch(derive_seed(self.seed, number), self.device)
            with autocast(self.device, self.settings.mixed_precision):
                loss = loss_at(step, number) / parts
            if loss.requires_grad:
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return losses[0] if parts == 1 else torch.stack(losses).sum()

    def _numbers(self, step: int) -> range:
        """The batches of this process in a step."""
        taken = self.settings.gradient_accumulation_steps * self.processes.count
        return range(step * taken + self.processes.rank, (step + 1) * taken, self.processes.count)

    def _update(
        self,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        clipped_apart: Sequence[Sequence[nn.Parameter]],
    ) -> None:
        if self.settings.max_grad_norm is not None:
            scaler.unscale_(optimizer)
            for group in clipped_apart:
                nn.utils.clip_grad_norm_(group, self.settings.max_grad_norm)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)

    def _check_gradients(self, parameters: Sequence[nn.Parameter]) -> None:
        if all(parameter.grad is None for parameter in parameters):
            raise ConfigurationError(
                f"the loss of {self.name} must depend on what the stage trains, but it does not: "
                "map a layer inside the block or after it. If the model calls torch.utils.checkpoint itself, gradients "
                "are lost by reentrant checkpointing, since inputs are frozen: call it with use_reentrant=False."
            )

    def _check_finite(self, losses: list[float], loss_inputs_at: LossInputs) -> None:
        for step, loss in enumerate(losses[-CHECK_EVERY:], start=max(0, len(losses) - CHECK_EVERY)):
            if not math.isfinite(loss):
                remedy = self._holding_nan(step, loss_inputs_at) or "lower learning_rate, or set max_grad_norm"
                raise NonFiniteError(
                    f"the loss must stay finite, but became {loss} at step {step} of {self.name}; {remedy}."
                )

    def _holding_nan(self, step: int, loss_inputs_at: LossInputs) -> str | None:
        for number in self._numbers(step):
            for name, value in loss_inputs_at(number).items():
                if any(bool(tensor.isnan().any()) for tensor in tensors_in(value)):
                    return f"{name} already hold NaN for batch {number}: find its cause there"
        return None


def autocast(device: torch.device, mixed_precision: str) -> torch.autocast:
    """The mixed-precision context of a phase: `"no"`, `"bf16"` or `"fp16"`."""
    dtype = torch.float16 if mixed_precision == "fp16" else torch.bfloat16
    return torch.autocast(device.type, dtype=dtype, enabled=mixed_precision != "no")
