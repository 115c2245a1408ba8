"""A small runner: trains a student with a frozen teacher on batches of mappings; its loss is a sum of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch, next_labels
from autodistill.config.phase import PhaseConfig
from autodistill.data_stream import DataStream
from autodistill.distillation.step_loop import StepLoop
from autodistill.errors import ConfigurationError
from autodistill.models.calls import call_by_names, named_arguments
from autodistill.models.label_shift import find_label_shift
from autodistill.models.masks import OUTPUT, Masks, find_masks
from autodistill.models.modes import plain_forward, training_only
from autodistill.models.taps import AUTO, Tap, TapRecorder, main_part
from autodistill.standalone.callbacks import (
    HIDDEN_STATES_MASK,
    LOGITS_MASK,
    STUDENT_HIDDEN_STATES,
    TEACHER_HIDDEN_STATES,
    LossCallback,
)
from autodistill.tensors import identical


class DistilRunner:
    """Trains a student to minimise the weighted sum of its callbacks' terms.

    Batches are mappings; a model receives the entries that are named in the signature of its `forward`. Outputs of the
    models are added to the batch: the entries of a mapping under their keys with the prefix `s_` or `t_`, anything else
    as `s_logits` or `t_logits`. Hidden states are the output `hidden_states` of a model (transformers:
    `output_hidden_states=True` in its configuration), or the outputs of the layers named here.

    Args:
        student: trained in place.
        teacher: runs in eval mode without gradients (online distillation); None if the batches contain `t_logits`, as
            those of a `DistillationDataset` do (offline).
        callbacks: the terms.
        settings: optimizer, learning rate and its schedule (`scheduler="cosine"`), clipping, accumulation, precision.
        student_layers: paths of the student's modules whose outputs are its hidden states.
        teacher_layers: the teacher's.
        seed: of the order of the data and of dropout: with the same seed the student is the same on the same CPU.
        device: to which both models are moved.

    Raises:
        ConfigurationError: there is no callback, two have the same key, or one has the key 'loss'.

    Examples:
        >>> from autodistill.standalone.callbacks import KLDivCallback, LabelLossCallback
        >>> data = [{"input": torch.randn(8, 4), "labels": torch.randint(0, 3, (8,))} for _ in range(5)]
        >>> callbacks = [KLDivCallback(temperature=2.0, weight=0.5), LabelLossCallback(weight=0.5)]
        >>> history = DistilRunner(nn.Linear(4, 3), nn.Linear(4, 3), callbacks).train(data, steps=10)
        >>> {name: len(values) for name, values in history.items()}
        {'loss': 10, 'kl_div_loss': 10, 'label_loss': 10}
    """

    def __init__(
        self,
        student: nn.Module,
        teacher: nn.Module | None,
        callbacks: Sequence[LossCallback],
        settings: PhaseConfig | None = None,
        *,
        student_layers: Sequence[str] = (),
        teacher_layers: Sequence[str] = (),
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self._keys = [callback.output_key for callback in callbacks]
        repeated = sorted({key for key in self._keys if self._keys.count(key) > 1})
        problems = [f"callbacks need keys of their own, but {key!r} is given twice." for key in repeated]
        if "loss" in self._keys:
            problems.append("'loss' is the key of the sum, but a callback has it; give it another output_key.")
        if not callbacks:
            problems.append("a runner needs at least one callback, but has none.")
        if problems:
            raise ConfigurationError(problems)
        self.device = torch.device(device)
        self.student = student.to(self.device)
        self.teacher = teacher.to(self.device).eval() if teacher is not None else None
        self.callbacks = nn.ModuleList(callbacks).to(self.device)
        self.settings = settings or PhaseConfig()
        self.seed = seed
        self._label_shift: bool | None = None  # found on the first batch
        self._found_masks: Masks | None = None  # the same
        self._student = TapRecorder(student, [Tap(path, AUTO) for path in student_layers], owner="student")
        self._teacher = TapRecorder(teacher or student, [Tap(path, AUTO) for path in teacher_layers], owner="teacher")

    def train(
        self, loader: Iterable[Mapping[str, Any]], steps: int, report: Callable[[int, float], None] | None = None
    ) -> dict[str, list[float]]:
        """Take optimizer steps, iterating over the loader as often as needed.

        Args:
            loader: yields mappings and can be iterated repeatedly; its random order follows the runner's seed.
            steps: number of optimizer updates.
            report: called as `report(step, loss)` every few steps.

        Returns:
            For each step, the `loss` and, under its key, the unweighted term of every callback.

        Raises:
            ConfigurationError: `steps` is below 1, or a batch, an output or a layer is not what a callback needs.
            NonFiniteError: the loss became NaN or infinite.
        """
        if steps < 1:
            raise ConfigurationError(f"training takes at least one step, but steps is {steps}.")
        next_batch, terms = DataStream(loader, self.seed).reader(), []

        def loss_at(step: int, number: int) -> torch.Tensor:
            batch = self._batch(next_batch(number).to(self.device))
            values = torch.stack([callback(batch, step / steps) for callback in self.callbacks])
            terms.append(values.detach())
            return (values * values.new_tensor([callback.weight for callback in self.callbacks])).sum()

        quiet: Callable[[int, float], None] = lambda step, loss: None  # noqa: E731
        loop = StepLoop("distillation", self.settings, steps, self.seed, self.device, report or quiet)
        with plain_forward(self.student), training_only(self.student, [""]) as parameters:
            total = loop.run(parameters, list(self.callbacks.parameters()), loss_at)
        parts = torch.stack(terms).reshape(steps, self.settings.gradient_accumulation_steps, -1).mean(dim=1)
        return {"loss": total} | dict(zip(self._keys, parts.T.tolist(), strict=True))

    def _batch(self, batch: Batch) -> dict[str, Any]:
        """The batch with the outputs of both models added."""
        if not isinstance(batch.content, Mapping):
            raise ConfigurationError(
                "the runner's batches are mappings of argument names to tensors, but the loader gave a "
                f"{type(batch.content).__name__}."
            )
        found = dict(batch.content)
        with self._student as recorder:
            found |= _named("s_", STUDENT_HIDDEN_STATES, recorder, lambda: call_by_names(self.student, batch))
        if self.teacher is not None:
            teacher = self.teacher
            with self._teacher as recorder, torch.no_grad(), plain_forward(teacher):
                found |= _named("t_", TEACHER_HIDDEN_STATES, recorder, lambda: call_by_names(teacher, batch))
        found |= self._masks(batch, found)
        labels = batch.targets
        if isinstance(labels, torch.Tensor):
            if self._label_shift is None:
                self._label_shift = find_label_shift(self.student, batch) is True
            found["labels"] = next_labels(labels) if self._label_shift else labels
        return found

    def _masks(self, batch: Batch, found: Mapping[str, Any]) -> dict[str, Any]:
        """The masks of the student's logits and of its hidden states; none that its layers do not have in common."""
        layers = dict(zip(self._student.taps, found.get(STUDENT_HIDDEN_STATES, ()), strict=False))
        logits = {OUTPUT: found["s_logits"]} if isinstance(found.get("s_logits"), torch.Tensor) else {}
        if self._found_masks is None:
            self._found_masks = find_masks(self.student, logits | layers, named_arguments(self.student, batch))
        find, masks = self._found_masks.of, {}
        for tap, feature in logits.items():
            masks[LOGITS_MASK] = find(tap, feature, batch)
        if layers:
            first, *others = [
                mask.mT if mask is not None and self._found_masks.positions[tap].samples == 1 else mask
                for tap, feature in layers.items()
                for mask in (find(tap, feature, batch),)
            ]
            masks[HIDDEN_STATES_MASK] = first if all(identical(first, other) for other in others) else None
        return masks


def _named(prefix: str, states_key: str, recorder: TapRecorder, forward: Callable[[], Any]) -> dict[str, Any]:
    output: list[Any] = []
    features = recorder.run(lambda: output.append(forward()))
    entries = output[0] if isinstance(output[0], Mapping) else {"logits": main_part(output[0])}
    named = {prefix + key: value for key, value in entries.items()}
    return named | ({states_key: tuple(features[tap] for tap in recorder.taps)} if recorder.taps else {})
