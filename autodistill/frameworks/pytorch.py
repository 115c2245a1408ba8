"""PyTorch for a search: students are built, evaluated, measured, saved and loaded here."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autodistill.batch import Batch
from autodistill.environment import resolve_device
from autodistill.errors import TrialError
from autodistill.frameworks.hook_guard import HookGuard
from autodistill.frameworks.student_files import Shapes, load_student, save_student, shape_problems, tensor_shapes
from autodistill.metrics.built_in import Measurement
from autodistill.metrics.measure import measure
from autodistill.models.fingerprint import model_fingerprint
from autodistill.randomness import isolated_random_state
from autodistill.seeds import derive_seed
from search_spaces import Architecture

ModelBuilder = Callable[[Architecture], nn.Module]
EvalFunction = Callable[[nn.Module], Mapping[str, float] | float]


@dataclass(frozen=True)
class PyTorchFramework:
    """Implements `Framework`.

    Args:
        model_builder: `architecture -> student`.
        eval_func: `student -> metrics`; None if every metric is built in.
        seed: of the search.
        device: on which students are trained and measured. Another process, which has devices of its own, takes the one
            of the same type.
        teacher: timed in turns with the student; no student may share its weights.
        example: the batch that latency and FLOPs are measured with.
        built: the students built so far and still in memory: none may be returned twice.
        guard: undoes what hooks change outside their student.
        chooses_device: another process takes a GPU if it has one, whatever `device` is here.

    Examples:
        >>> framework = PyTorchFramework(lambda sizes: nn.Linear(sizes["width"], 1), None, 0, torch.device("cpu"))
        >>> framework.measure(framework.build({"width": 3}), ["parameters"]).metrics
        {'parameters': 4.0}
    """

    model_builder: ModelBuilder
    eval_func: EvalFunction | None
    seed: int
    device: torch.device
    teacher: nn.Module | None = None
    example: Batch | None = None
    built: weakref.WeakSet[nn.Module] = field(default_factory=weakref.WeakSet, repr=False, compare=False)
    guard: HookGuard = field(default_factory=HookGuard, repr=False, compare=False)
    chooses_device: bool = False

    def build(self, architecture: Architecture) -> nn.Module:
        """The student of an architecture, on the device; built in the same random state in every trial."""
        with isolated_random_state(derive_seed(self.seed, "model_builder")):
            student = self.model_builder(dict(architecture))
        if not isinstance(student, nn.Module):
            raise TrialError(f"model_builder must return an nn.Module, but returned {type(student).__name__}.")
        student = student.to(self.device)
        self._check_new(student)
        self.built.add(student)
        return student

    def _check_new(self, student: nn.Module) -> None:
        if student in self.built:
            raise TrialError(
                "model_builder must build a new model each time, but returned one that it had returned before."
            )
        if self.teacher is None:
            return
        teachers = {parameter.data_ptr(): name for name, parameter in self.teacher.named_parameters()}
        for name, parameter in student.named_parameters():
            if parameter.numel() and parameter.data_ptr() in teachers:
                raise TrialError(
                    f"model_builder must return a model of its own weights, but its {name!r} is the teacher's "
                    f"{teachers[parameter.data_ptr()]!r}, which would be trained; use copy.deepcopy."
                )

    def tensor_shapes(self, model: nn.Module) -> Shapes:
        """The names and shapes of parameters and buffers."""
        return tensor_shapes(model)

    def finish(self, trained: Any, shapes: Shapes | None = None) -> nn.Module:
        """A trained model in eval mode."""
        if not isinstance(trained, nn.Module):
            raise TrialError(f"train_func must return the trained model, but returned {type(trained).__name__}.")
        problems = [] if shapes is None else shape_problems(shapes, tensor_shapes(trained))
        if problems:
            raise TrialError(
                "a student is saved and loaded into what model_builder returns, so train_func must return a model with "
                f"the tensors that its argument had, but {'; '.join(problems)}; change the model in model_builder, "
                "merge what train_func adds (merge_and_unload), or do not keep students (keep='none')."
            )
        return trained.eval()

    def evaluate(self, model: nn.Module, seed: int) -> Any:
        """What `eval_func` returns, a mapping or a number.

        It runs without gradients, in a random state that derives from the seed.
        """
        if self.eval_func is None:
            return {}
        with isolated_random_state(derive_seed(seed, "evaluation")), torch.no_grad():
            return self.eval_func(model)

    def measure(self, model: nn.Module, names: Sequence[str]) -> Measurement:
        """Built-in metrics, on the example batch and in turns with the teacher."""
        return measure(model, names, example=self.example, teacher=self.teacher)

    def save(self, model: nn.Module, architecture: Architecture, directory: Path) -> None:
        """Write a student, with its own `save_pretrained` if it has one."""
        save_student(model, architecture, directory)

    def load(self, architecture: Architecture, directory: Path) -> nn.Module:
        """The student that `save` wrote, in eval mode on the device."""
        return load_student(self.build(architecture), directory)

    def random_state(self, seed: int) -> AbstractContextManager[None]:
        """The global states of Python, NumPy and PyTorch."""
        return isolated_random_state(seed)

    def isolated(self, *, verified: bool = False) -> AbstractContextManager[None]:
        """Within the context hooks run; afterwards the settings of the process and the teacher are as before."""
        return self.guard.isolated(self.teacher, verified=verified)

    def check_teacher(self) -> None:
        """Raise an error if the teacher is not as it was when the search began."""
        self.guard.check(self.teacher)

    def fingerprint(self, model: nn.Module) -> str:
        """A hash of class, configuration, weights and buffers."""
        return model_fingerprint(model)

    def place(self) -> None:
        """Put the teacher on the device."""
        if self.teacher is not None:
            self.teacher.to(self.device)

    def __getstate__(self) -> dict[str, Any]:
        """For another process, which has built nothing yet."""
        device = "auto" if self.chooses_device else self.device.type
        return self.__dict__ | {"built": None, "guard": None, "device": device}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = {"built": weakref.WeakSet(), "guard": HookGuard(), "device": resolve_device(state["device"])}
        self.__dict__.update(state | own)
