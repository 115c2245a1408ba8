"""A small runner: trains a student with a frozen teacher on batches of mappings; its loss is a sum of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch, next_labels
from autodistill.config.phase import PhaseConfig
from autodistill.data_stream import DataStream
from autodistill.distillation.step_loop import StepLoop
from autodistill.errors import ConfigurationError
from autodistill.losses.functions import in_full, label_cross_entropy
from autodistill.losses.origin_loss import origin_loss
from autodistill.models.calls import call_by_names, named_arguments
from autodistill.models.label_shift import find_label_shift
from autodistill.models.masks import OUTPUT, Masks, find_masks
from autodistill.models.modes import evaluating, plain_forward, training_only
from autodistill.models.taps import AUTO, Tap, TapRecorder, main_part
from autodistill.randomness import isolated_random_state
from autodistill.standalone.callbacks import (
    HIDDEN_STATES_MASK,
    LOGITS_MASK,
    STUDENT_HIDDEN_STATES,
    TEACHER_HIDDEN_STATES,
    LossCallback,
)
from autodistill.tensors import identical

BatchMetric = Callable[[Mapping[str, Any]], Any]
"""A metric of a batch with the outputs of both models: a number, or a tensor with one element."""


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
        num_train_teacher_epochs: the first call of `train` trains the teacher first, for this many passes over the
            loader, by the loss that it returns or else by cross-entropy with the labels, with the same settings; None
            leaves it as it is.

    Raises:
        ConfigurationError: there is no callback, two have the same key, one has the key 'loss', or there is no teacher
            to train.

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
        num_train_teacher_epochs: int | None = None,
    ) -> None:
        self._keys = [callback.output_key for callback in callbacks]
        repeated = sorted({key for key in self._keys if self._keys.count(key) > 1})
        problems = [f"callbacks need keys of their own, but {key!r} is given twice." for key in repeated]
        if "loss" in self._keys:
            problems.append("'loss' is the key of the sum, but a callback has it; give it another output_key.")
        if not callbacks:
            problems.append("a runner needs at least one callback, but has none.")
        if num_train_teacher_epochs is not None and (teacher is None or num_train_teacher_epochs < 1):
            problems.append(
                f"num_train_teacher_epochs needs a teacher and at least one epoch, but got {num_train_teacher_epochs} "
                f"with teacher={type(teacher).__name__}."
            )
        if problems:
            raise ConfigurationError(problems)
        self.num_train_teacher_epochs = num_train_teacher_epochs
        self.device = torch.device(device)
        self.student = student.to(self.device)
        self.teacher = teacher.to(self.device).eval() if teacher is not None else None
        self.callbacks = nn.ModuleList(callbacks).to(self.device)
        self.settings = settings or PhaseConfig()
        self.seed = seed
        self._label_shift: bool | None = None  # found on the first batch
        self._found_masks: Masks | None = None  # likewise
        self._student = TapRecorder(student, [Tap(path, AUTO) for path in student_layers], owner="student")
        self._teacher = TapRecorder(teacher or student, [Tap(path, AUTO) for path in teacher_layers], owner="teacher")

    def train(
        self,
        loader: Iterable[Mapping[str, Any]],
        steps: int,
        report: Callable[[int, float], None] | None = None,
        *,
        valid_loader: Iterable[Mapping[str, Any]] | None = None,
        metrics: Mapping[str, BatchMetric] | None = None,
        valid_steps: int | None = None,
    ) -> dict[str, list[float]]:
        """Take optimizer steps, iterating over the loader as often as needed; first train the teacher, if configured.

        Args:
            loader: yields mappings and can be iterated repeatedly; its random order follows the runner's seed.
            steps: number of optimizer updates.
            report: called as `report(step, loss)` every few steps.
            valid_loader: batches on which `evaluate` runs after the last step. It changes no weight of the student.
            metrics: see `evaluate`.
            valid_steps: the number of steps after which `evaluate` runs each time; None for the end only.

        Returns:
            For each step, the `loss` and, under its key, the unweighted term of every callback. For each validation,
            the entries of `evaluate` with the prefix `valid_`; for each step of the teacher's training `teacher_loss`.

        Raises:
            ConfigurationError: `steps` or `valid_steps` is below 1, or a batch, an output or a layer is not what a
                callback needs.
            NonFiniteError: the loss became NaN or infinite.
        """
        if steps < 1 or (valid_steps is not None and valid_steps < 1):
            raise ConfigurationError(
                f"training takes at least one step, but steps is {steps} and valid_steps is {valid_steps}."
            )
        taught, validated = self._train_teacher(loader), dict[str, list[float]]()
        next_batch, terms = DataStream(loader, self.seed).reader(), []
        accumulated = self.settings.gradient_accumulation_steps

        def validate() -> None:
            for name, value in self.evaluate(valid_loader or (), metrics).items():
                validated.setdefault(f"valid_{name}", []).append(value)

        def loss_at(step: int, number: int) -> torch.Tensor:
            begins = number == step * accumulated
            if valid_loader is not None and step and begins and step % (valid_steps or steps) == 0:
                validate()
            batch = self._batch(next_batch(number).to(self.device))
            values = self._terms(batch, step / steps)
            terms.append(values.detach())
            return self._sum(values)

        quiet: Callable[[int, float], None] = lambda step, loss: None  # noqa: E731
        loop = StepLoop("distillation", self.settings, steps, self.seed, self.device, report or quiet)
        with plain_forward(self.student), training_only(self.student, [""]) as parameters:
            total = loop.run(parameters, list(self.callbacks.parameters()), loss_at)
        if valid_loader is not None:
            validate()
        parts = torch.stack(terms).reshape(steps, accumulated, -1).mean(dim=1)
        return {"loss": total} | dict(zip(self._keys, parts.T.tolist(), strict=True)) | validated | taught

    @torch.no_grad()
    def evaluate(
        self, loader: Iterable[Mapping[str, Any]], metrics: Mapping[str, BatchMetric] | None = None
    ) -> dict[str, float]:
        """The mean over the samples of a loader of the loss, of every term, and of metrics, with both models in eval.

        Args:
            loader: yields mappings; neither the program's random state nor a model's mode changes.
            metrics: by name, functions of a batch, to which the outputs of the models have been added, that return a
                number, such as the accuracy of `batch["s_logits"]` against `batch["labels"]`.

        Raises:
            ConfigurationError: the loader yields no batch, or a name is that of a term.

        Examples:
            >>> from autodistill.standalone.callbacks import LabelLossCallback
            >>> runner = DistilRunner(nn.Identity(), None, [LabelLossCallback()])
            >>> accuracy = lambda batch: (batch["s_logits"].argmax(-1) == batch["labels"]).float().mean()
            >>> data = [{"input": torch.eye(2), "labels": torch.tensor([0, 0])}]
            >>> sorted(runner.evaluate(data, {"accuracy": accuracy}).items())[0]
            ('accuracy', 0.5)
        """
        metrics = metrics or {}
        repeated = [name for name in metrics if name in ("loss", *self._keys)]
        if repeated:
            raise ConfigurationError(f"metrics have names of their own, but {', '.join(repeated)} are those of terms.")
        sums, samples = dict[str, float](), 0
        with isolated_random_state(self.seed), evaluating(self.student, self.callbacks), plain_forward(self.student):
            for content in loader:
                received = Batch(content).to(self.device)
                batch = self._batch(received)
                values = self._terms(batch, 1.0)
                found = {"loss": self._sum(values), **dict(zip(self._keys, values, strict=True))}
                found |= {name: metric(batch) for name, metric in metrics.items()}
                sums = {name: sums.get(name, 0.0) + float(value) * received.size for name, value in found.items()}
                samples += received.size
        if not samples:
            raise ConfigurationError("validation needs at least one sample, but the loader yielded none.")
        return {name: value / samples for name, value in sums.items()}

    def _terms(self, batch: Mapping[str, Any], progress: float) -> torch.Tensor:
        return torch.stack([callback(batch, progress) for callback in self.callbacks])

    def _sum(self, terms: torch.Tensor) -> torch.Tensor:
        return (terms * terms.new_tensor([callback.weight for callback in self.callbacks])).sum()

    def _train_teacher(self, loader: Iterable[Any]) -> dict[str, list[float]]:
        """Train the teacher if configured and return the losses; it is in eval mode afterwards."""
        teacher, epochs = self.teacher, self.num_train_teacher_epochs
        if teacher is None or epochs is None:
            return {}
        if not isinstance(loader, Sized):
            raise ConfigurationError(
                f"num_train_teacher_epochs needs a loader with a length, but {type(loader).__name__} has none."
            )
        next_batch = DataStream(loader, self.seed).reader()

        def loss_at(step: int, number: int) -> torch.Tensor:
            batch = next_batch(number).to(self.device)
            return origin_loss(call_by_names(teacher, batch), batch, _label_loss)

        steps = max(1, epochs * len(loader) // self.settings.gradient_accumulation_steps)
        loop = StepLoop(
            "training of the teacher", self.settings, steps, self.seed, self.device, lambda step, loss: None
        )
        with plain_forward(teacher), training_only(teacher, [""]) as parameters:
            losses = loop.run(parameters, [], loss_at)
        teacher.eval()
        self.num_train_teacher_epochs = None  # a further call of `train` continues with the trained teacher
        return {"teacher_loss": losses}

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
        """The masks of the student's logits and of its hidden states; of the latter only one that all layers share."""
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


def _label_loss(output: Any, labels: torch.Tensor) -> torch.Tensor:
    return label_cross_entropy(in_full(main_part(output)), labels)


def _named(prefix: str, states_key: str, recorder: TapRecorder, forward: Callable[[], Any]) -> dict[str, Any]:
    output: list[Any] = []
    features = recorder.run(lambda: output.append(forward()))
    entries = output[0] if isinstance(output[0], Mapping) else {"logits": main_part(output[0])}
    named = {prefix + key: value for key, value in entries.items()}
    return named | ({states_key: tuple(features[tap] for tap in recorder.taps)} if recorder.taps else {})
