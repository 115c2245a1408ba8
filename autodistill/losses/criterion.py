"""What the two criteria have in common: the models they compare, and how the engine calls them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.errors import ConfigurationError
from autodistill.losses.top_k import TeacherFeatures
from autodistill.models.layer_mappings import LayerMapping
from autodistill.models.masks import Masks
from autodistill.models.modes import evaluating, plain_forward
from autodistill.models.taps import Tap, TapRecorder

Features = Mapping[Tap, torch.Tensor]


@dataclass(frozen=True)
class TrainingStep:
    """What the loss of one step of built-in training depends on, apart from the features.

    Attributes:
        batch: what the student was called with.
        temperature: of this step.
        output: what the student returned; None if its full forward did not run.
    """

    batch: Batch
    temperature: float
    output: Any = None


class Criterion(nn.Module, ABC):
    """A criterion that compares a student with a teacher.

    The two models are attributes but not submodules: the criterion's parameters, state and training mode exclude them.
    In a custom training loop it is called as `criterion(student_outputs, targets)` after
    `criterion.teacher_model_forward(inputs)`; built-in training calls `step_loss`.

    Args:
        student_model: the student; None if features or outputs are passed in.
        teacher_model: the teacher.
        temperature: T of the losses between logits; may be changed at any step.

    Attributes:
        masks: which positions of the student's features count; None until the first loss that needs them.
    """

    layer_mappings: tuple[LayerMapping, ...] = ()

    def __init__(self, student_model: nn.Module | None, teacher_model: nn.Module | None, temperature: float) -> None:
        super().__init__()
        self.student_model = student_model
        self.teacher_model = teacher_model
        self.temperature = temperature
        self.feature_matchers = nn.ModuleList()
        self.masks: Masks | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("student_model", "teacher_model"):  # else PyTorch registers them as submodules
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    @property
    def student_taps(self) -> list[Tap]:
        """The student's mapped taps, each once."""
        return list(dict.fromkeys(mapping.student for mapping in self.layer_mappings))

    @property
    def teacher_taps(self) -> list[Tap]:
        """The teacher's mapped taps, each once."""
        return list(dict.fromkeys(mapping.teacher for mapping in self.layer_mappings))

    @abstractmethod
    def step_loss(self, student: Features, teacher: TeacherFeatures, step: TrainingStep) -> torch.Tensor:
        """The loss of one step of built-in training, a scalar.

        Args:
            student: a feature for each mapped layer of the student, with its autograd graph.
            teacher: a feature for each mapped layer of the teacher.
            step: what else the loss depends on.
        """

    def _teacher(self, teacher_model: nn.Module | None) -> nn.Module:
        teacher = teacher_model if teacher_model is not None else self.teacher_model
        if teacher is None:
            raise ConfigurationError(
                f"{type(self).__name__} needs a teacher to run, but there is none; pass teacher_model."
            )
        return teacher


@torch.no_grad()
def run_in_eval(model: nn.Module, inputs: Any) -> Any:
    """What a model returns, in eval mode and without gradients; its training modes are restored.

    Args:
        model: any model.
        inputs: a mapping (keyword arguments), a tuple (arguments), or the only argument.

    Examples:
        >>> run_in_eval(nn.Dropout(0.99), torch.ones(2))
        tensor([1., 1.])
    """
    with evaluating(model):
        return run_plain(model, inputs)


def run_plain(model: nn.Module, inputs: Any) -> Any:
    """What a model returns in its present mode, with its modules run one by one (see `plain_forward`).

    Args:
        model: any model.
        inputs: a mapping (keyword arguments), a tuple (arguments), or the only argument.

    Examples:
        >>> run_plain(nn.ReLU(), {"input": torch.ones(2)})
        tensor([1., 1.])
    """
    with plain_forward(model):
        if isinstance(inputs, Mapping):
            return model(**inputs)
        return model(*inputs) if isinstance(inputs, tuple | list) else model(inputs)


def features_of(model: nn.Module, taps: Iterable[Tap], owner: str, inputs: Any) -> Features:
    """The features of one run in eval mode and without gradients.

    Args:
        model: any model.
        taps: what to record.
        owner: the name of the model in messages.
        inputs: see `run_in_eval`.

    Raises:
        ConfigurationError: a mapped layer does not exist, or does not run.

    Examples:
        >>> features = features_of(nn.Sequential(nn.ReLU()), [Tap("0")], "model", torch.tensor([-1.0, 1.0]))
        >>> features[Tap("0")]
        tensor([0., 1.])
    """
    with TapRecorder(model, taps, owner=owner) as recorder:
        return recorder.run(lambda: run_in_eval(model, inputs))
