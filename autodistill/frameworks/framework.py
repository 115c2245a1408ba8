"""The interface between a search and the library of its models: everything that uses tensors, and nothing else.

`search/` uses models only through this protocol, so that it imports no tensor library. `frameworks.pytorch` implements
it for PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

from autodistill.metrics.built_in import Measurement
from search_spaces import Architecture


class Framework(Protocol):
    """Builds, evaluates, measures, saves and loads students."""

    def build(self, architecture: Architecture) -> Any:
        """The student of an architecture, on its device; built in the same random state in every trial.

        Raises:
            TrialError: `model_builder` returned something other than a model, or not a new one.
        """

    def tensor_shapes(self, model: Any) -> Mapping[str, tuple[int, ...] | None]:
        """The names and shapes of a model's tensors; None for a shape that its first input determines."""

    def finish(self, trained: Any, shapes: Mapping[str, tuple[int, ...] | None] | None = None) -> Any:
        """A trained model, ready to be evaluated, measured and saved.

        Args:
            trained: what the training returned.
            shapes: of the student that was built, into which the trained one will be loaded; None if it will not be.

        Raises:
            TrialError: the training returned something other than a model, or a model with other tensors.
        """

    def evaluate(self, model: Any, seed: int) -> Mapping[str, Any]:
        """The metrics that the user's `eval_func` returns for a model; none if there is no `eval_func`.

        Raises:
            TrialError: `eval_func` did not return a mapping.
        """

    def measure(self, model: Any, names: Sequence[str]) -> Measurement:
        """Built-in metrics of a model.

        Raises:
            ConfigurationError: a metric needs an example batch or a teacher, and there is none.
        """

    def save(self, model: Any, architecture: Architecture, directory: Path) -> None:
        """Write a student into its own directory, completely or not at all; it is on disk when this returns."""

    def load(self, architecture: Architecture, directory: Path) -> Any:
        """The student that `save` wrote, ready for use.

        Raises:
            ConfigurationError: the weights are those of a model of another structure.
            SearchDirectoryError: its files cannot be read.
        """

    def random_state(self, seed: int) -> AbstractContextManager[None]:
        """Within the context all global random states are seeded; afterwards they are as before."""

    def isolated(self, *, verified: bool = False) -> AbstractContextManager[None]:
        """Within the context hooks run; afterwards the settings of the process and the teacher are as before.

        Args:
            verified: whether the teacher's weights are checked afterwards: they cannot be restored.

        Raises:
            TeacherChangedError: a hook changed them.
            TrialError: a hook called `sys.exit`.
        """

    def check_teacher(self) -> None:
        """Raise an error if the teacher is not as it was when the search began.

        Raises:
            TeacherChangedError: a hook changed its weights.
        """

    def place(self) -> None:
        """Called in a process that has received this framework: put the teacher on the device of this process."""

    def fingerprint(self, model: Any) -> str:
        """A hash of everything that the model's results depend on."""
