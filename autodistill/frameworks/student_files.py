"""Trained students on disk: weights and architecture, with the model's own `save_pretrained` if it has one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from autodistill.errors import ConfigurationError
from autodistill.files import replacing, write_json
from autodistill.models.devices import device_of
from search_spaces import Architecture

WEIGHTS_FILE = "model.safetensors"


ARCHITECTURE_FILE = "architecture.json"


def save_student(student: nn.Module, architecture: Architecture, directory: Path) -> None:
    """Write a student into its own directory, completely or not at all; an earlier one is replaced.

    Args:
        student: its `save_pretrained` is used if it has one (transformers models); otherwise `model.safetensors` is
            written.
        architecture: written to the same directory as `architecture.json`.
        directory: created by this function.
    """
    student = getattr(student, "_orig_mod", student)  # as torch.compile wraps it
    directory.parent.mkdir(parents=True, exist_ok=True)
    with replacing(directory) as temporary:
        temporary.mkdir()
        if _is_pretrained(student):
            student.save_pretrained(temporary)  # type: ignore[operator]
        else:
            save_model(student, str(temporary / WEIGHTS_FILE))
        write_json(temporary / ARCHITECTURE_FILE, architecture)


def load_student(student: nn.Module, directory: Path) -> nn.Module:
    """The student that was saved, in eval mode.

    Args:
        student: a new model of the saved architecture; the weights are loaded into it, or by its class.
        directory: in which `save_student` wrote it.

    Raises:
        ConfigurationError: the weights are those of a model of another structure.
    """
    if _is_pretrained(student):
        loaded: Any = type(student).from_pretrained(directory)  # type: ignore[attr-defined]
        return loaded.to(device_of(student)).eval()  # type: ignore[no-any-return]
    weights = directory / WEIGHTS_FILE
    with safe_open(weights, framework="pt") as file:
        kinds = {file.get_tensor(key).dtype for key in file.keys()}  # noqa: SIM118
    floating = [kind for kind in kinds if kind.is_floating_point]
    if len(floating) == 1:
        student = student.to(floating[0])  # train_func may have changed the precision
    try:
        load_model(student, str(weights), device=str(device_of(student)))
    except RuntimeError as error:
        raise ConfigurationError(
            f"a student can be loaded into what model_builder returns, but {weights} has other weights; "
            f"train_func must return the model it was given, without a wrapper: {error}"
        ) from None
    return student.eval()


def _is_pretrained(student: nn.Module) -> bool:
    return hasattr(student, "save_pretrained") and hasattr(type(student), "from_pretrained")
